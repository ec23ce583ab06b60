// Package health serves probes and metrics: /livez, /readyz[?verbose] and /metrics, and nothing else. Whoever can
// reach the pod can read it, so it says nothing secret.
package health

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"

	"github.com/oo-sidecar/oo-sidecar/internal/listen"
)

// Check is one reason why the sidecar might not be ready.
type Check struct {
	Name string
	Err  func() error // nil: fine. Its text is shown to everyone who asks; it must not block
}

// Line is one fact that /readyz?verbose shows.
type Line struct{ Key, Value string }

// Handler serves the probes.
type Handler struct {
	Checks  []Check
	Lines   func() []Line // may be nil
	Metrics http.Handler  // may be nil
}

// Routes returns the handler with the rules of its listener around it.
func (h *Handler) Routes() http.Handler {
	return listen.Hosts{AnyIP: true}.Guard(http.HandlerFunc(h.serve))
}

func (h *Handler) serve(w http.ResponseWriter, r *http.Request) {
	serve := h.route(r.URL.Path)
	if serve == nil {
		http.NotFound(w, r)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "only GET and HEAD", http.StatusMethodNotAllowed)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	serve(w, r)
}

func (h *Handler) route(path string) http.HandlerFunc {
	switch path {
	case "/livez":
		return live
	case "/readyz":
		return h.ready
	case "/metrics":
		if h.Metrics != nil {
			return h.Metrics.ServeHTTP
		}
	}
	return nil
}

// live says that the process answers. It looks at nothing: a restart mends neither a full disk nor a lost Redis.
func live(w http.ResponseWriter, _ *http.Request) { text(w, http.StatusOK, "ok\n") }

func (h *Handler) ready(w http.ResponseWriter, r *http.Request) {
	var failed []string
	var all bytes.Buffer
	for _, c := range h.Checks {
		err := c.Err()
		if err == nil {
			fmt.Fprintf(&all, "[+] %s ok\n", c.Name)
			continue
		}
		failed = append(failed, c.Name)
		fmt.Fprintf(&all, "[-] %s: %s\n", c.Name, oneLine(err.Error()))
	}
	status, verdict := http.StatusOK, "ok\n"
	if failed != nil {
		status, verdict = http.StatusServiceUnavailable, "not ready: "+strings.Join(failed, ", ")+"\n"
	}
	if !r.URL.Query().Has("verbose") {
		text(w, status, verdict)
		return
	}
	if h.Lines != nil {
		for _, l := range h.Lines() {
			fmt.Fprintf(&all, "%s: %s\n", l.Key, oneLine(l.Value))
		}
	}
	text(w, status, all.String()+verdict)
}

func text(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	fmt.Fprint(w, body)
}

// oneLine keeps a value from looking like another line.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}
