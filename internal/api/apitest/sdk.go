package apitest

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

// SDK speaks to a server as both OnceOnly SDKs do: it sends what they send, reads what they read and nothing else,
// retries where they retry, and fails open where they do. A type that either of them would not take is an error.
type SDK struct {
	Description *Description // what every answer is held against; one that is not as described panics
	Base, Key   string
	Retries     int           // max_retries_429
	Typed       bool          // the TypeScript one: its first heartbeat comes after an interval
	Timeout     time.Duration // 0: 5 s
	FailShut    bool          // fail_open=False
}

// APIError is an error as the SDKs have them.
type APIError struct {
	Kind   string // ApiError, UnauthorizedError, OverLimitError, RateLimitError, ValidationError, transport
	Status int
	Detail map[string]any
	After  float64 // RateLimitError.retry_after_sec
}

func (e *APIError) Error() string { return fmt.Sprintf("%s %d %v", e.Kind, e.Status, e.Detail) }

// roundTrip is one request; dead is true when no whole answer came.
func (c *SDK) roundTrip(method, path string, body any) (status int, header http.Header, text []byte, dead bool) {
	data, _ := json.Marshal(body)
	if body == nil {
		data = nil
	}
	r, err := http.NewRequest(method, strings.TrimSuffix(c.Base, "/")+"/v1"+path, bytes.NewReader(data))
	if err != nil {
		return 0, nil, nil, true
	}
	r.Header.Set("Authorization", "Bearer "+c.Key)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "onceonly-conformance/1")
	timeout := c.Timeout
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
	if err := c.Description.Judge(r, resp.StatusCode, text); err != nil {
		panic(err) // no client of the test's own has a word for it
	}
	return resp.StatusCode, resp.Header, text, false
}

// shared is one pool for all clients, so that a thousand of them do not use up the ports.
var shared = &http.Transport{MaxIdleConnsPerHost: 100, MaxConnsPerHost: 100}

// HangUp closes the connections that no request uses: a server that shuts down waits for new ones on which none came.
func HangUp() { shared.CloseIdleConnections() }

