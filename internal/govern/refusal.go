package govern

import (
	"net/http"
	"strconv"

	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// Refusal is an answer of the sidecar's own: RFC 9457 problem details with the members that a model can act on.
type Refusal struct {
	Status     int
	Code       string
	Title      string
	Detail     string
	Hint       string // one sentence for a model: what to do instead
	Retryable  bool
	RetryAfter int // seconds; 0: none
	Tool       string
	Agent      string
	Key        string
	Instance   string // the audit record's request id
	Extra      string // further members as JSON text with a leading comma, or ""
}

// kind is what all refusals of one code share.
type kind struct {
	status     int
	retryable  bool
	retryAfter int // default for codes that must carry one
	title      string
	hint       string
}

// kinds is the table of contract.md, "Refusals".
var kinds = map[string]kind{
	"bad_request":                    {400, false, 0, "The request is ambiguous or malformed", "Do not repeat this request as it is; send a well-formed one."},
	"arguments_unparseable":          {400, false, 0, "The arguments cannot be read one way only", "Send the arguments as strict JSON without duplicate members."},
	"idempotency_key_malformed":      {400, false, 0, "The Idempotency-Key is malformed", "Send an Idempotency-Key of at most 255 visible ASCII characters."},
	"idempotency_key_required":       {400, false, 0, "This tool needs an Idempotency-Key", "Repeat the call with an Idempotency-Key header that names this intent."},
	"tool_explicitly_blocked":        {403, false, 0, "Policy blocks this tool", "Do not call this tool again; use another one or ask a person."},
	"tool_not_in_allowed_list":       {403, false, 0, "Policy does not allow this tool", "Use one of the allowed tools or ask a person."},
	"agent_disabled":                 {403, false, 0, "This agent is switched off", "Stop; an operator has switched this agent off."},
	"tool_disabled":                  {403, false, 0, "This tool is switched off", "Use another tool; this one is switched off."},
	"tool_not_registered":            {403, false, 0, "No such tool is registered", "Call a registered tool; this destination is not one."},
	"destination_denied":             {403, false, 0, "This destination may not be reached", "Do not try other spellings of this address; it is not reachable on purpose."},
	"force_new_denied":               {403, false, 0, "Policy does not allow intended repeats", "Do not force a repeat; the first answer stands."},
	"browser_request_denied":         {403, false, 0, "Web pages may not call tools", "Call the sidecar from the agent's process, not from a browser page."},
	"tool_secret_missing":            {403, false, 0, "The tool's signing secret is missing here", "Stop; an operator must give the sidecar this tool's secret."},
	"not_found":                      {404, false, 0, "Nothing is here", "Call POST /tools/{name}, or use the sidecar as a proxy."},
	"method_not_allowed":             {405, false, 0, "This method is not allowed here", "Use POST for /tools/{name}."},
	"proxy_auth_required":            {407, false, 0, "The proxy needs this agent's token", "Send the agent's id and token as proxy credentials."},
	"in_flight":                      {409, true, 2, "The same call is still running", "Wait, then repeat exactly the same call to get its answer."},
	"outcome_unknown":                {409, false, 0, "Nobody knows whether this call ran", "Do not repeat it and do not work around it; an operator must find out what happened."},
	"result_not_kept":                {410, false, 0, "The call ran; its answer was not kept", "Treat the call as done; read the result from the tool by another call if you need it."},
	"request_too_large":              {413, false, 0, "The request is too large", "Send a smaller request."},
	"expectation_failed":             {417, false, 0, "This expectation is not supported", "Send the request without an Expect header."},
	"idempotency_key_reused":         {422, false, 0, "The Idempotency-Key belongs to another call", "Use a new Idempotency-Key for different arguments."},
	"max_actions_per_hour_exceeded":  {429, true, 0, "The hourly limit of actions is reached", "Stop calling tools until the time given in retry_after_s has passed."},
	"max_calls_per_tool_exceeded":    {429, true, 0, "The daily limit of this tool is reached", "Do not call this tool again today."},
	"max_spend_usd_per_day_exceeded": {429, true, 0, "The daily budget would be exceeded", "Do not make paid calls until the budget renews."},
	"headers_too_large":              {431, false, 0, "The request's head is too large", "Send fewer or shorter headers."},
	"internal":                       {500, false, 0, "The sidecar failed", "Stop; an operator must read the sidecar's log."},
	"not_supported":                  {501, false, 0, "This is not supported", "Use plain HTTP requests."},
	"upstream_unreachable":           {502, true, 0, "The tool could not be reached; nothing was sent", "The call did not run; it may be repeated later."},
	"upstream_untrusted":             {502, false, 0, "The tool's certificate does not hold; nothing was sent", "Stop; an operator must check the tool's certificate."},
	"store_unavailable":              {503, true, 1, "The sidecar cannot record calls now; nothing was sent", "The call did not run; repeat it later."},
	"draining":                       {503, true, 1, "The sidecar is shutting down; nothing was sent", "The call did not run; repeat it in a moment."},
	"overloaded":                     {503, true, 1, "Too much is running at once; nothing was sent", "The call did not run; repeat it later."},
	"policy_stale":                   {503, true, 5, "The policy is too old to act on; nothing was sent", "The call did not run; repeat it later."},
	"upstream_outcome_unknown":       {504, false, 0, "The call was sent and no usable answer came", "It may have run: do not repeat it; an operator must find out."},
}

// NewRefusal makes the refusal of a code of the contract, "Refusals"; an unknown code is `internal`.
func NewRefusal(code, detail string) *Refusal {
	k, ok := kinds[code]
	if !ok {
		code, k = "internal", kinds["internal"]
	}
	if detail == "" {
		detail = k.title + "."
	}
	return &Refusal{Status: k.status, Code: code, Title: k.title, Detail: detail, Hint: k.hint, Retryable: k.retryable, RetryAfter: k.retryAfter}
}

// Problem is the refusal as application/problem+json (RFC 9457).
func (r *Refusal) Problem() []byte {
	b := make([]byte, 0, 512)
	b = append(b, `{"type":"urn:oo-sidecar:problem:`...)
	b = append(b, r.Code...)
	b = append(b, `","title":`...)
	b = appendJSON(b, r.Title)
	b = append(b, `,"status":`...)
	b = strconv.AppendInt(b, int64(r.Status), 10)
	b = append(b, `,"detail":`...)
	b = appendJSON(b, r.Detail)
	b = append(b, `,"instance":`...)
	b = appendJSON(b, "urn:oo-sidecar:request:"+r.Instance)
	b = append(b, `,"code":"`...)
	b = append(b, r.Code...)
	b = append(b, `","tool":`...)
	b = appendJSON(b, r.Tool)
	b = append(b, `,"agent_id":`...)
	b = appendJSON(b, r.Agent)
	b = append(b, `,"key":`...)
	b = appendJSON(b, r.Key)
	b = append(b, `,"retryable":`...)
	b = strconv.AppendBool(b, r.Retryable)
	if r.RetryAfter > 0 {
		b = append(b, `,"retry_after_s":`...)
		b = strconv.AppendInt(b, int64(r.RetryAfter), 10)
	}
	b = append(b, `,"hint":`...)
	b = appendJSON(b, r.Hint)
	b = append(b, r.Extra...)
	return append(b, '}', '\n')
}

// headers are those that go with every refusal beside the decision's own.
func (r *Refusal) headers() []tool.Header {
	h := []tool.Header{{Name: "Content-Type", Value: "application/problem+json"}}
	if r.RetryAfter > 0 {
		h = append(h, tool.Header{Name: "Retry-After", Value: strconv.Itoa(r.RetryAfter)})
	}
	switch r.Status {
	case http.StatusProxyAuthRequired:
		h = append(h, tool.Header{Name: "Proxy-Authenticate", Value: `Basic realm="oo-sidecar"`})
	case http.StatusMethodNotAllowed:
		h = append(h, tool.Header{Name: "Allow", Value: "POST"})
	}
	return h
}

const hexDigits = "0123456789abcdef"

// appendJSON appends s as a JSON string; bytes that are no UTF-8 become U+FFFD.
func appendJSON(b []byte, s string) []byte {
	b = append(b, '"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r < 0x20 || r == 0x7f:
			b = append(b, '\\', 'u', '0', '0', hexDigits[r>>4], hexDigits[r&15])
		default:
			b = append(b, string(r)...)
		}
	}
	return append(b, '"')
}
