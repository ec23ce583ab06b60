package store

import (
	"fmt"
	"strconv"
)

// Facts are what is known of the server, by name, for people.
func (r *Redis) Facts() [][2]string {
	j := r.client.judgement()
	state := "connected"
	if err := r.client.err(); err != nil {
		state = "away: " + err.Error()
	}
	facts := [][2]string{
		{"redis", state}, {"redis_version", j.Version}, {"redis_replicas", strconv.Itoa(j.Replicas)},
		{"redis_memory", fmt.Sprintf("%.0f%% of maxmemory", 100*j.Memory)},
		{"kill_switch_read_ms", strconv.FormatInt(min(r.sinceSwitchHeard().Milliseconds(), 1<<40), 10)},
	}
	clocks := r.inUse()
	if r.opt.Redis.apart() {
		facts = append(facts, [2]string{"redis_shards", fmt.Sprintf("one for each agent: %d known, %d in use here", len(r.allShards()), len(clocks))})
	}
	for _, s := range clocks {
		for _, line := range s.clock.facts(r.ahead()) {
			facts = append(facts, [2]string{"redis_clock", line})
		}
		if err := r.client.errOf(s.tag); err != nil && s.apart {
			facts = append(facts, [2]string{"redis_shard", s.agent + ": " + err.Error()})
		}
	}
	for _, p := range append(j.Problems[:len(j.Problems):len(j.Problems)], j.Unchecked...) {
		facts = append(facts, [2]string{"redis_weakness", p})
	}
	return facts
}
