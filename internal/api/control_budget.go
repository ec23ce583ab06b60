package api

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/audit"
	"github.com/oo-sidecar/oo-sidecar/internal/lease"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
	"github.com/oo-sidecar/oo-sidecar/policy"
)

// remoteClaim is what a sidecar's claim of a lease says beyond anybody's.
type remoteClaim struct {
	id       string // of the lease
	proposed bool   // by the sidecar: the same claim is recognised when its answer was lost
	budget   *budget
}

// budget is a call that is to be counted here.
type budget struct {
	agent, tool, run, request string
	cost                      tool.Money
}

// leaseWord begins the id of every lease.
const leaseWord = "lease_"

// remoteClaim reads claim_id and budget of a sidecar's or operator's claim; an agent's has neither.
func (f *fields) remoteClaim(by *Key) *remoteClaim {
	c := &remoteClaim{id: newLeaseID()}
	if by.Role == Agent {
		return c
	}
	if f.has("claim_id") {
		c.id, c.proposed = f.text("claim_id", 128), true
		if len(c.id) < 20 || !strings.HasPrefix(c.id, leaseWord) {
			f.bad("claim_id", "value_error", "Value error, a lease's id begins with lease_ and has 20 characters at least", nil)
		}
	}
	if f.has("budget") {
		in := f.within("budget", f.object("budget", maxRunSpec))
		c.budget = &budget{agent: in.text("agent_id", maxName), tool: in.text("tool", maxName), run: in.hint("run_id"), request: in.hint("request_id")}
		cost := in.hint("cost_usd")
		var err error
		if c.budget.cost, err = tool.ParseMoneyCeil(cmp.Or(cost, "0")); err != nil {
			in.bad("cost_usd", "value_error", "Value error, no amount", nil)
		}
	}
	return c
}

// proposes says whether id is the lease that this claim asks for, acquired when it was asked before.
func (c *remoteClaim) proposes(id string) bool { return c != nil && c.proposed && id == c.id }

func (c *remoteClaim) charges() bool { return c != nil && c.budget != nil }

// settlement reads how a call ended whose charge is kept with its lease.
func (f *fields) settlement(by *Key, usual string) string {
	if by.Role == Agent || !f.has("budget") {
		return usual
	}
	in := f.within("budget", f.object("budget", maxRunSpec))
	outcome := cmp.Or(in.hint("outcome"), usual)
	if outcome != "" && !slices.ContainsFunc(settlements, func(o dedup.Outcome) bool { return o.String() == outcome }) {
		in.bad("outcome", "enum", "Input should be done, failed, not_sent or unknown", nil)
	}
	return outcome
}

var settlements = []dedup.Outcome{dedup.Done, dedup.Failed, dedup.NotSent, dedup.Unknown}

// charges are those of leases that sidecars hold, by lease. They are claims without a key: counted, and never in the way.
type charges struct {
	mu   sync.Mutex
	open map[string]*charge // guarded by mu
}

type charge struct {
	fence, nonce uint64
	rec          audit.Record
	end          *time.Timer // when the lease is over: nobody will say how the call ended
	shadow       dedup.Limit
	decided      chan struct{} // closed once the fields above are final; a charge that was refused is then no longer open
}

// overBudget is what a reservation came to.
type overBudget struct {
	limit, shadow dedup.Limit
	retry         int // seconds
}

type shownBudget struct {
	Counted bool   `json:"counted"`
	Over    string `json:"over,omitempty"`
	Shadow  string `json:"shadow,omitempty"`
	Retry   int    `json:"retry_after_s,omitempty"`
}

func (o *overBudget) shown() *shownBudget {
	if o == nil {
		return nil
	}
	return &shownBudget{Counted: true, Over: string(o.limit), Shadow: string(o.shadow), Retry: o.retry}
}

// settleLate is how long after its lease a charge still waits for the word of how the call ended.
const settleLate = 10 * time.Second

