// Package storetest is the law of dedup.Store as tests: one body that every store must pass.
package storetest

import (
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// Bench is a store under test with what its operator and its fate may do to it.
type Bench struct {
	Store dedup.Store
	// Advance moves the store's clock.
	Advance func(time.Duration)
	// Crash ends the process without a word and starts it again; Store is then the new one.
	Crash func(t *testing.T, b *Bench)
	// Resolve is an operator's word.
	Resolve func(*dedup.Resolution) error
	// Used is what the agent is charged: calls in the hour, spend of the day, calls of the tool on the day.
	Used func(tenant, agent, name string) (int64, tool.Money, int64)
	// Waiters is how many may wait for one key.
	Waiters int
}

// Law runs every clause against fresh stores that open makes.
func Law(t *testing.T, open func(t *testing.T) *Bench) {
	clauses := map[string]func(*testing.T, *Bench){
		"the first claim wins and its duplicates get the answer": firstWins,
		"one of many concurrent claims wins":                     oneWins,
		"every key of a call stands for it":                      allKeys,
		"a key of another call is reused":                        reusedKey,
		"a forced call does not pass an open one":                guarded,
		"failed is kept for a while":                             failedKept,
		"released runs anew with a new generation":               released,
		"not sent frees the key and keeps the generation":        notSent,
		"unknown stands until it is resolved":                    unknownStands,
		"not executed frees the key":                             notExecuted,
		"an operator's answer is replayed":                       resolvedDone,
		"unknown of an idempotent tool is taken over":            takenOver,
		"a take-over that fails changes nothing":                 takeOverFails,
		"a holder goes on under a higher fence":                  renewed,
		"take-overs end with the window":                         takeOverWindow,
		"a late answer settles":                                  lateAnswer,
		"an overtaken end changes nothing":                       overtaken,
		"an unknown light call blocks for its window":            unknownFor,
		"an unknown read binds nobody":                           unknownRead,
		"the window counts from the outcome":                     window,
		"waiters get the ending, also of what is released":       waiters,
		"too many waiters":                                       tooManyWaiters,
		"a caller that leaves stops waiting":                     waiterLeaves,
		"a crash makes running calls unknown":                    crashUnknown,
		"a crash loses no answer":                                crashKeeps,
		"caps hold under concurrency":                            caps,
		"spend holds to the micro-dollar":                        spendCap,
		"zero means none":                                        zeroCaps,
		"shadow charges and does not block":                      shadow,
		"settlement":                                             settlement,
		"the hour slides by minutes":                             hourSlides,
		"the day is UTC":                                         dayTurns,
		"calls without keys are charged only":                    keyless,
		"answers that are not kept":                              notKept,
	}
	for name, clause := range clauses {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			clause(t, open(t))
		})
	}
}
