package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/oo-sidecar/oo-sidecar/config"
)

// maxRunLog is when a log is begun anew, in bytes.
const maxRunLog = 4 << 20

// starting is a sidecar that this `run` has started in the background.
type starting struct {
	process *os.Process
	ended   chan struct{} // closed when it has
	log     string
	from    int64 // where its part of the log begins
}

// startSidecar starts a sidecar that outlives this process and is no child of its terminal. Whoever joins it first
// keeps it; when nobody does it ends by itself.
func startSidecar(p *plan) (*starting, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	log, err := openRunLog(p.asRun)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	from, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	args := []string{"serve", "--" + forRunsFlag}
	if p.path != "" {
		args = append(args, "--config", p.path)
	}
	cmd := exec.Command(self, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("the sidecar cannot be started: %w", err)
	}
	s := &starting{process: cmd.Process, ended: make(chan struct{}), log: log.Name(), from: from}
	go func() {
		_ = cmd.Wait()
		close(s.ended)
	}()
	return s, nil
}

func openRunLog(cfg *config.Config) (*os.File, error) {
	path := runLog(cfg)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	flags := os.O_CREATE | os.O_WRONLY | os.O_APPEND
	if info, err := os.Stat(path); err == nil && info.Size() > maxRunLog {
		flags |= os.O_TRUNC
	}
	return os.OpenFile(path, flags, 0o600)
}

// dismiss ends it: another `run`'s sidecar was faster, and is used. One that is late would find the directory free once
// all have ended, and wait there for nobody.
func (s *starting) dismiss() { _ = s.process.Signal(syscall.SIGTERM) }

// exited is closed when the process has ended; nil when none was started.
func (s *starting) exited() <-chan struct{} {
	if s == nil {
		return nil
	}
	return s.ended
}

// explain is what the sidecar said at its end.
func (s *starting) explain() error {
	said := ""
	if f, err := os.Open(s.log); err == nil {
		defer f.Close()
		if _, err := f.Seek(s.from, io.SeekStart); err == nil {
			data, _ := io.ReadAll(io.LimitReader(f, 64<<10))
			for line := range strings.Lines(string(data)) {
				if rest, ours := strings.CutPrefix(line, "oo-sidecar: "); ours {
					said = strings.TrimSpace(rest)
				}
			}
		}
	}
	if said == "" {
		said = "it said nothing"
	}
	return fmt.Errorf("the sidecar could not be started: %s (log: %s)", said, s.log)
}
