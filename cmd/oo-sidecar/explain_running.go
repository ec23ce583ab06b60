package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/oo-sidecar/oo-sidecar/config"
	"github.com/oo-sidecar/oo-sidecar/internal/api"
)

// explain answers for the running sidecar: by the tools, policies and kill switches that hold now.
func (s *sidecar) explain(ctx context.Context, question *api.Question) (string, error) {
	q := &asked{method: question.Method, url: question.URL, agent: question.Agent, headers: question.Headers}
	if err := q.wrong(); err != nil {
		return "", err
	}
	j := &judge{cfg: s.cfg.Load(), snapshot: s.governor.Snapshot(), mask: s.mask.Load(), disabled: s.disabled}
	return j.explain(ctx, q, question.Body)
}

// explainPatience is how long a running sidecar is waited for before the file decides.
const explainPatience = 5 * time.Second

// askRunning has the running sidecar explain. The text is empty where the file must, and by says in either case who did
// and why.
func (a *app) askRunning(ctx context.Context, cfg *config.Config, q *asked, body []byte) (text, by string, err error) {
	file := "the configuration file"
	if cfg.Path() == "" {
		file = "the built-in configuration"
	}
	alone := func(format string, args ...any) (string, string, error) {
		return "", file + " alone: " + printable(fmt.Sprintf(format, args...)), nil
	}
	if q.file {
		return alone("as --file wants")
	}
	address := dialable(cfg.API.Listen)
	conn, err := net.DialTimeout("tcp", address, dialPatience)
	if err != nil {
		return alone("no sidecar answers at %s", address)
	}
	conn.Close()
	key, where, err := config.OperatorKey(cfg)
	if err != nil {
		return alone("what answers at %s cannot be asked: %v", address, err)
	}
	c := &client{address: address, key: key, where: where, http: direct(explainPatience)}
	var st api.Status
	if err := c.call(ctx, http.MethodGet, "/v1/status", nil, &st); err != nil {
		return alone("%v", err)
	}
	p, err := a.plan()
	if err != nil {
		return "", "", err
	}
	if st.Digest != configDigest(p.asServe) && st.Digest != configDigest(p.asRun) {
		return alone("the sidecar at %s runs with another configuration (%s)", address, orBuiltin(st.Config))
	}
	question := &api.Question{Method: q.method, URL: q.url, Agent: q.agent, Headers: q.headers, Body: body}
	var said struct{ Text string }
	if err := c.call(ctx, http.MethodPost, "/v1/explain", question, &said); err != nil {
		return alone("%v", err)
	}
	if said.Text == "" {
		return "", "", exit{1, errors.New("the sidecar at " + address + " explained nothing")}
	}
	return said.Text, "the sidecar that runs at " + address + ", with what holds there now", nil
}
