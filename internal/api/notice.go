package api

import (
	"encoding/json"
	"time"
)

// Notice is one thing that happened to a lock or a lease: a line of the event list, and what usage and metrics count.
type Notice struct {
	Time                  time.Time
	By                    *Key
	Type                  string // locked, duplicate, ai_acquired, ai_in_progress, ai_extended, ai_completed, ai_failed, ai_canceled, ai_finished (asked for once more; counted and not listed)
	Key                   string // the lock's or lease's
	RequestID             string
	LeaseID               string // only where its holder asked
	Version               uint64
	FirstSeen             time.Time
	Done                  time.Time
	ResultHash, ErrorCode string
	Charged               bool
}

// Moment is one entry of a run's timeline that the server writes itself.
type Moment struct {
	Time      time.Time
	Tenant    string
	RunID     string
	Type      string // run_started, tool_call, tool_result, run_finished
	Status    string // started; start; executed, blocked, dedup, error; completed, failed, blocked
	Step      int    // of a job's action, from 1; 0: none
	Duration  time.Duration
	Tool      string
	AgentID   string
	RequestID string
	LeaseID   string
	Message   string // a reason or an error's code
	Data      json.RawMessage
}

// note tells who counts, if anybody does.
func (s *Server) note(n *Notice) {
	if s.Noted != nil {
		s.Noted(n)
	}
}

// moment tells the timelines, if anybody keeps them.
func (s *Server) moment(m Moment) {
	if s.Timeline != nil {
		m.Time = time.Now()
		s.Timeline(&m)
	}
}

// Quota is what a key has used of its plan this month.
type Quota struct {
	Usage, Limit int64
	Over         bool // and its plan stops there
}

// quota is the key's of locks or of leases.
func (s *Server) quota(by *Key, leases bool) Quota {
	if s.Quota != nil {
		return s.Quota(by, leases)
	}
	if leases {
		return Quota{Limit: by.terms().leases}
	}
	return Quota{Limit: by.terms().locks}
}