// reserve counts a call against its agent's limits as they are here, or gives the lease back.
func (s *Server) reserve(ctx context.Context, by *Key, key string, v *lease.View, b *budget) (*overBudget, error) {
	c, mine := s.openCharge(v.ID)
	if !mine { // the same claim, asked again
		select {
		case <-c.decided:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if c.fence == 0 {
			return nil, errCharge
		}
		return &overBudget{shadow: c.shadow}, nil
	}
	defer close(c.decided)
	snapshot := s.Governor.Snapshot()
	p := snapshot.Policies.For(b.agent)
	t, _ := snapshot.Registry.ByName(b.tool, b.agent)
	cost := p.Cost(t, b.tool, b.cost)
	c.nonce, c.rec = rand.Uint64(), audit.Record{
		Time: time.Now().UTC(), AgentID: b.agent, Tool: b.tool, Tenant: by.Namespace, Route: "lease", RunID: b.run, RequestID: cmp.Or(b.request, newID()),
		Decision: "executed", PolicyReason: "ok", Attempt: 1, SpendUSD: cost.String(), RiskLevel: string(p.Risk(b.tool, t, policy.OK, cost, false)),
	}
	begun, err := s.Governor.Store.Begin(ctx, &dedup.Claim{
		Nonce: c.nonce, Tenant: by.Namespace, Agent: b.agent, Tool: b.tool, Effect: tool.Mutating, Timeout: v.TTL,
		Cost: cost, Limits: p.Limits(b.tool), Shadow: p.Shadow(), Record: func() []byte { return c.rec.Append(nil) },
	})
	if err == nil && begun.Status == dedup.Mine {
		c.fence, c.shadow = begun.Fence, begun.Shadow
		s.keepCharge(v, c)
		return &overBudget{shadow: begun.Shadow}, nil
	}
	s.dropCharge(v.ID)
	_, released := s.Leases.Apply(context.WithoutCancel(ctx), lease.Name{Tenant: by.Namespace, Key: key}, lease.Step{Act: lease.Cancel, ID: v.ID})
	switch {
	case err != nil:
		return nil, err
	case released != nil:
		return nil, released
	case begun.Status != dedup.Over:
		return nil, fmt.Errorf("a charge was answered with status %d", begun.Status)
	}
	c.rec.Decision, c.rec.PolicyReason, c.rec.Outcome, c.rec.SpendUSD, c.rec.Attempt = "blocked", string(begun.Over), "not_sent", "0", 0
	s.Governor.Record(&c.rec)
	return &overBudget{limit: begun.Over, retry: max(1, int((begun.RetryAfter+time.Second-1)/time.Second))}, nil
}

var errCharge = fmt.Errorf("%w: the same claim was refused a moment ago", lease.ErrUnavailable)

// openCharge is the charge of a lease; mine if it is made now.
func (s *Server) openCharge(id string) (c *charge, mine bool) {
	s.charges.mu.Lock()
	defer s.charges.mu.Unlock()
	if c = s.charges.open[id]; c != nil {
		return c, false
	}
	if s.charges.open == nil {
		s.charges.open = map[string]*charge{}
	}
	c = &charge{decided: make(chan struct{})}
	s.charges.open[id] = c
	return c, true
}

func (s *Server) dropCharge(id string) {
	s.charges.mu.Lock()
	defer s.charges.mu.Unlock()
	delete(s.charges.open, id)
}

// keepCharge has a charge wait for its lease's end.
func (s *Server) keepCharge(v *lease.View, c *charge) {
	s.charges.mu.Lock()
	defer s.charges.mu.Unlock()
	id := v.ID
	c.end = time.AfterFunc(v.Left(v.Now)+settleLate, func() { s.settle(id, dedup.Unknown.String(), 0) })
}

// settle ends the charge of a lease: as outcome says, or, without one, later: the lease goes on for left.
func (s *Server) settle(id, outcome string, left time.Duration) {
	s.charges.mu.Lock()
	c := s.charges.open[id]
	if c == nil || c.end == nil || outcome == "" {
		if c != nil && c.end != nil {
			c.end.Reset(left + settleLate)
		}
		s.charges.mu.Unlock()
		return
	}
	delete(s.charges.open, id)
	s.charges.mu.Unlock()
	c.end.Stop()
	end := dedup.End{Agent: c.rec.AgentID, Fence: c.fence, Nonce: c.nonce, Outcome: dedup.Unknown}
	for _, o := range settlements {
		if o.String() == outcome {
			end.Outcome = o
		}
	}
	c.rec.Outcome, c.rec.Fence = outcome, c.fence
	c.rec.DurationMS = float64(time.Since(c.rec.Time).Microseconds()) / 1000
	if end.Outcome == dedup.Failed || end.Outcome == dedup.NotSent {
		c.rec.SpendUSD = "0"
	}
	end.Record = c.rec.Append(nil)
	if err := s.Governor.Store.Finish(context.Background(), &end); err != nil {
		s.Log.Error("the charge of a lease is not settled; it stands", "agent", c.rec.AgentID, "tool", c.rec.Tool, "error", err.Error())
	}
}
