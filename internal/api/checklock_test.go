package api_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/api/apitest"
	"github.com/oo-sidecar/oo-sidecar/internal/lease"
)

func TestCheckLockOnTheWire(t *testing.T) {
	h := newHouse(t, setup{})
	first := h.ask(opsKey, "POST", "/v1/check-lock", `{"key": "k\u00e4y 1/\u00e4", "ttl": 5, "metadata": {"a": 1, "d": "<class 'object'>"}, "new_field": [1]}`, "X-Request-Id", "my-rid")
	if first.status != 200 || first.text != `{"success":true,"status":"locked","key":"käy 1/ä","ttl":10,"first_seen_at":null}` {
		t.Fatalf("%d %s", first.status, first.text)
	}
	if first.header.Get("X-Request-Id") != "my-rid" || first.header.Get("X-OnceOnly-Status") != "locked" || first.header.Get("Content-Type") != "application/json" {
		t.Errorf("%v", first.header)
	}
	again := h.post("/v1/check-lock", `{"key":"käy 1/ä","ttl":500}`)
	if !regexp.MustCompile(`^\{"success":false,"status":"duplicate","key":"käy 1/ä","ttl":10,"first_seen_at":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"\}$`).MatchString(again.text) {
		t.Fatalf("%s", again.text)
	}
	if again.header.Get("X-OnceOnly-Status") != "duplicate" || len(again.header.Get("X-Request-Id")) < 16 {
		t.Errorf("%v", again.header)
	}
	h.clock.advance(9 * time.Second)
	if third := h.post("/v1/check-lock", `{"key":"käy 1/ä"}`); third.body["first_seen_at"] != again.body["first_seen_at"] {
		t.Errorf("%s", third.text)
	}
	h.clock.advance(2 * time.Second)
	h.post("/v1/check-lock", `{"key":"käy 1/ä"}`).is(t, 200, map[string]any{"status": "locked", "ttl": 86400})
	if got := fmt.Sprint(h.heard()); got != "[locked duplicate duplicate locked]" {
		t.Error(got)
	}
}

func TestTTLIsClampedToThePlan(t *testing.T) {
	h := newHouse(t, setup{})
	for key, ttls := range map[string]map[string]int{
		opsKey:  {"": 86400, `,"ttl":null`: 86400, `,"ttl":1`: 10, `,"ttl":10`: 10, `,"ttl":11`: 11, `,"ttl":5.0e2`: 500, `,"ttl":99999999`: 2592000, `,"ttl":1e400`: 2592000},
		freeKey: {"": 60, `,"ttl":1`: 10, `,"ttl":86400`: 3600},
	} {
		for ttl, want := range ttls {
			g := h.ask(key, "POST", "/v1/check-lock", fmt.Sprintf(`{"key":"%s %s"%s}`, key, strings.ReplaceAll(ttl, `"`, ""), ttl))
			g.is(t, 200, map[string]any{"status": "locked", "ttl": want})
		}
	}
}

