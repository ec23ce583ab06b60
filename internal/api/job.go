package api

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"

	"github.com/oo-sidecar/oo-sidecar/internal/govern"
	"github.com/oo-sidecar/oo-sidecar/internal/lease"
)

const (
	maxActions   = 50       // of a job; further ones are not run
	maxJobs      = 1024     // that wait or run
	jobsAtOnce   = 16       // that run
	maxActResult = 16 << 10 // bytes of one action's result that a job keeps
	defaultAgent = "default"
)

// runJob answers POST /v1/ai/run with a key. Who acquires the key has its actions run in the background.
func (s *Server) runJob(w http.ResponseWriter, r *http.Request, by *Key, f *fields) {
	key, ttl := f.text("key", maxKeyText), f.seconds("ttl")
	spec := f.object("metadata", maxRunSpec)
	plan := planOf(f.within("metadata", spec))
	if f.refuse(w) {
		return
	}
	agent := or(plan.agent, or(by.AgentID, defaultAgent))
	if !s.asItself(w, by, agent) {
		return
	}
	if s.Governor == nil {
		missing(w, "jobs")
		return
	}
	if !s.work.admit() {
		tooMany(w, 1, "too many jobs are waiting; nothing has changed")
		return
	}
	job := &lease.Job{Run: newID(), Spec: spec, Agent: agent, RunID: or(plan.runID, key), Key: by.Name}
	v := s.claimLease(w, r, by, key, lease.Claim{ID: newLeaseID(), TTL: by.ttl(ttl), Job: job}, nil)
	if v == nil {
		s.work.leave()
		return
	}
	go s.perform(by, lease.Work{Name: lease.Name{Tenant: by.Namespace, Key: key}, State: v.State}, false)
}

// ResumeJobs goes on with the jobs that the last process left. Call it once, when calls can be made.
func (s *Server) ResumeJobs() {
	if s.Leases == nil || s.Governor == nil {
		return
	}
	for _, work := range s.Leases.Jobs() {
		s.work.enter()
		by := s.keys.Load().named(work.Job.Key, work.Name.Tenant)
		go s.perform(by, work, true)
	}
}

// named is the key of that name; where there is none any more, an agent's without a plan, for those who count.
func (ring *Keyring) named(name, namespace string) *Key {
	for i := range ring.keys {
		if ring.keys[i].Name == name && ring.keys[i].Namespace == namespace {
			return &ring.keys[i]
		}
	}
	return &Key{Name: name, Role: Agent, Namespace: namespace, Plan: "agency"}
}

// plan is what the metadata of a job asks for.
type jobPlan struct {
	agent, runID string
	dry          bool
	actions      []govern.Request
}

// planOf reads the metadata of a job.
func planOf(f *fields) *jobPlan {
	p := &jobPlan{dry: f.truthy("dry_run")}
	if f.has("agent_id") {
		p.agent = f.plain("agent_id")
	}
	if f.has("run_id") {
		p.runID = f.plain("run_id")
	}
	if !f.has("actions") {
		return p
	}
	var actions []json.RawMessage
	if json.Unmarshal(f.raw["actions"], &actions) != nil {
		f.bad("actions", "list_type", "Input should be a valid list", f.raw["actions"])
		return p
	}
	list := &fields{at: append(append([]any{}, f.at...), "actions"), faults: f.faults}
	for i, raw := range actions[:min(len(actions), maxActions)] {
		if raw[0] != '{' {
			list.bad(i, "dict_type", "Input should be a valid dictionary", raw)
			continue
		}
		p.actions = append(p.actions, *callOf(list.within(i, raw), ""))
	}
	return p
}

// truthy reads what people write for yes.
func (f *fields) truthy(name string) bool {
	switch string(f.raw[name]) {
	case "true", "1", `"true"`, `"True"`, `"1"`, `"yes"`:
		return true
	}
	return false
}

// call is the i-th action as a request. Its identity is the job's and its own: an action that is run again after a
// crash is the same call to tools that go by the client's key.
func (p *jobPlan) call(work *lease.Work, i int) *govern.Request {
	c := p.actions[i]
	c.Tenant, c.Agent = work.Name.Tenant, work.Job.Agent
	c.RunID = or(c.RunID, work.Job.RunID)
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d %d %s %s", work.Job.Run, i, len(c.Name), c.Name, c.Body))
	c.IdempotencyKey = []string{"job_" + hex.EncodeToString(sum[:16])}
	return &c
}

// actionAnswer is what one action came to.
type actionAnswer struct {
	Tool         string          `json:"tool"`
	Decision     string          `json:"decision"`
	PolicyReason string          `json:"policy_reason"`
	Result       json.RawMessage `json:"result"`
	ResultKept   *bool           `json:"result_kept,omitempty"` // false: it was too large
	DryRun       bool            `json:"dry_run,omitempty"`
}

func actionAnswerOf(c *govern.Request, a *toolAnswer) []byte {
	out := actionAnswer{Tool: c.Name, Decision: a.Decision, PolicyReason: a.PolicyReason, Result: a.Result}
	if len(out.Result) > maxActResult {
		out.Result, out.ResultKept = nil, new(bool)
	}
	return encode(out)
}

func encode(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		return []byte("{}")
	}
	return data
}

// jobResult is the result of a job.
func jobResult(ok bool, answers [][]byte) []byte {
	out := append([]byte(`{"ok":`), strconv.FormatBool(ok)...)
	out = append(out, `,"actions":[`...)
	for i, a := range answers {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, a...)
	}
	return append(out, "]}"...)
}

// errorCode is how a job calls the failure of one of its actions.
func (a *toolAnswer) errorCode() string {
	switch {
	case a.toolFault():
		return "tool_error"
	case a.PolicyReason == notRegistered:
		return "tool_not_found"
	}
	switch a.PolicyReason {
	case "outcome_unknown", "in_flight", "result_not_kept", "store_unavailable", "overloaded", "internal", "arguments_unparseable":
		return a.PolicyReason
	}
	return "policy_blocked"
}
