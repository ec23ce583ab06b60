package api

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/govern"
	"github.com/oo-sidecar/oo-sidecar/internal/lease"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// workers bounds the jobs, and knows when nothing is being done any more.
type workers struct {
	once   sync.Once
	places chan struct{}

	mu   sync.Mutex
	jobs int           // waiting or running; guarded by mu
	busy int           // jobs and calls; guarded by mu
	idle chan struct{} // closed when busy falls to 0, while somebody waits for it; guarded by mu
}

// admit lets one more job in if there is room.
func (k *workers) admit() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.jobs >= maxJobs {
		return false
	}
	k.jobs++
	k.busy++
	return true
}

// enter lets a job in that was there before.
func (k *workers) enter() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.jobs++
	k.busy++
}

// leave is the end of a job that was let in.
func (k *workers) leave() {
	k.mu.Lock()
	k.jobs--
	k.mu.Unlock()
	k.end()
}

func (k *workers) begin() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.busy++
}

func (k *workers) end() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.busy--; k.busy == 0 && k.idle != nil {
		close(k.idle)
		k.idle = nil
	}
}

// place waits for one of the places for running jobs, until ctx ends.
func (k *workers) place(ctx context.Context) bool {
	k.once.Do(func() { k.places = make(chan struct{}, jobsAtOnce) })
	select {
	case k.places <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// Drain waits until no tool call and no job's action is running, or until ctx ends. Jobs stop between two actions once
// the governor is draining, and go on after the next start.
func (s *Server) Drain(ctx context.Context) {
	k := &s.work
	k.mu.Lock()
	if k.busy == 0 {
		k.mu.Unlock()
		return
	}
	if k.idle == nil {
		k.idle = make(chan struct{})
	}
	idle := k.idle
	k.mu.Unlock()
	select {
	case <-idle:
	case <-ctx.Done():
	}
}

// performance is one job at work.
type performance struct {
	s    *Server
	by   *Key
	work lease.Work
	plan *jobPlan
	dry  Spent            // what the rehearsed actions would have used so far
	tool map[string]int64 // the same, calls by tool
	ctx  context.Context  // ends when the lease is lost or the sidecar stops
	stop context.CancelFunc
}

// perform runs a job to its end, or to where the sidecar stops.
func (s *Server) perform(by *Key, work lease.Work, resumed bool) {
	defer s.work.leave()
	defer func() {
		if x := recover(); x != nil {
			s.Log.Error("a job made the sidecar panic; its lease expires", "panic", x)
		}
	}()
	p := &performance{s: s, by: by, work: work}
	p.ctx, p.stop = context.WithCancel(s.Calls)
	defer p.stop()
	if resumed && !p.step(lease.Step{Act: lease.Resume}) {
		return
	}
	go p.hold()
	if !s.work.place(p.ctx) {
		return
	}
	defer func() { <-s.work.places }()
	f := &fields{at: []any{"metadata"}, faults: new([]fault)}
	if work.Job.Spec != nil {
		f = f.within("metadata", work.Job.Spec)
	}
	p.plan = planOf(f)
	p.moment("run_started", "started", "")
	p.actions(resumed)
}

// hold extends the job's lease while the job is at work.
func (p *performance) hold() {
	t := time.NewTicker(max(p.work.TTL/3, time.Second))
	defer t.Stop()
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-t.C:
			if !p.step(lease.Step{Act: lease.Resume}) {
				p.stop()
				return
			}
		}
	}
}

// actions runs what is left of the job, one action after the other, until one fails.
func (p *performance) actions(resumed bool) {
	job := p.work.Job
	answers := job.Answers
	begun, begunAt := job.Begun, job.BegunAt
	for i := len(answers); i < len(p.plan.actions); i++ {
		c := p.plan.call(&p.work, i)
		if p.s.Governor.Draining.Load() {
			return
		}
		var a *toolAnswer
		switch {
		case p.plan.dry:
			a = p.rehearse(c)
		case begun && resumed && !p.repeatable(c, begunAt):
			a = unknownAnswer(c)
		case !begun && !p.step(lease.Step{Act: lease.Begin}):
			return
		default:
			if a = p.attempt(c, i); a == nil {
				return
			}
		}
		begun = false
		if !p.plan.dry {
			answer := actionAnswerOf(c, a)
			if !p.step(lease.Step{Act: lease.Note, Answer: answer}) {
				return
			}
			answers = append(answers[:len(answers):len(answers)], answer)
		} else {
			answers = append(answers[:len(answers):len(answers)], dryAnswerOf(c, a))
		}
		if !a.OK {
			p.finish(lease.Step{Act: lease.Fail, ErrorCode: a.errorCode(), Result: jobResult(false, answers)}, "failed", a.errorCode())
			return
		}
	}
	result := jobResult(true, answers)
	p.finish(lease.Step{Act: lease.Complete, Result: result, ResultHash: resultHash(result)}, "completed", "")
}