// TestBadFields: 422 in FastAPI's form, for all there is to read in a body.
func TestBadFields(t *testing.T) {
	h := newHouse(t, setup{})
	long := strings.Repeat("ä", 257)
	for _, c := range []struct{ body, kind, loc string }{
		{``, "missing", "[body]"},
		{`   `, "missing", "[body]"},
		{`{`, "json_invalid", "[body]"},
		{"{\"key\":\"\xff\"}", "json_invalid", "[body]"},
		{`{"key":"a"} x`, "json_invalid", "[body]"},
		{`[]`, "model_attributes_type", "[body]"},
		{`"key"`, "model_attributes_type", "[body]"},
		{`{}`, "missing", "[body key]"},
		{`{"Key":"a"}`, "missing", "[body key]"},
		{`{"key":null}`, "missing", "[body key]"},
		{`{"key":""}`, "string_too_short", "[body key]"},
		{`{"key":"` + long + `"}`, "string_too_long", "[body key]"},
		{`{"key":1}`, "string_type", "[body key]"},
		{`{"key":"\ud800"}`, "string_type", "[body key]"},
		{`{"key":"a","key":"b"}`, "value_error", "[body key]"},
		{`{"key":"a","ttl":0}`, "greater_than", "[body ttl]"},
		{`{"key":"a","ttl":-1e400}`, "greater_than", "[body ttl]"},
		{`{"key":"a","ttl":1.5}`, "int_type", "[body ttl]"},
		{`{"key":"a","ttl":"5"}`, "int_type", "[body ttl]"},
		{`{"key":"a","ttl":true}`, "int_type", "[body ttl]"},
		{`{"key":"a","metadata":[]}`, "dict_type", "[body metadata]"},
		{`{"key":"a","meta":3}`, "dict_type", "[body meta]"},
		{`{"key":"a","metadata":{"x":"` + strings.Repeat("x", 2048) + `"}}`, "value_error", "[body metadata]"},
	} {
		g := h.post("/v1/check-lock", c.body)
		list, _ := g.body["detail"].([]any)
		if g.status != 422 || len(list) != 1 {
			t.Errorf("%.60s: %d %s", c.body, g.status, g.text)
			continue
		}
		fault, _ := list[0].(map[string]any)
		if fault["type"] != c.kind || fmt.Sprint(fault["loc"]) != c.loc || fault["msg"] == "" {
			t.Errorf("%.60s: %v, want %s at %s", c.body, fault, c.kind, c.loc)
		}
		if _, ok := fault["input"]; !ok {
			t.Errorf("%.60s: no input in %v", c.body, fault)
		}
	}
	if g := h.post("/v1/check-lock", "{}"); g.text != `{"detail":[{"type":"missing","loc":["body","key"],"msg":"Field required","input":{}}]}` {
		t.Error(g.text)
	}
	if g := h.post("/v1/check-lock", `{"key":"`+strings.Repeat("a", 70<<10)+`"}`); g.status != 413 {
		t.Error(g.status)
	}
	for _, good := range []string{`{"key":"` + strings.Repeat("ä", 256) + `"}`, `{"key":"x","meta":{"a":1},"metadata":null}`} {
		h.post("/v1/check-lock", good).is(t, 200, map[string]any{"success": true})
	}
}

func TestAThousandCallersOneLock(t *testing.T) {
	h := newHouse(t, setup{})
	var locked, duplicate atomic.Int64
	var seen sync.Map
	all := sync.WaitGroup{}
	for range 1000 {
		all.Go(func() {
			l, err := (&apitest.SDK{Description: openapi, Base: h.http.URL, Key: botKey}).CheckLock("invoice", 60)
			switch {
			case err != nil:
				t.Error(err)
			case l.FailOpen:
				t.Error("a caller failed open")
			case l.Locked:
				locked.Add(1)
			default:
				duplicate.Add(1)
				seen.Store(l.FirstSeen, true)
			}
		})
	}
	all.Wait()
	firsts := 0
	seen.Range(func(any, any) bool { firsts++; return true })
	if locked.Load() != 1 || duplicate.Load() != 999 || firsts != 1 {
		t.Fatalf("%d locked, %d duplicates, first seen at %d times", locked.Load(), duplicate.Load(), firsts)
	}
}

func TestNamespacesAreApart(t *testing.T) {
	h := newHouse(t, setup{})
	for _, key := range []string{opsKey, otherKey} {
		h.ask(key, "POST", "/v1/check-lock", `{"key":"k"}`).is(t, 200, map[string]any{"status": "locked"})
		h.ask(key, "POST", "/v1/ai/lease", `{"key":"k"}`).is(t, 200, map[string]any{"status": "acquired"})
	}
	h.ask(botKey, "POST", "/v1/check-lock", `{"key":"k"}`).is(t, 200, map[string]any{"status": "duplicate"})
}

// failing is a store of leases that cannot, in one way or another.
type failing struct {
	lease.Store
	how func() error
}

func (f failing) Lock(context.Context, lease.Name, time.Duration) (lease.Lock, bool, error) {
	return lease.Lock{}, true, f.how()
}

