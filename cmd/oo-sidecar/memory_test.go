package main

import "testing"

func TestMemoryWanted(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct{ live, stacks, want int64 }{
		{0, 0, 64 * mib},
		{20 * mib, 4 * mib, 64 * mib},
		{100 * mib, 10 * mib, 226 * mib}, // never less than a doubling: collecting all the time helps nobody
	} {
		if got := wanted(uint64(c.live), uint64(c.stacks)); got != c.want {
			t.Errorf("%d live, %d of stacks: %d, want %d", c.live, c.stacks, got, c.want)
		}
	}
}
