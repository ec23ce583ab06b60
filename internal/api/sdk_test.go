package api_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// sdk speaks to a server as both OnceOnly SDKs do: it sends what they send, reads what they read and nothing else,
// retries where they retry, and fails open where they do. A type that either of them would not take is an error.
type sdk struct {
	base, key string
	retries   int           // max_retries_429
	typed     bool          // the TypeScript one: takes a field only with its own JSON type
	timeout   time.Duration // 5 s
	failShut  bool          // fail_open=False
}

// errors as the SDKs have them.
type apiError struct {
	kind   string // ApiError, UnauthorizedError, OverLimitError, RateLimitError, ValidationError, transport
	status int
	detail map[string]any
	after  float64 // RateLimitError.retry_after_sec
}

func (e *apiError) Error() string { return fmt.Sprintf("%s %d %v", e.kind, e.status, e.detail) }

// roundTrip is one request; dead is true when no whole answer came.
func (c *sdk) roundTrip(method, path string, body any) (status int, header http.Header, text []byte, dead bool) {
	data, _ := json.Marshal(body)
	if body == nil {
		data = nil
	}
	r, err := http.NewRequest(method, strings.TrimSuffix(c.base, "/")+"/v1"+path, bytes.NewReader(data))
	if err != nil {
		return 0, nil, nil, true
	}
	r.Header.Set("Authorization", "Bearer "+c.key)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "onceonly-conformance/1")
	timeout := c.timeout
	if timeout == 0 {
		timeout = 5 * time.Second
	}
	client := http.Client{Timeout: timeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, Transport: shared}
	resp, err := client.Do(r)
	if err != nil {
		return 0, nil, nil, true
	}
	defer resp.Body.Close()
	if text, err = io.ReadAll(resp.Body); err != nil {
		return 0, nil, nil, true
	}
	if err := openapi.Judge(r, resp.StatusCode, text); err != nil {
		panic(err) // no client of the test's own has a word for it
	}
	return resp.StatusCode, resp.Header, text, false
}

// shared is one pool for all clients, so that a thousand of them do not use up the ports.
var shared = &http.Transport{MaxIdleConnsPerHost: 100, MaxConnsPerHost: 100}

// request retries as request_with_retries does: on 429, some 5xx and no answer, with a numeric Retry-After.
func (c *sdk) request(method, path string, body any) (status int, header http.Header, text []byte, dead bool) {
	for n := 0; ; n++ {
		status, header, text, dead = c.roundTrip(method, path, body)
		switch {
		case n >= c.retries:
			return status, header, text, dead
		case dead, status == 429, status == 500, status >= 502 && status <= 504:
		default:
			return status, header, text, dead
		}
		wait := min(5*time.Second, 500*time.Millisecond<<n)
		if after, err := strconv.ParseFloat(header.Get("Retry-After"), 64); err == nil {
			wait = time.Duration(after * float64(time.Second))
		}
		time.Sleep(min(wait, 50*time.Millisecond)) // the schedule is theirs, the patience is a test's
	}
}

// parse is parse_json_or_raise.
func parse(status int, header http.Header, text []byte, dead bool) (map[string]any, *apiError) {
	if dead {
		return nil, &apiError{kind: "transport"}
	}
	var any1 any
	_ = json.Unmarshal(text, &any1)
	object, _ := any1.(map[string]any)
	detail, _ := object["detail"].(map[string]any)
	e := &apiError{status: status, detail: detail}
	switch {
	case status == 401:
		e.kind = "UnauthorizedError"
	case status == 403 && detail["error"] == "feature_not_available":
		e.kind = "ApiError"
	case status == 403:
		e.kind = "UnauthorizedError"
	case status == 402:
		e.kind = "OverLimitError"
	case status == 429:
		e.kind = "RateLimitError"
		e.after, _ = strconv.ParseFloat(header.Get("Retry-After"), 64)
	case status == 422:
		e.kind = "ValidationError"
	case status < 200 || status > 299:
		e.kind = "ApiError"
	case object == nil:
		return map[string]any{"data": any1}, nil
	default:
		return object, nil
	}
	return nil, e
}

// lockResult is CheckLockResult.
type lockResult struct {
	locked, duplicate, failOpen bool
	ttl                         int
	firstSeen, requestID        string
}

func (c *sdk) checkLock(key string, ttl int) (lockResult, error) {
	status, header, text, dead := c.request("POST", "/check-lock", map[string]any{"key": key, "ttl": ttl})
	if (dead || status >= 500) && !c.failShut {
		return lockResult{locked: true, failOpen: true, requestID: "fail-open"}, nil
	}
	if status == 409 {
		return lockResult{duplicate: true}, nil
	}
	object, err := parse(status, header, text, dead)
	if err != nil {
		if err.kind == "ApiError" && status == 403 {
			err.kind = "UnauthorizedError"
		}
		return lockResult{}, err
	}
	word, _ := object["status"].(string)
	if word != "locked" && word != "duplicate" {
		word = header.Get("X-OnceOnly-Status")
	}
	if word == "" {
		word = map[bool]string{true: "locked", false: "duplicate"}[object["success"] == true]
	}
	r := lockResult{locked: word == "locked", duplicate: word != "locked", requestID: header.Get("X-Request-Id")}
	r.firstSeen, _ = object["first_seen_at"].(string)
	n, ok := object["ttl"].(float64)
	if !ok || n != float64(int(n)) {
		return r, fmt.Errorf("ttl %v is no integer", object["ttl"])
	}
	r.ttl = int(n)
	return r, nil
}

