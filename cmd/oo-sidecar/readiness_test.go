package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/config"
	"github.com/oo-sidecar/oo-sidecar/internal/health"
)

// TestReadinessIsLogged: the log says once when calls begin to be refused, with the mend, and once when it is over.
func TestReadinessIsLogged(t *testing.T) {
	var broken atomic.Pointer[error]
	check := health.Check{Name: "store", Err: func() error {
		if err := broken.Load(); err != nil {
			return *err
		}
		return nil
	}}
	r, w := io.Pipe()
	s := &sidecar{log: slog.New(slog.NewJSONHandler(w, nil)), health: &health.Handler{Checks: []health.Check{check}}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { s.watchReadiness(ctx, time.Millisecond); w.Close(); close(done) }()
	lines := bufio.NewScanner(r)
	full := errors.New("no space left on /data; free space")
	for range 2 {
		broken.Store(&full)
		if !lines.Scan() || !strings.Contains(lines.Text(), `"not ready: `) || !strings.Contains(lines.Text(), full.Error()) {
			t.Fatal(lines.Text())
		}
		broken.Store(nil)
		if !lines.Scan() || !strings.Contains(lines.Text(), `"ready again"`) {
			t.Fatal(lines.Text())
		}
	}
	cancel()
	for lines.Scan() {
		t.Error("said again: ", lines.Text())
	}
	<-done
}

// TestErrorsAreOneLineForPeople: an error names the thing and the mend, not the lines of this program.
func TestErrorsAreOneLineForPeople(t *testing.T) {
	var b strings.Builder
	newLogger(config.LogConfig{Level: "info", Format: "json"}, &b).Error("the configuration was not reloaded", "error", "oo-sidecar.yaml:5:1: x")
	if out := b.String(); strings.Contains(out, "stacktrace") || !strings.Contains(out, "oo-sidecar.yaml:5:1: x") {
		t.Fatal(out)
	}
}

// TestControlPlaneKeepsItOff: an agent enabled here that the control plane has switched off is not told of as on.
func TestControlPlaneKeepsItOff(t *testing.T) {
	var b strings.Builder
	s := &sidecar{log: newLogger(config.LogConfig{Level: "info", Format: "json"}, &b), control: &controlled{}}
	s.control.said.Store(&said{off: map[string]bool{"billing": true}})
	s.ownSwitch("billing", false) // has neither metrics nor store: it must touch neither
	if out := b.String(); strings.Contains(out, `"disabled":false`) || !strings.Contains(out, "keeps it off") {
		t.Fatal(out)
	}
}
