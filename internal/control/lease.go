package control

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"strings"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// leaseAnswer is what the control plane says of a lease, acquired or not.
type leaseAnswer struct {
	OK            *bool           `json:"ok"`
	Status        string          `json:"status"`
	TTL           int64           `json:"ttl"`
	TTLLeft       int64           `json:"ttl_left"`
	LeaseID       string          `json:"lease_id"`
	FirstSeenAt   string          `json:"first_seen_at"`
	DoneAt        string          `json:"done_at"`
	ResultHash    string          `json:"result_hash"`
	RetryAfterSec float64         `json:"retry_after_sec"`
	Result        json.RawMessage `json:"result"`
	Budget        *struct {
		Counted bool   `json:"counted"`
		Over    string `json:"over"`
		Shadow  string `json:"shadow"`
		Retry   int    `json:"retry_after_s"`
	} `json:"budget"`
}

// wish is a claim of a lease.
type wish struct {
	Key      string       `json:"key"`
	TTL      int64        `json:"ttl"` // seconds
	Metadata settings     `json:"metadata"`
	ClaimID  string       `json:"claim_id,omitempty"` // of an oo-sidecar only
	Budget   *budgetClaim `json:"budget,omitempty"`   // of an oo-sidecar only
}

type settings map[string]string

type budgetClaim struct {
	Agent string `json:"agent_id"`
	Tool  string `json:"tool"`
	Cost  string `json:"cost_usd"`
}

// acquire asks for a lease. An oo-sidecar is asked again, under the same id, when its answer was lost.
func (c *client) acquire(ctx context.Context, w *wish, timeout time.Duration) (a leaseAnswer, err error) {
	for try := 0; ; try++ {
		a = leaseAnswer{}
		err = c.within(ctx, timeout, "POST", "/ai/lease", w, &a)
		if err == nil && (a.Status == "" || a.Status == "acquired" && (a.LeaseID == "" || len(a.LeaseID) > maxLeaseID)) {
			err = &Error{Kind: Lost, Err: errNoLease}
		}
		if err == nil || kindOf(err) != Lost || w.ClaimID == "" || try == 1 {
			return a, err
		}
	}
}

const maxLeaseID = 256 // bytes

// within is do with a deadline of its own.
func (c *client) within(ctx context.Context, timeout time.Duration, method, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return c.do(ctx, method, path, in, out)
}

// step is what the holder of a lease says.
type step struct {
	Key        string          `json:"key"`
	LeaseID    string          `json:"lease_id"`
	TTL        int64           `json:"ttl,omitempty"`
	Result     json.RawMessage `json:"result,omitempty"`
	ResultHash string          `json:"result_hash,omitempty"`
	Keep       int64           `json:"keep_s,omitempty"` // of an oo-sidecar only
	Budget     settings        `json:"budget,omitempty"` // of an oo-sidecar only
}

// apply says it. It returns how long the lease goes on, of an extension.
func (c *client) apply(ctx context.Context, act string, st *step) (time.Duration, error) {
	var a leaseAnswer
	if err := c.within(ctx, stepTimeout, "POST", "/ai/"+act, st, &a); err != nil {
		return 0, err
	}
	switch {
	case a.Status == "":
		return 0, &Error{Kind: Lost, Err: errNoLease}
	case a.OK != nil && !*a.OK:
		return 0, &Error{Kind: Conflict, Status: 200, Code: codeWord(a.Status)}
	}
	return time.Duration(min(a.TTL, int64(holdFor/time.Second))) * time.Second, nil
}

const stepTimeout = 5 * time.Second

// look asks how far a key is, with its result where there is one.
func (c *client) look(ctx context.Context, key string) (a leaseAnswer, err error) {
	query := "?key=" + url.QueryEscape(key)
	if err := c.within(ctx, stepTimeout, "GET", "/ai/status"+query, nil, &a); err != nil || !a.ended() {
		return a, err
	}
	return a, c.result(ctx, key, &a)
}

// result fills in the result of a key that has ended.
func (c *client) result(ctx context.Context, key string, a *leaseAnswer) error {
	var r leaseAnswer
	err := c.within(ctx, stepTimeout, "GET", "/ai/result?key="+url.QueryEscape(key), nil, &r)
	if err == nil {
		a.Result, a.ResultHash, a.DoneAt = r.Result, r.ResultHash, r.DoneAt
	}
	return err
}

// forLong says whether a lease of another sidecar is of a call that no longer runs: its outcome is unknown there, and the
// key is held for an operator. The API has no word for that; the time says it.
func (a *leaseAnswer) forLong() bool { return max(a.TTL, a.TTLLeft) >= int64(longest/time.Second) }

// longest is more than any lease of a running call has left.
const longest = 6 * time.Hour

func (a *leaseAnswer) ended() bool { return a.Status == "completed" || a.Status == "failed" }

// when reads an instant as the API writes it; zero when it is none.
func when(text string) time.Time {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}
	}
	return t
}

// result is a tool's answer as it stands in a lease: its body only with control.results.
type result struct {
	Form   int         `json:"oo_sidecar"` // 1
	Print  string      `json:"print"`      // which arguments it is of, as keys go out
	Status int         `json:"status"`
	Size   int64       `json:"size"`
	Header [][2]string `json:"header,omitempty"`
	Body   *string     `json:"body,omitempty"` // base64
}

// maxResult bounds what is sent of one answer, in bytes of its body: the API keeps a MiB of JSON.
const maxResult = 700 << 10

// encodeResult writes an answer for the control plane.
func encodeResult(a *dedup.Answer, print string, body bool) (text json.RawMessage, hash string) {
	if a == nil {
		return nil, ""
	}
	r := result{Form: 1, Print: print, Status: a.Status, Size: a.Size}
	if body && a.Kept && len(a.Body) <= maxResult {
		for _, h := range a.Header {
			r.Header = append(r.Header, [2]string{h.Name, h.Value})
		}
		encoded := base64.StdEncoding.EncodeToString(a.Body)
		r.Body = &encoded
	}
	text, err := json.Marshal(r)
	if err != nil {
		return nil, ""
	}
	return text, hex.EncodeToString(a.SHA256[:])
}

// decodeResult reads an answer that encodeResult wrote, or what can be known of another's. print is empty when it does not
// say which arguments it is of.
func decodeResult(a *leaseAnswer) (answer *dedup.Answer, print string) {
	answer = &dedup.Answer{}
	if sum, err := hex.DecodeString(a.ResultHash); err == nil && len(sum) == len(answer.SHA256) {
		answer.SHA256 = [32]byte(sum)
	}
	var r result
	if json.Unmarshal(a.Result, &r) != nil || r.Form != 1 {
		return answer, ""
	}
	if r.Status < 200 || r.Status > 599 || r.Size < 0 {
		return answer, r.Print
	}
	answer.Status, answer.Size = r.Status, r.Size
	if r.Body == nil {
		return answer, r.Print
	}
	body, err := base64.StdEncoding.DecodeString(*r.Body)
	if err != nil || int64(len(body)) != r.Size || digest(body) != strings.ToLower(a.ResultHash) {
		return answer, r.Print
	}
	for _, h := range r.Header {
		if sound(h[0], h[1]) {
			answer.Header = append(answer.Header, tool.Header{Name: h[0], Value: h[1]})
		}
	}
	answer.Body, answer.Kept = body, true
	return answer, r.Print
}

// sound says whether a header can be given to an agent: whoever holds a lease chose it.
func sound(name, value string) bool {
	odd := func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-'
	}
	return name != "" && !strings.ContainsFunc(name, odd) && !strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f })
}