// call is any other endpoint.
func (c *sdk) call(method, path string, body any) (map[string]any, error) {
	object, err := parse(c.request(method, path, body))
	if err != nil {
		return nil, err
	}
	if err := c.types(object); err != nil {
		return object, fmt.Errorf("%s %s: %w", method, path, err)
	}
	return object, nil
}

// types holds the fields that an SDK reads against the types with which it takes them: TypeScript drops others, Python
// raises.
func (c *sdk) types(object map[string]any) error {
	for _, name := range []string{"ttl", "ttl_left", "version", "usage", "limit", "charged", "retry_after_sec"} {
		if v, ok := object[name]; ok && v != nil {
			n, number := v.(float64)
			if !number || n != float64(int64(n)) {
				return fmt.Errorf("%s is %v", name, v)
			}
		}
	}
	for _, name := range []string{"status", "key", "lease_id", "first_seen_at", "done_at", "result_hash", "error_code", "decision", "policy_reason", "risk_level"} {
		if v, ok := object[name]; ok && v != nil {
			if _, text := v.(string); !text {
				return fmt.Errorf("%s is %v", name, v)
			}
		}
	}
	if v, ok := object["result"]; ok && v != nil {
		if _, is := v.(map[string]any); !is {
			return fmt.Errorf("result is %v, and would be dropped", v)
		}
	}
	return nil
}

// aiResult is AiResult.
type aiResult struct {
	ok        bool
	status    string
	result    map[string]any
	errorCode string
}

func (c *sdk) result(key string) (aiResult, error) {
	object, err := c.call("GET", "/ai/result?key="+url.QueryEscape(key), nil)
	if err != nil {
		return aiResult{}, err
	}
	r := aiResult{ok: object["ok"] == true}
	r.status, _ = object["status"].(string)
	r.errorCode, _ = object["error_code"].(string)
	r.result, _ = object["result"].(map[string]any)
	return r, nil
}

// wait polls until completed or failed. It sleeps as told, but a test is not that patient.
func (c *sdk) wait(key, leaseID string, timeout time.Duration) (aiResult, error) {
	heartbeat := leaseID != ""
	for end := time.Now().Add(timeout); ; {
		object, err := c.call("GET", "/ai/status?key="+url.QueryEscape(key), nil)
		if err != nil {
			return aiResult{}, err
		}
		if object["status"] == "completed" || object["status"] == "failed" {
			return c.result(key)
		}
		if time.Now().After(end) {
			return aiResult{status: "failed", errorCode: "timeout"}, nil
		}
		if heartbeat {
			heartbeat = false
			_, _ = c.call("POST", "/ai/extend", map[string]any{"key": key, "lease_id": leaseID})
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// runFn is run_fn: lease, heartbeat, work, complete or fail, result. Python's first heartbeat goes out at once and may
// arrive after the end; TypeScript's comes after an interval.
func (c *sdk) runFn(key string, ttl int, fn func() (map[string]any, error)) (aiResult, error) {
	lease, err := c.call("POST", "/ai/lease", map[string]any{"key": key, "ttl": ttl})
	if err != nil {
		return aiResult{}, err
	}
	switch lease["status"] {
	case "acquired":
	case "completed", "failed":
		return c.result(key)
	default:
		return c.wait(key, "", 20*time.Second)
	}
	id, _ := lease["lease_id"].(string)
	if id == "" {
		return aiResult{status: "failed", errorCode: "missing_lease_id"}, nil
	}
	var beats sync.WaitGroup
	if !c.typed {
		beats.Go(func() { _, _ = c.call("POST", "/ai/extend", map[string]any{"key": key, "lease_id": id, "ttl": ttl}) })
	}
	defer beats.Wait()
	out, err := fn()
	if err == nil {
		body := map[string]any{"key": key, "lease_id": id}
		if out != nil {
			body["result"] = out
		}
		_, err = c.call("POST", "/ai/complete", body)
	}
	if err != nil {
		_, _ = c.call("POST", "/ai/fail", map[string]any{"key": key, "lease_id": id, "error_code": "fn_error"})
		return aiResult{}, err
	}
	return c.result(key)
}

// toolResult is AiToolResult, or what an answer without allowed and decision is taken for: a job.
func (c *sdk) runTool(agent, tool string, args map[string]any, more map[string]any) (map[string]any, error) {
	body := map[string]any{"agent_id": agent, "tool": tool}
	if args != nil {
		body["args"] = args
	}
	for k, v := range more {
		body[k] = v
	}
	object, err := c.call("POST", "/ai/run", body)
	if err != nil {
		return nil, err
	}
	_, a := object["allowed"]
	_, d := object["decision"]
	if !a && !d {
		return nil, fmt.Errorf("assertion: %v is a job's answer", object)
	}
	return object, nil
}

// runAndWait is run_and_wait with a key.
func (c *sdk) runAndWait(key string, metadata map[string]any) (aiResult, error) {
	body := map[string]any{"key": key}
	if metadata != nil {
		body["metadata"] = metadata
	}
	object, err := c.call("POST", "/ai/run", body)
	if err != nil {
		return aiResult{}, err
	}
	for _, word := range []string{"allowed", "decision"} {
		if _, ok := object[word]; ok {
			return aiResult{}, fmt.Errorf("%v is a tool's answer", object)
		}
	}
	id, _ := object["lease_id"].(string)
	return c.wait(key, id, 20*time.Second)
}
