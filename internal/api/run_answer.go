package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"unicode/utf8"

	"github.com/oo-sidecar/oo-sidecar/internal/govern"
)

// notRegistered is the refusal of a tool that nobody knows: in /v1 an error, not a decision.
const notRegistered = "tool_not_registered"

// toolAnswer is the answer to a tool call. The first six members are the SDKs' AiToolResult.
type toolAnswer struct {
	OK           bool            `json:"ok"`
	Allowed      bool            `json:"allowed"`
	Decision     string          `json:"decision"`
	PolicyReason string          `json:"policy_reason"`
	RiskLevel    string          `json:"risk_level"`
	Result       json.RawMessage `json:"result"` // an object or null; the SDKs drop everything else

	RunID     string      `json:"run_id,omitempty"`
	RequestID string      `json:"request_id"`
	Outcome   string      `json:"outcome,omitempty"`
	Key       string      `json:"key,omitempty"`
	ArgsHash  string      `json:"args_hash,omitempty"`
	SpendUSD  json.Number `json:"spend_usd,omitempty"`
	Error     *toolError  `json:"error,omitempty"`
}

// toolError says more of a call that brought no result.
type toolError struct {
	Code       string `json:"code"`
	Status     int    `json:"status,omitempty"` // of the tool's answer
	Message    string `json:"message"`
	Hint       string `json:"hint,omitempty"`
	Retryable  bool   `json:"retryable"`
	RetryAfter int    `json:"retry_after_s,omitempty"`
}

// toolAnswerOf puts what the governor said into the words of the API. A call that brought no usable result is never
// allowed, whatever its decision was: the SDKs look at nothing else.
func toolAnswerOf(ctx context.Context, c *govern.Request, r *govern.Reply) *toolAnswer {
	a := &toolAnswer{
		Decision: string(govern.Blocked), PolicyReason: r.Reason, RiskLevel: r.Risk, RunID: c.RunID, RequestID: c.ID,
		Outcome: r.Outcome, Key: r.Key, ArgsHash: r.Args, SpendUSD: json.Number(r.Spend),
	}
	if f := r.Refusal; f != nil {
		a.PolicyReason = f.Code
		a.Error = &toolError{Code: f.Code, Message: f.Detail, Hint: f.Hint, Retryable: f.Retryable, RetryAfter: f.RetryAfter}
		a.raise()
		return a
	}
	body, err := wholeBody(ctx, r)
	switch {
	case err != nil && !errors.Is(err, errTooLarge):
		f := govern.NewRefusal("upstream_outcome_unknown", "")
		a.PolicyReason, a.Error = f.Code, &toolError{Code: f.Code, Message: f.Detail, Hint: f.Hint}
		a.raise()
	case r.Status < 200 || r.Status > 299:
		a.failed(r.Status, body)
	default:
		a.OK, a.Allowed, a.Decision = true, true, string(r.Decision)
		a.Result = resultOf(body)
		if err != nil {
			a.Result, a.Error = nil, &toolError{Code: "result_not_kept", Message: "the tool's answer is larger than 1 MiB"}
		}
	}
	return a
}

// failed is a tool's answer that is no success. To audit and budgets the call was executed.
func (a *toolAnswer) failed(status int, body []byte) {
	const most = 1024
	message := http.StatusText(status)
	if len(body) > 0 && utf8.Valid(body) {
		message = string(body[:min(len(body), most)])
		for !utf8.ValidString(message) {
			message = message[:len(message)-1]
		}
	}
	a.PolicyReason, a.Error = "tool_error", &toolError{Code: "tool_error", Status: status, Message: message}
	a.raise()
	a.Result, _ = json.Marshal(struct {
		Error *toolError `json:"error"`
	}{a.Error})
}

// raise has a tool's failure be at least a medium risk.
func (a *toolAnswer) raise() {
	if a.toolFault() && a.RiskLevel == "low" {
		a.RiskLevel = "medium"
	}
}

// maxToolAnswer bounds a tool's answer that is passed on inside ours, in bytes.
const maxToolAnswer = 1 << 20

var errTooLarge = errors.New("the tool's answer is too large")

// wholeBody is the body of a tool's answer, also of one that comes in pieces. With errTooLarge the call has ended well
// and its body is not here.
func wholeBody(ctx context.Context, r *govern.Reply) ([]byte, error) {
	if r.Stream == nil {
		if len(r.Body) > maxToolAnswer {
			return nil, errTooLarge
		}
		return r.Body, nil
	}
	var b collector
	if err := r.Stream.WriteTo(ctx, &b); err != nil {
		return nil, err
	}
	if b.overflown {
		return nil, errTooLarge
	}
	return b.body, nil
}

// collector takes what an answer comes in, up to maxToolAnswer; beyond that it only lets it pass.
type collector struct {
	body      []byte
	overflown bool
}

func (c *collector) Write(p []byte) (int, error) {
	if c.overflown = c.overflown || len(c.body)+len(p) > maxToolAnswer; c.overflown {
		c.body = nil
	} else {
		c.body = append(c.body, p...)
	}
	return len(p), nil
}

func (c *collector) Flush() error { return nil }

// resultOf makes an object of what a tool said, because the SDKs drop everything else: arrays stand in data, the rest
// in value.
func resultOf(body []byte) json.RawMessage {
	text := bytes.TrimSpace(body)
	switch {
	case len(text) == 0:
		return json.RawMessage("{}")
	case !json.Valid(text) || !utf8.Valid(text):
		quoted, _ := json.Marshal(string(body))
		return wrap("value", quoted)
	case text[0] == '{':
		return text
	case text[0] == '[':
		return wrap("data", text)
	}
	return wrap("value", text)
}

func wrap(name string, value []byte) json.RawMessage {
	return append(append([]byte(`{"`+name+`":`), value...), '}')
}

// lineStatus is how the timeline calls what a tool call came to.
func (a *toolAnswer) lineStatus() string {
	switch {
	case a.Allowed:
		return a.Decision
	case a.toolFault() || a.PolicyReason == notRegistered:
		return "error"
	}
	return string(govern.Blocked)
}

// runStatus is how the timeline calls what a run of one call came to.
func (a *toolAnswer) runStatus() string {
	switch a.lineStatus() {
	case "error":
		return "failed"
	case string(govern.Blocked):
		return "blocked"
	}
	return "completed"
}

// toolFault says whether the tool, and not the sidecar, is why there is no result.
func (a *toolAnswer) toolFault() bool {
	switch a.PolicyReason {
	case "tool_error", "upstream_unreachable", "upstream_untrusted", "upstream_outcome_unknown":
		return true
	}
	return false
}