// TestCheckLockFailsClosed: the SDKs run the side effect when they are answered 5xx, so nothing that fails here is one.
func TestCheckLockFailsClosed(t *testing.T) {
	for name, how := range map[string]func() error{
		"unavailable": func() error { return lease.ErrUnavailable },
		"odd":         func() error { return errors.New("anything at all") },
		"panic":       func() error { panic("no") },
	} {
		h := newHouse(t, setup{})
		h.api.Leases = failing{h.store, how}
		closed(t, name, h)
	}
	h := newHouse(t, setup{})
	h.api.Leases = nil
	closed(t, "no store", h)
	h = newHouse(t, setup{})
	if err := h.store.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	closed(t, "closed store", h)
	h = newHouse(t, setup{})
	h.gov.Draining.Store(true)
	if l, err := (&apitest.SDK{Description: openapi, Base: h.http.URL, Key: opsKey}).CheckLock("k", 60); err != nil || !l.Locked || l.FailOpen {
		t.Errorf("while draining: %+v %v", l, err)
	}
}

func closed(t *testing.T, name string, h *house) {
	t.Helper()
	g := h.post("/v1/check-lock", `{"key":"k"}`)
	if g.status != http.StatusTooManyRequests || g.header.Get("Retry-After") != "1" || g.detail() != "rate_limited" {
		t.Errorf("%s: %d %v %s", name, g.status, g.header, g.text)
	}
	if l, err := (&apitest.SDK{Description: openapi, Base: h.http.URL, Key: opsKey, Retries: 1}).CheckLock("k", 60); err == nil || l.Locked || l.FailOpen {
		t.Errorf("%s: the client goes on: %+v %v", name, l, err)
	}
}

func TestKeysOfCallers(t *testing.T) {
	h := newHouse(t, setup{})
	for _, c := range []struct {
		header string
		status int
		text   string
	}{
		{"", 401, `{"detail":"Missing Authorization Bearer token"}`},
		{"Basic abc", 401, `{"detail":"Missing Authorization Bearer token"}`},
		{"Bearer", 401, `{"detail":"Missing Authorization Bearer token"}`},
		{"Bearer once_live_unknown", 403, `{"detail":"Invalid API key"}`},
	} {
		for _, path := range []string{"/v1/check-lock", "/v1/ai/run", "/v1/ai/status?key=k", "/v1/nothing"} {
			g := h.ask("", "POST", path, `{"key":"k"}`, "Authorization", c.header)
			if g.status != c.status || g.text != c.text {
				t.Errorf("%q on %s: %d %s", c.header, path, g.status, g.text)
			}
		}
	}
}

// TestPathsAreNeverRedirected: neither SDK follows one.
func TestPathsAreNeverRedirected(t *testing.T) {
	h := newHouse(t, setup{})
	for _, c := range []struct {
		method, path string
		status       int
		text         string
	}{
		{"GET", "/v1/check-lock", 405, `{"detail":"Method Not Allowed"}`},
		{"PUT", "/v1/ai/run", 405, `{"detail":"Method Not Allowed"}`},
		{"POST", "/v1/ai/status", 405, `{"detail":"Method Not Allowed"}`},
		{"POST", "/v1/check-lock/", 404, `{"detail":"Not Found"}`},
		{"POST", "//v1/check-lock", 404, `{"detail":"Not Found"}`},
		{"POST", "/v1/../v1/check-lock", 404, `{"detail":"Not Found"}`},
		{"GET", "/v1/ai", 404, `{"detail":"Not Found"}`},
		{"GET", "/v1", 404, `{"detail":"Not Found"}`},
		{"POST", "/check-lock", 404, `{"detail":"Not Found"}`},
	} {
		g := h.ask(opsKey, c.method, c.path, `{"key":"k"}`)
		if g.status != c.status || g.text != c.text || g.header.Get("Location") != "" {
			t.Errorf("%s %s: %d %s %v", c.method, c.path, g.status, g.text, g.header)
		}
	}
}

func TestRequestIDs(t *testing.T) {
	h := newHouse(t, setup{})
	for sent, kept := range map[string]bool{"abc-1": true, strings.Repeat("x", 128): true, strings.Repeat("x", 129): false, "a b": false, "ä": false} {
		g := h.ask(opsKey, "GET", "/v1/nothing", "", "X-Request-Id", sent)
		if id := g.header.Get("X-Request-Id"); (id == sent) != kept || id == "" {
			t.Errorf("%q came back as %q", sent, id)
		}
	}
}
