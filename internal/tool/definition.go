package tool

import (
	"slices"
	"time"
)

// Definition says what of the tool enters the key of its calls.
func (t *Tool) Definition() Definition {
	return Definition{Authority: t.Target.Authority, Path: t.Target.Path, Scope: t.Dedup.Scope, Ignore: t.Dedup.Ignore}
}

// Changed is the Previous of a tool that replaces old at now: what old was, if that made other keys, and what it had
// been before, as long as keys made under it may live. The address is empty where it is the new tool's own. Old may be
// nil. Both tools stay as they are.
func Changed(old, updated *Tool, now time.Time) []Definition {
	if old == nil {
		return nil
	}
	last := old.Definition()
	last.Until = now.Add(old.KeyLife())
	var kept []Definition
	for _, d := range append([]Definition{last}, old.Previous...) {
		if d.Authority == "" {
			d.Authority, d.Path = old.Target.Authority, old.Target.Path
		}
		if d.sameKeys(updated.Definition()) || !d.Until.After(now) {
			continue
		}
		if i := slices.IndexFunc(kept, d.sameKeys); i >= 0 {
			kept[i].Until = later(kept[i].Until, d.Until)
			continue
		}
		kept = append(kept, d)
	}
	for i := range kept {
		if kept[i].Authority == updated.Target.Authority && kept[i].Path == updated.Target.Path {
			kept[i].Authority, kept[i].Path = "", ""
		}
	}
	return kept
}

// Joined are the definitions of both lists, each once.
func Joined(a, b []Definition) []Definition {
	joined := slices.Clone(a)
	for _, d := range b {
		if i := slices.IndexFunc(joined, d.sameKeys); i >= 0 {
			joined[i].Until = later(joined[i].Until, d.Until)
			continue
		}
		joined = append(joined, d)
	}
	return joined
}

// KeyLife is how long a key made now may live: until its call has ended, and the longest time its answer is kept.
func (t *Tool) KeyLife() time.Duration {
	return max(t.Dedup.TTL, t.Dedup.FailedTTL) + time.Duration(t.MaxRetries+1)*t.Timeout
}

func (d Definition) sameKeys(o Definition) bool {
	return d.Authority == o.Authority && d.Path == o.Path && d.Scope == o.Scope && sameMembers(d.Ignore, o.Ignore)
}

// sameMembers compares lists whose order does not count.
func sameMembers(a, b []string) bool {
	a, b = slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b))
	return slices.Equal(slices.Compact(a), slices.Compact(b))
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
