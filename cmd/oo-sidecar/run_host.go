package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/oo-sidecar/oo-sidecar/config"
	"github.com/oo-sidecar/oo-sidecar/internal/api"
)

// host is the sidecar that a child of `run` uses.
type host struct {
	cfg         *config.Config
	client      *client
	agent       string
	user, token string    // the child's proxy user; empty: none is needed
	process     int       // the sidecar's
	started     bool      // by `run`, this one or another: user is this child's alone
	held        io.Closer // the connection that the proxy user lasts as long as; nil unless started
}

var (
	errNobody = errors.New("no sidecar answers")
	errEnding = errors.New("the sidecar of the last run is still ending")
)

// Bounds of the search for a sidecar.
const (
	startPatience = 15 * time.Second       // for one that was started, or for one that ends
	startPause    = 20 * time.Millisecond  // between two looks
	startTries    = 3                      // a start may fail because another `run` was faster
	leavePatience = 3 * time.Second        // for the end of a sidecar whose last run was this one
	dialPatience  = 500 * time.Millisecond // for a connection on loopback
)

// host finds the sidecar of this configuration or starts it. Several `run`s at once may try: one sidecar wins the
// addresses, and the others' find it.
func (a *app) host(ctx context.Context, agent string) (*host, error) {
	p, err := a.plan()
	if err != nil {
		return nil, err
	}
	if _, port, _ := net.SplitHostPort(p.asRun.API.Listen); port == "0" {
		return nil, exit{2, errors.New("api.listen: run finds the sidecar by this address: choose a port other than 0")}
	}
	var own *starting
	var failed error
	tries, deadline := 0, time.Now().Add(startPatience)
	for {
		h, err := p.find(ctx, agent)
		switch {
		case errors.Is(err, errNobody) && own == nil:
			if tries++; tries > startTries {
				return nil, exit{1, failed}
			}
			if own, err = startSidecar(p); err != nil {
				return nil, exit{1, err}
			}
		case errors.Is(err, errEnding):
			deadline = time.Now().Add(startPatience)
		case !errors.Is(err, errNobody):
			if err == nil && own != nil && h.process != own.process.Pid {
				own.dismiss()
			}
			return h, err
		}
		select {
		case <-own.exited():
			failed, own = own.explain(), nil
		case <-time.After(startPause):
		case <-ctx.Done():
			return nil, exit{130, nil}
		}
		if time.Now().After(deadline) {
			return nil, exit{1, fmt.Errorf("the sidecar was not up within %s; see %s", startPatience, runLog(p.asRun))}
		}
	}
}

// find asks who answers at the api's address. It is used only when its configuration is this one.
func (p *plan) find(ctx context.Context, agent string) (*host, error) {
	address := dialable(p.asRun.API.Listen)
	conn, err := net.DialTimeout("tcp", address, dialPatience)
	if err != nil {
		if errors.Is(err, syscall.ECONNREFUSED) {
			return nil, errNobody
		}
		return nil, unreachable(address, err)
	}
	conn.Close()
	key, where, err := config.OperatorKey(p.asRun)
	if err != nil {
		return nil, exit{2, fmt.Errorf("something answers at %s, but not a sidecar of this configuration: %w", address, err)}
	}
	h := &host{client: &client{address: address, key: key, where: where, http: direct(10 * time.Second)}}
	var st api.Status
	if err := h.client.call(ctx, http.MethodGet, "/v1/status", nil, &st); err != nil {
		if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.EOF) {
			return nil, errNobody // it was ending, or failed to start
		}
		return nil, err
	}
	h.process = st.Process
	switch st.Digest {
	case configDigest(p.asRun):
		h.cfg = p.asRun
	case configDigest(p.asServe):
		h.cfg = p.asServe
	default:
		return nil, exit{2, fmt.Errorf("the sidecar at %s runs with another configuration (%s): stop it, run with that one, or choose other addresses", address, orBuiltin(st.Config))}
	}
	if st.Runs == nil {
		h.agent = h.cfg.Agent.ID
		if h.user, h.token, err = proxyUser(h.cfg, agent); err != nil {
			return nil, exit{2, err}
		}
		if h.user != "" {
			h.agent = h.user
		}
		return h, nil
	}
	return h, h.join(ctx, agent)
}

func orBuiltin(path string) string {
	if path == "" {
		return "the built-in one"
	}
	return printable(path)
}

// join makes this child's proxy user, which lasts as long as the connection.
func (h *host) join(ctx context.Context, agent string) error {
	body, err := json.Marshal(map[string]string{"agent_id": agent})
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(context.WithoutCancel(ctx), http.MethodPost, "http://"+h.client.address+"/v1/guests", bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer "+h.client.key)
	resp, err := direct(0).Do(r)
	if err != nil {
		return errNobody
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		data, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
		if resp.StatusCode == http.StatusServiceUnavailable {
			return errEnding
		}
		return h.client.refused(resp.StatusCode, data)
	}
	var run api.Run
	if err := json.NewDecoder(resp.Body).Decode(&run); err != nil {
		resp.Body.Close()
		return errNobody
	}
	h.started, h.held = true, resp.Body
	h.agent, h.user, h.token = run.Agent, run.User, run.Token
	return nil
}

// leave gives the proxy user back. When this was the last run it waits a little for the sidecar's end, so that who
// follows finds the addresses free.
func (h *host) leave() {
	if h.held == nil {
		return
	}
	defer h.held.Close()
	var said struct{ Left int }
	ctx, cancel := context.WithTimeout(context.Background(), leavePatience)
	defer cancel()
	if h.client.call(ctx, http.MethodDelete, "/v1/guests/"+url.PathEscape(h.user), nil, &said) != nil || said.Left > 0 {
		return
	}
	h.held.Close()
	for ctx.Err() == nil {
		conn, err := net.DialTimeout("tcp", h.client.address, dialPatience)
		if err != nil {
			return
		}
		conn.Close()
		time.Sleep(startPause) // another process ends: there is nothing to wait on
	}
}

// sameUser says whether the sidecar runs as the user that asks, who can then read its keys.
func sameUser(ctx context.Context, cfg *config.Config) bool {
	said, err := verbose(ctx, cfg)
	return err == nil && said.facts["user"] == fmt.Sprint(syscall.Getuid())
}

// readiness is what /readyz?verbose says.
type readiness struct {
	ready bool
	facts map[string]string
	text  string
	date  time.Time // of the answer, by the sidecar's clock
}

// verbose asks the health listener, which takes no key.
func verbose(ctx context.Context, cfg *config.Config) (*readiness, error) {
	address := dialable(cfg.Health.Listen)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/readyz?verbose", nil)
	if err != nil {
		return nil, err
	}
	resp, err := direct(5 * time.Second).Do(r)
	if err != nil {
		return nil, unreachable(address, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return nil, unreachable(address, err)
	}
	said := &readiness{ready: resp.StatusCode == http.StatusOK, facts: map[string]string{}, text: string(data)}
	said.date, _ = http.ParseTime(resp.Header.Get("Date"))
	for line := range strings.Lines(said.text) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), ": "); ok {
			said.facts[key] = printable(value)
		}
	}
	if said.facts["instance"] == "" {
		return nil, exit{1, fmt.Errorf("what answers at %s is no sidecar", address)}
	}
	return said, nil
}

// runLog is where a sidecar that `run` started writes its log.
func runLog(cfg *config.Config) string { return filepath.Join(cfg.Store.Embedded.Dir, "run.log") }