// request retries as request_with_retries does: on 429, some 5xx and no answer, with a numeric Retry-After.
func (c *SDK) request(method, path string, body any) (status int, header http.Header, text []byte, dead bool) {
	for n := 0; ; n++ {
		status, header, text, dead = c.roundTrip(method, path, body)
		switch {
		case n >= c.Retries:
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
func parse(status int, header http.Header, text []byte, dead bool) (map[string]any, *APIError) {
	if dead {
		return nil, &APIError{Kind: "transport"}
	}
	var any1 any
	_ = json.Unmarshal(text, &any1)
	object, _ := any1.(map[string]any)
	detail, _ := object["detail"].(map[string]any)
	e := &APIError{Status: status, Detail: detail}
	switch {
	case status == 401:
		e.Kind = "UnauthorizedError"
	case status == 403 && detail["error"] == "feature_not_available":
		e.Kind = "ApiError"
	case status == 403:
		e.Kind = "UnauthorizedError"
	case status == 402:
		e.Kind = "OverLimitError"
	case status == 429:
		e.Kind = "RateLimitError"
		e.After, _ = strconv.ParseFloat(header.Get("Retry-After"), 64)
	case status == 422:
		e.Kind = "ValidationError"
	case status < 200 || status > 299:
		e.Kind = "ApiError"
	case object == nil:
		return map[string]any{"data": any1}, nil
	default:
		return object, nil
	}
	return nil, e
}

// LockResult is CheckLockResult.
type LockResult struct {
	Locked, Duplicate, FailOpen bool
	TTL                         int
	FirstSeen, RequestID        string
}

// CheckLock is check_lock.
func (c *SDK) CheckLock(key string, ttl int) (LockResult, error) {
	status, header, text, dead := c.request("POST", "/check-lock", map[string]any{"key": key, "ttl": ttl})
	if (dead || status >= 500) && !c.FailShut {
		return LockResult{Locked: true, FailOpen: true, RequestID: "fail-open"}, nil
	}
	if status == 409 {
		return LockResult{Duplicate: true}, nil
	}
	object, err := parse(status, header, text, dead)
	if err != nil {
		if err.Kind == "ApiError" && status == 403 {
			err.Kind = "UnauthorizedError"
		}
		return LockResult{}, err
	}
	word, _ := object["status"].(string)
	if word != "locked" && word != "duplicate" {
		word = header.Get("X-OnceOnly-Status")
	}
	if word == "" {
		word = map[bool]string{true: "locked", false: "duplicate"}[object["success"] == true]
	}
	r := LockResult{Locked: word == "locked", Duplicate: word != "locked", RequestID: header.Get("X-Request-Id")}
	r.FirstSeen, _ = object["first_seen_at"].(string)
	n, ok := object["ttl"].(float64)
	if !ok || n != float64(int(n)) {
		return r, fmt.Errorf("ttl %v is no integer", object["ttl"])
	}
	r.TTL = int(n)
	return r, nil
}

// Call is any other endpoint.
func (c *SDK) Call(method, path string, body any) (map[string]any, error) {
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
func (c *SDK) types(object map[string]any) error {
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

// AIResult is AiResult.
type AIResult struct {
	OK        bool
	Status    string
	Result    map[string]any
	ErrorCode string
}

// Result is GET /ai/result.
func (c *SDK) Result(key string) (AIResult, error) {
	object, err := c.Call("GET", "/ai/result?key="+url.QueryEscape(key), nil)
	if err != nil {
		return AIResult{}, err
	}
	r := AIResult{OK: object["ok"] == true}
	r.Status, _ = object["status"].(string)
	r.ErrorCode, _ = object["error_code"].(string)
	r.Result, _ = object["result"].(map[string]any)
	return r, nil
}

// Wait polls until completed or failed. It sleeps as told, but a test is not that patient.
func (c *SDK) Wait(key, leaseID string, timeout time.Duration) (AIResult, error) {
	heartbeat := leaseID != ""
	for end := time.Now().Add(timeout); ; {
		object, err := c.Call("GET", "/ai/status?key="+url.QueryEscape(key), nil)
		if err != nil {
			return AIResult{}, err
		}
		if object["status"] == "completed" || object["status"] == "failed" {
			return c.Result(key)
		}
		if time.Now().After(end) {
			return AIResult{Status: "failed", ErrorCode: "timeout"}, nil
		}
		if heartbeat {
			heartbeat = false
			_, _ = c.Call("POST", "/ai/extend", map[string]any{"key": key, "lease_id": leaseID})
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// RunFn is run_fn: lease, heartbeat, work, complete or fail, result. Python's first heartbeat goes out at once and may
// arrive after the end; TypeScript's comes after an interval.
func (c *SDK) RunFn(key string, ttl int, fn func() (map[string]any, error)) (AIResult, error) {
	lease, err := c.Call("POST", "/ai/lease", map[string]any{"key": key, "ttl": ttl})
	if err != nil {
		return AIResult{}, err
	}
	switch lease["status"] {
	case "acquired":
	case "completed", "failed":
		return c.Result(key)
	default:
		return c.Wait(key, "", 20*time.Second)
	}
	id, _ := lease["lease_id"].(string)
	if id == "" {
		return AIResult{Status: "failed", ErrorCode: "missing_lease_id"}, nil
	}
	var beats sync.WaitGroup
	if !c.Typed {
		beats.Go(func() { _, _ = c.Call("POST", "/ai/extend", map[string]any{"key": key, "lease_id": id, "ttl": ttl}) })
	}
	defer beats.Wait()
	out, err := fn()
	if err == nil {
		body := map[string]any{"key": key, "lease_id": id}
		if out != nil {
			body["result"] = out
		}
		_, err = c.Call("POST", "/ai/complete", body)
	}
	if err != nil {
		_, _ = c.Call("POST", "/ai/fail", map[string]any{"key": key, "lease_id": id, "error_code": "fn_error"})
		return AIResult{}, err
	}
	return c.Result(key)
}

// RunTool is run_tool, whose answer is AiToolResult, or what an answer without allowed and decision is taken for: a job.
func (c *SDK) RunTool(agent, tool string, args map[string]any, more map[string]any) (map[string]any, error) {
	body := map[string]any{"agent_id": agent, "tool": tool}
	if args != nil {
		body["args"] = args
	}
	for k, v := range more {
		body[k] = v
	}
	object, err := c.Call("POST", "/ai/run", body)
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

// RunAndWait is run_and_wait with a key.
func (c *SDK) RunAndWait(key string, metadata map[string]any) (AIResult, error) {
	body := map[string]any{"key": key}
	if metadata != nil {
		body["metadata"] = metadata
	}
	object, err := c.Call("POST", "/ai/run", body)
	if err != nil {
		return AIResult{}, err
	}
	for _, word := range []string{"allowed", "decision"} {
		if _, ok := object[word]; ok {
			return AIResult{}, fmt.Errorf("%v is a tool's answer", object)
		}
	}
	id, _ := object["lease_id"].(string)
	return c.Wait(key, id, 20*time.Second)
}
