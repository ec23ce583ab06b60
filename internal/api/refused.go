package api

import (
	"net/http"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/audit"
	"github.com/oo-sidecar/oo-sidecar/internal/govern"
	"github.com/oo-sidecar/oo-sidecar/policy"
)

// exchange is one request's answer, watched for its status.
type exchange struct {
	http.ResponseWriter
	status int
	asked  bool // it came as far as the question whose key this is
	by     *Key // nil: nobody's
}

func (x *exchange) WriteHeader(status int) {
	if x.status == 0 {
		x.status = status
	}
	x.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (x *exchange) Unwrap() http.ResponseWriter { return x.ResponseWriter }

// asked notes whose request it is.
func asked(w http.ResponseWriter, by *Key) {
	if x, ok := w.(*exchange); ok {
		x.asked, x.by = true, by
	}
}

// witness leaves an audit record of each request that is refused here. Calls leave theirs in the governor, changes leave
// a change, and what locks and leases do is counted; a request that never became any of them would leave no trace.
func (s *Server) witness(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		arrived := time.Now()
		x := &exchange{ResponseWriter: w}
		next.ServeHTTP(x, r)
		if reason, risk := x.refusal(); reason != "" && s.Record != nil {
			s.Record(x.record(r, reason, risk, arrived))
		}
	})
}

// refusal is why the request was refused; "" when it was not, or when the governor has said so.
func (x *exchange) refusal() (reason string, risk policy.Risk) {
	switch {
	case !x.asked && x.status >= 400 && x.status != http.StatusNotFound:
		return "browser_request_denied", policy.Medium // or another Host's, which comes from pages too
	case x.status == http.StatusUnauthorized:
		return "api_key_missing", policy.Medium
	case x.status == http.StatusForbidden && x.by == nil:
		return "api_key_invalid", policy.High
	case x.status == http.StatusForbidden:
		return "api_forbidden", policy.High
	case x.status == http.StatusPaymentRequired:
		return "plan_limit_reached", policy.Low
	case x.status == http.StatusRequestEntityTooLarge:
		return "request_too_large", policy.Low
	case x.status == http.StatusUnprocessableEntity:
		return "bad_request", policy.Low
	case x.status == http.StatusTooManyRequests:
		return "rate_limited", policy.Low
	}
	return "", ""
}

func (x *exchange) record(r *http.Request, reason string, risk policy.Risk, arrived time.Time) *audit.Record {
	rec := &audit.Record{
		Time: arrived.UTC(), Route: string(govern.Direct), Method: r.Method, Decision: string(govern.Blocked), PolicyReason: reason,
		RiskLevel: string(risk), Outcome: dedup.NotSent.String(), SpendUSD: "0", RequestID: requestID(x),
		Detail: r.Method + " " + r.URL.EscapedPath(), DurationMS: float64(time.Since(arrived).Microseconds()) / 1000,
	}
	if x.by != nil {
		rec.AgentID, rec.Tenant, rec.Rule = x.by.AgentID, x.by.Namespace, "key "+x.by.Name
	}
	return rec
}
