package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Kind says what an error of the control plane means.
type Kind uint8

const (
	Unreached Kind = iota // nothing was sent
	Lost                  // it was sent, and no usable answer came: what was asked for may have happened
	Denied                // 401, 402, 403, 422: no such question is ever waived
	Busy                  // 429
	Broken                // 5xx
	Absent                // 404, 405, 501: it has no such call, or no such thing
	Conflict              // 409
	Forgotten             // 404 not_found: the API knows the call, and no such thing
	Refused               // any other answer
)

// Error is an answer of the control plane that is none, or the lack of one. It holds no secret.
type Error struct {
	Kind       Kind
	Status     int
	Code       string        // detail.error, where it gives one
	RetryAfter time.Duration // 0: it names no time
	Err        error
}

func (e *Error) Error() string {
	switch {
	case e.Err == errTaken:
		return e.Err.Error()
	case e.Status == 0 && e.Kind == Unreached:
		return "the control plane could not be asked: " + e.Err.Error()
	case e.Status == 0:
		return "the control plane gave no usable answer: " + e.Err.Error()
	case e.Code != "":
		return fmt.Sprintf("the control plane answered %d %s", e.Status, e.Code)
	}
	return fmt.Sprintf("the control plane answered %d", e.Status)
}

func (e *Error) Unwrap() error { return e.Err }

// kindOf is the kind of an error of Client.do.
func kindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return Lost
}

// missing says whether what was asked for is not there, or nobody there knows the question.
func missing(err error) bool { return kindOf(err) == Absent || kindOf(err) == Forgotten }

const (
	maxAnswer  = 4 << 20  // bytes of one answer, which may hold a tool's
	maxShown   = 32 << 20 // bytes of an answer that holds all tools, policies or agents
	maxDetail  = 64       // characters of an error's code that are shown
	maxConns   = 64       // to the control plane
	idleFor    = 60 * time.Second
	dialBefore = 5 * time.Second
)

// client speaks with one OnceOnly-compatible API. It never follows a redirect and never repeats a question by itself.
type client struct {
	base, key string
	http      *http.Client
}

// newClient makes a client of the API at base. Its connections use no proxy: the environment's may be this very sidecar.
func newClient(base, key string) (*client, error) {
	u, err := url.Parse(strings.TrimRight(base, "/"))
	if err != nil {
		return nil, errors.New("control.base_url is no URL")
	}
	if u.Path == "" {
		u.Path = "/v1"
	}
	return &client{base: u.String(), key: key, http: &http.Client{
		Transport: &http.Transport{
			MaxConnsPerHost: maxConns, MaxIdleConnsPerHost: maxConns, IdleConnTimeout: idleFor, TLSHandshakeTimeout: dialBefore,
			MaxResponseHeaderBytes: 64 << 10, DisableCompression: true, ForceAttemptHTTP2: false,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// do asks one question. in is the body, or nil; out is filled from a 2xx answer. Errors are of type *Error.
func (c *client) do(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return &Error{Kind: Unreached, Err: err}
		}
		body = bytes.NewReader(data)
	}
	var wrote atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { wrote.Store(true) }})
	r, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return &Error{Kind: Unreached, Err: errors.New("the address cannot be asked")}
	}
	r.Header.Set("Authorization", "Bearer "+c.key)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json")
	r.Header.Set("User-Agent", "oo-sidecar")
	resp, err := c.http.Do(r)
	if err != nil {
		return lostOf(err, wrote.Load())
	}
	defer resp.Body.Close()
	most := int64(maxAnswer)
	if method == http.MethodGet && !strings.HasPrefix(path, "/ai/") {
		most = maxShown
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, most+1))
	switch {
	case resp.StatusCode < 200 || resp.StatusCode > 299:
		return refusalOf(resp, text)
	case err != nil:
		return lostOf(err, true)
	case int64(len(text)) > most:
		return &Error{Kind: Lost, Err: errors.New("its answer is too large")}
	case json.Unmarshal(text, out) != nil:
		return &Error{Kind: Lost, Err: errors.New("its answer is no JSON of the kind that was asked for")}
	}
	return nil
}

// lostOf names a failed exchange without repeating its URL.
func lostOf(err error, sent bool) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	if sent {
		return &Error{Kind: Lost, Err: err}
	}
	return &Error{Kind: Unreached, Err: err}
}

// refusalOf reads an answer that is no success.
func refusalOf(resp *http.Response, text []byte) error {
	e := &Error{Status: resp.StatusCode, Kind: Refused, Code: codeOf(text)}
	if n, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && n >= 0 {
		e.RetryAfter = time.Duration(min(n, 3600)) * time.Second
	}
	switch {
	case e.Status == 401 || e.Status == 402 || e.Status == 403 || e.Status == 422:
		e.Kind = Denied
	case e.Status == 429:
		e.Kind = Busy
	case e.Status == 404 && e.Code == "not_found":
		e.Kind = Forgotten
	case e.Status == 404 || e.Status == 405 || e.Status == 501:
		e.Kind = Absent
	case e.Status == 409:
		e.Kind = Conflict
	case e.Status >= 500:
		e.Kind = Broken
	}
	return e
}

// codeOf is detail.error of an error's body, or the detail itself where it is a word.
func codeOf(text []byte) string {
	var envelope struct{ Detail json.RawMessage }
	if json.Unmarshal(text, &envelope) != nil {
		return ""
	}
	var object struct{ Error string }
	var code string
	if json.Unmarshal(envelope.Detail, &object) == nil {
		code = object.Error
	} else if json.Unmarshal(envelope.Detail, &code) != nil {
		return ""
	}
	return codeWord(code)
}

// codeWord is a word of the control plane's as it can be shown; empty when it is none.
func codeWord(code string) string {
	if strings.ContainsFunc(code, func(r rune) bool { return r < ' ' || r > '~' }) {
		return ""
	}
	return code[:min(len(code), maxDetail)]
}