// attempt calls the tool, and again while it is busy. Nil: the sidecar is stopping and the job goes on after the start.
func (p *performance) attempt(c *govern.Request, i int) *toolAnswer {
	for n := 0; ; n++ {
		c.Arrived = time.Now()
		a := p.s.call(c, i+1)
		again := false
		switch a.PolicyReason {
		case "draining":
			return nil
		case "in_flight", "overloaded", "store_unavailable":
			again = n < 5
		}
		if !again {
			return a
		}
		if !p.pause(time.Duration(max(a.Error.RetryAfter, 1)) * time.Second) {
			return nil
		}
		c.ID = newID()
	}
}

func (p *performance) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-p.ctx.Done():
		return false
	}
}

// repeatable says whether an action that the last process had begun may be asked for again: it is the same call to the
// governor, which then knows what came of it. A call that nothing is remembered of may have run already.
func (p *performance) repeatable(c *govern.Request, begunAt time.Time) bool {
	e := p.explain(c)
	if e.Refusal != nil || e.Tool == nil || e.Tool.Effect == tool.Read {
		return true
	}
	return e.Key != "" && time.Since(begunAt) < e.Tool.Dedup.TTL
}

func (p *performance) explain(c *govern.Request) govern.Explanation {
	g := p.s.Governor
	return g.Snapshot().Explain(c, func(k dedup.Key) string { return g.Shown(k) }, g.Disabled)
}

func unknownAnswer(c *govern.Request) *toolAnswer {
	f := govern.NewRefusal("outcome_unknown", "")
	return &toolAnswer{Decision: string(govern.Blocked), PolicyReason: f.Code, RiskLevel: "medium", RunID: c.RunID, RequestID: c.ID,
		Error: &toolError{Code: f.Code, Message: "The sidecar stopped while this action ran, and nothing was remembered of it.", Hint: f.Hint}}
}

func dryAnswerOf(c *govern.Request, a *toolAnswer) []byte {
	return encode(actionAnswer{Tool: c.Name, Decision: a.Decision, PolicyReason: a.PolicyReason, DryRun: true})
}

// step makes a step of the job durable, however long the disk takes. False: the lease is no longer this job's, or the
// sidecar is stopping.
func (p *performance) step(st lease.Step) bool {
	st.ID = p.work.ID
	for {
		_, err := p.s.Leases.Apply(context.WithoutCancel(p.ctx), p.work.Name, st)
		switch {
		case err == nil || errors.Is(err, lease.ErrDeferred):
			return true
		case !errors.Is(err, lease.ErrUnavailable):
			return false
		}
		p.s.Log.Error("a step of a job could not be made durable", "error", err)
		if !p.pause(time.Second) {
			return false
		}
	}
}

// finish ends the job.
func (p *performance) finish(st lease.Step, status, code string) {
	if !p.step(st) {
		return
	}
	n := &Notice{Time: time.Now(), By: p.by, Type: "ai_completed", Key: p.work.Name.Key, LeaseID: p.work.ID, Version: p.work.Version,
		FirstSeen: p.work.First, Done: time.Now(), ResultHash: st.ResultHash, ErrorCode: code}
	if status == "failed" {
		n.Type = "ai_failed"
	}
	p.s.note(n)
	p.moment("run_finished", status, code)
}

func (p *performance) moment(kind, status, message string) {
	p.s.moment(Moment{Tenant: p.work.Name.Tenant, RunID: p.work.Job.RunID, Type: kind, Status: status, AgentID: p.work.Job.Agent, LeaseID: p.work.ID, Message: message})
}
