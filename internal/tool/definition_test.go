package tool

import (
	"reflect"
	"testing"
	"time"
)

func TestChanged(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	base := Config{Name: "t", URL: "https://h/a", Timeout: time.Second, MaxRetries: ptr(1), Dedup: DedupConfig{TTL: ptr(time.Hour), FailedTTL: ptr(time.Minute)}}
	until := now.Add(time.Hour + 2*time.Second) // the answer's life, and that of a call that has just begun
	with := func(change func(*Config)) *Tool {
		c := base
		change(&c)
		return build(t, c)
	}
	old := with(func(*Config) {})
	for _, v := range []struct {
		name    string
		updated *Tool
		want    []Definition
	}{
		{"nothing", with(func(*Config) {}), nil},
		{"what is no part of the key", with(func(c *Config) { c.Timeout, c.Price, c.Effect = time.Minute, 5, "read" }), nil},
		{"url", with(func(c *Config) { c.URL = "https://h/b" }), []Definition{{Authority: "h:443", Path: "/a", Scope: "agent", Until: until}}},
		{"host", with(func(c *Config) { c.URL = "https://i/a" }), []Definition{{Authority: "h:443", Path: "/a", Scope: "agent", Until: until}}},
		{"scope", with(func(c *Config) { c.Dedup.Scope = "global" }), []Definition{{Scope: "agent", Until: until}}},
		{"ignored members", with(func(c *Config) { c.Dedup.Ignore = []string{"/x"} }), []Definition{{Scope: "agent", Until: until}}},
	} {
		if got := Changed(old, v.updated, now); !reflect.DeepEqual(got, v.want) {
			t.Errorf("%s: %+v, want %+v", v.name, got, v.want)
		}
	}
	if got := Changed(nil, old, now); got != nil {
		t.Errorf("a new tool has previous definitions: %+v", got)
	}
	a := with(func(c *Config) { c.Dedup.Ignore = []string{"/x", "/y"} })
	b := with(func(c *Config) { c.Dedup.Ignore = []string{"/y", "/x"} })
	if got := Changed(a, b, now); got != nil {
		t.Errorf("the order of ignored members counts: %+v", got)
	}
}

func TestChangedAgainAndAgain(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	tool := func(path, scope string, ttl time.Duration) *Tool {
		return build(t, Config{Name: "t", URL: "https://h" + path, Timeout: time.Second, MaxRetries: ptr(0),
			Dedup: DedupConfig{TTL: &ttl, FailedTTL: ptr(time.Duration(0)), Scope: scope}})
	}
	life := func(at, ttl time.Duration) time.Time { return start.Add(at + ttl + time.Second) }
	steps := []struct {
		at   time.Duration
		next *Tool
		want []Definition
	}{
		{0, tool("/a", "agent", 10*time.Hour), nil},
		{time.Hour, tool("/a", "run", time.Hour), []Definition{
			{Scope: "agent", Until: life(time.Hour, 10*time.Hour)}}},
		{2 * time.Hour, tool("/b", "run", time.Hour), []Definition{
			{Authority: "h:443", Path: "/a", Scope: "run", Until: life(2*time.Hour, time.Hour)},
			{Authority: "h:443", Path: "/a", Scope: "agent", Until: life(time.Hour, 10*time.Hour)}}},
		// /a for runs has gone after an hour; /a again makes the address the tool's own
		{4 * time.Hour, tool("/a", "global", time.Hour), []Definition{
			{Authority: "h:443", Path: "/b", Scope: "run", Until: life(4*time.Hour, time.Hour)},
			{Scope: "agent", Until: life(time.Hour, 10*time.Hour)}}},
		// back to what it was at first: that is no previous definition
		{5 * time.Hour, tool("/a", "agent", time.Hour), []Definition{
			{Scope: "global", Until: life(5*time.Hour, time.Hour)},
			{Authority: "h:443", Path: "/b", Scope: "run", Until: life(4*time.Hour, time.Hour)}}},
		{6 * time.Hour, tool("/a", "global", time.Hour), []Definition{
			{Scope: "agent", Until: life(6*time.Hour, time.Hour)}}},
		{20 * time.Hour, tool("/a", "global", time.Hour), nil},
	}
	var current *Tool
	for _, s := range steps {
		s.next.Previous = Changed(current, s.next, start.Add(s.at))
		if !reflect.DeepEqual(s.next.Previous, s.want) {
			t.Fatalf("after %v: %+v, want %+v", s.at, s.next.Previous, s.want)
		}
		current = s.next
	}
}

func TestChangedKeepsTheLongerLife(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	far := now.Add(100 * time.Hour)
	old := build(t, Config{Name: "t", URL: "https://h/a"})
	old.Previous = []Definition{{Scope: "agent", Until: far}, {Scope: "run", Until: now}}
	updated := build(t, Config{Name: "t", URL: "https://h/b"})
	want := []Definition{{Authority: "h:443", Path: "/a", Scope: "agent", Until: far}}
	if got := Changed(old, updated, now); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}
