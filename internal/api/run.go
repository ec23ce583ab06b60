package api

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/govern"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

const (
	maxCallBody = 8 << 20
	toolWait    = 4 * time.Second // for a running duplicate: the SDKs give up after 5
)

// run answers POST /v1/ai/run: a job that runs in the background under a key, or a tool call that is governed and
// answered at once.
func (s *Server) run(w http.ResponseWriter, r *http.Request, by *Key) {
	f := fieldsOf(w, r, maxCallBody)
	if f == nil {
		return
	}
	job, call := f.has("key"), f.has("agent_id") || f.has("tool")
	switch {
	case job == call:
		f.bad(nil, "value_error", "Value error, either key, or agent_id and tool, must be given", nil)
		f.refuse(w)
	case job:
		s.runJob(w, r, by, f)
	default:
		s.runTool(w, by, f)
	}
}

// runTool is the very sequence that the proxy runs. It goes on when its caller has gone.
func (s *Server) runTool(w http.ResponseWriter, by *Key, f *fields) {
	c := callOf(f, "agent_id")
	if f.refuse(w) || !s.asItself(w, by, c.Agent) {
		return
	}
	if s.Governor == nil {
		missing(w, "tool calls")
		return
	}
	if q := s.quota(by, true); q.Over {
		overLimit(w, by, q)
		return
	}
	if c.RunID == "" {
		c.RunID = "run_" + newID()
	}
	c.Tenant, c.Wait = by.Namespace, toolWait
	s.moment(Moment{Tenant: c.Tenant, RunID: c.RunID, Type: "run_started", Status: "started", AgentID: c.Agent, RequestID: c.ID})
	a := s.call(c, 0)
	s.moment(Moment{Tenant: c.Tenant, RunID: c.RunID, Type: "run_finished", Status: a.runStatus(), AgentID: c.Agent, RequestID: c.ID, Message: a.PolicyReason})
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(time.Minute)) // a tool may have taken longer than that
	if a.PolicyReason == notRegistered {
		fail(w, http.StatusNotFound, struct {
			problem
			Tool  string `json:"tool"`
			Agent string `json:"agent_id"`
		}{problem{"tool_not_found", "no tool of this name is registered"}, c.Name, c.Agent})
		return
	}
	answer(w, http.StatusOK, a)
}

// callOf reads a tool call from its fields. agent is the member that names its agent; "" when they do not.
func callOf(f *fields, agent string) *govern.Request {
	c := &govern.Request{
		ID: newID(), Arrived: time.Now(), Route: govern.Direct, Method: http.MethodPost,
		Header: []tool.Header{{Name: "Content-Type", Value: "application/json"}}, HasBody: true,
	}
	if agent != "" {
		c.Agent = f.plain(agent)
	}
	c.Name = f.plain("tool")
	c.Body = f.object("args", maxCallBody)
	if c.Body == nil {
		c.Body = []byte("{}")
	}
	c.RunID = f.runID(c)
	if f.has("spend_usd") {
		c.Spend = f.amount("spend_usd")
	}
	return c
}

// runID takes the run id that the newer SDKs put among the arguments. It names a timeline and is no part of what the
// call is. A number of that name is an argument of the tool's own.
func (f *fields) runID(c *govern.Request) string {
	args, _ := splitObject(c.Body)
	raw := args["run_id"]
	if len(raw) == 0 || raw[0] != '"' {
		return ""
	}
	c.Ignore = []string{"/run_id"}
	in := &fields{raw: map[string]json.RawMessage{"run_id": raw}, at: append(append([]any{}, f.at...), "args"), faults: f.faults}
	if string(raw) == `""` {
		return ""
	}
	return in.plain("run_id")
}

// plain reads a string that may stand in a header of the request to the tool.
func (f *fields) plain(name string) string {
	text := f.text(name, maxName)
	for i := range len(text) {
		if text[i] < ' ' || text[i] == 0x7f {
			f.bad(name, "value_error", "Value error, control characters are not allowed", nil)
			return ""
		}
	}
	return text
}

// amount reads an amount of US dollars as it stands: it is rounded up to the micro-dollar later, never through a float.
func (f *fields) amount(name string) string {
	raw := f.raw[name]
	if !isNumber(raw) {
		f.bad(name, "float_type", "Input should be a valid number", raw)
	} else if _, err := tool.ParseMoneyCeil(string(raw)); err != nil {
		f.bad(name, "value_error", "Value error, "+err.Error(), raw)
	}
	return string(raw)
}

// call governs one call, with its two lines in the run's timeline.
func (s *Server) call(c *govern.Request, step int) *toolAnswer {
	s.work.begin()
	defer s.work.end()
	line := Moment{Tenant: c.Tenant, RunID: c.RunID, Type: "tool_call", Status: "start", Step: step, Tool: c.Name, AgentID: c.Agent, RequestID: c.ID}
	s.moment(line)
	a := toolAnswerOf(s.Calls, c, s.Governor.Govern(s.Calls, c))
	line.Type, line.Status, line.Message, line.Duration = "tool_result", a.lineStatus(), a.PolicyReason, time.Since(c.Arrived)
	s.moment(line)
	return a
}
