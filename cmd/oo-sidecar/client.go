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
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/oo-sidecar/oo-sidecar/config"
)

// settings loads the configuration that --config names, or that serve would find.
func (a *app) settings() (*config.Config, error) {
	path, _, err := config.Locate(a.config)
	if err != nil {
		return nil, err
	}
	cfg, _, err := config.Load(path, os.Environ(), nil)
	return cfg, err
}

// reach loads no more of it than asking the running sidecar or reading its journal takes: no tool's secret, say.
func (a *app) reach() (*config.Config, error) {
	path, builtin, err := config.Locate(a.config)
	if err != nil {
		return nil, err
	}
	a.builtin = builtin
	return config.Reach(path, os.Environ())
}

// client asks the running sidecar, as its operator.
type client struct {
	address string // of the api listener, as it can be dialled
	key     string
	where   string // the key is from, in words
	http    *http.Client
}

// connect finds the sidecar and the operator key through the configuration. It sends nothing yet.
func (a *app) connect() (*client, error) {
	cfg, err := a.reach()
	if err != nil {
		return nil, err
	}
	key, where, err := config.OperatorKey(cfg)
	if err != nil {
		return nil, silence{err.Error(), err}
	}
	return &client{address: dialable(cfg.API.Listen), key: key, where: where, http: direct(30 * time.Second)}, nil
}

// direct is an HTTP client that never goes through a proxy: the proxy of the environment may be the sidecar itself.
func direct(timeout time.Duration) *http.Client {
	return &http.Client{
		Timeout:       timeout,
		Transport:     &http.Transport{DisableKeepAlives: true, DialContext: (&net.Dialer{Timeout: 3 * time.Second}).DialContext},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// dialable turns the address of a listener into one to dial: who listens everywhere is asked on loopback.
func dialable(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return listen
	}
	ip, err := netip.ParseAddr(host)
	switch {
	case host == "" || err == nil && ip.IsUnspecified() && ip.Is4():
		host = "127.0.0.1"
	case err == nil && ip.IsUnspecified():
		host = "::1"
	}
	return net.JoinHostPort(host, port)
}

// call sends in as JSON, unless it is nil, and decodes the answer into out, unless that is nil.
func (c *client) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(data)
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://"+c.address+path, body)
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer "+c.key)
	r.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(r)
	if err != nil {
		return unanswered(c.address, method, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return unanswered(c.address, method, err)
	}
	if resp.StatusCode/100 != 2 {
		return c.refused(resp.StatusCode, data)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(data, out); err != nil {
		return exit{1, fmt.Errorf("what answers at %s is no sidecar: %w", c.address, err)}
	}
	return nil
}

// unanswered says of a change that was sent and not answered that it may stand; of everything else that nobody answers.
func unanswered(address, method string, err error) error {
	var way *net.OpError
	if method == http.MethodGet || errors.As(err, &way) && way.Op == "dial" {
		return unreachable(address, err)
	}
	return exit{1, silence{fmt.Sprintf("the sidecar at %s was asked and has not answered (%v): some of it may have changed; look at what stands, then repeat it", address, err), err}}
}

// unreachable says that nobody answers, and what to do; what went wrong below is said only where it is not plain.
func unreachable(address string, err error) error {
	detail := ""
	if !errors.Is(err, syscall.ECONNREFUSED) {
		detail = " (" + err.Error() + ")"
	}
	return exit{1, silence{fmt.Sprintf("no sidecar answers at %s%s: is `oo-sidecar serve` running with this configuration?", address, detail), err}}
}

// silence is what a person reads where nobody answered, over what went wrong.
type silence struct {
	text  string
	cause error
}

func (s silence) Error() string { return s.text }
func (s silence) Unwrap() error { return s.cause }

// refused turns an error envelope into an error.
func (c *client) refused(status int, data []byte) error {
	var envelope struct {
		Detail json.RawMessage `json:"detail"`
	}
	var detail struct {
		Message string `json:"message"`
	}
	var word string
	json.Unmarshal(data, &envelope)
	switch {
	case json.Unmarshal(envelope.Detail, &detail) == nil && detail.Message != "":
		word = detail.Message
	case json.Unmarshal(envelope.Detail, &word) != nil || word == "":
		return exit{1, fmt.Errorf("what answers at %s is no sidecar: it answered %d", c.address, status)}
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return exit{2, fmt.Errorf("the sidecar at %s does not take the operator key of this configuration (%s): was it started with another one?", c.address, c.where)}
	}
	return exit{1, errors.New(printable(word))}
}
