package dedup

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// keyVector is one call of testdata/keys.json and what it is known under.
type keyVector struct {
	Label                                         string
	Tenant, Agent, Method, Authority, Path, Query string
	RunID                                         string `json:"run_id"`
	ClientKey                                     string `json:"client_key"`
	ForceNew                                      string `json:"force_new"`
	Headers                                       [][2]string
	Ignore                                        []string
	Body                                          string
	BodyHex                                       string `json:"body_hex"`
	Tool                                          vectorTool
	SameAs                                        string `json:"same_as"`
	DiffersFrom                                   string `json:"differs_from"`
	Want                                          struct {
		Error      string
		Applies    bool
		Arguments  string
		Identities [][2]string
		Guards     []string
	}
}

type vectorTool struct {
	Name, Authority, Path, Mode, Scope string
	Splits, Reads                      bool
	Ignore, Headers, Injected          []string
	IgnoreHeaders                      []string `json:"ignore_headers"`
	UpstreamHeader                     string   `json:"upstream_header"`
	UpstreamJSON                       string   `json:"upstream_json"`
	Previous                           []struct {
		Authority, Path, Scope string
		Ignore                 []string
	}
}

type upstreamVector struct{ Label, Key, Generation, Text string }

func keyVectors(t *testing.T) (calls []keyVector, upstream []upstreamVector) {
	t.Helper()
	var file struct {
		Calls    []keyVector
		Upstream []upstreamVector
	}
	readVectors(t, "keys.json", &file)
	return file.Calls, file.Upstream
}

func (v *keyVector) call() *tool.Call {
	body := []byte(v.Body)
	if v.BodyHex != "" {
		body, _ = hex.DecodeString(v.BodyHex)
	}
	c := &tool.Call{
		Tool: v.Tool.tool(), Tenant: v.Tenant, Agent: v.Agent, RunID: v.RunID, Method: v.Method,
		Target: tool.Target{Scheme: "https", Authority: v.Authority, Path: v.Path, Query: v.Query},
		Body:   body, HasBody: len(body) > 0, ClientKey: v.ClientKey, ForceNew: v.ForceNew, Ignore: v.Ignore,
	}
	for _, h := range v.Headers {
		c.Header = append(c.Header, tool.Header{Name: h[0], Value: h[1]})
	}
	return c
}

func (v *vectorTool) tool() *tool.Tool {
	modes := map[string]tool.Mode{"": tool.Window, "explicit": tool.Explicit, "required": tool.Required, "off": tool.Off}
	t := &tool.Tool{
		Name: v.Name, Target: tool.Target{Scheme: "https", Authority: v.Authority, Path: v.Path},
		UpstreamKey: tool.UpstreamKey{Header: v.UpstreamHeader, JSON: v.UpstreamJSON},
		Dedup: tool.Dedup{
			Mode: modes[v.Mode], Scope: v.Scope, Splits: v.Splits, DedupReads: v.Reads,
			Ignore: v.Ignore, Headers: v.Headers, IgnoreHeaders: v.IgnoreHeaders,
		},
	}
	for _, n := range v.Injected {
		t.Headers = append(t.Headers, tool.Header{Name: n, Value: "secret"})
	}
	for _, p := range v.Previous {
		t.Previous = append(t.Previous, tool.Definition{Authority: p.Authority, Path: p.Path, Scope: p.Scope, Ignore: p.Ignore})
	}
	return t
}

func TestKeyVectors(t *testing.T) {
	calls, _ := keyVectors(t)
	shown := map[string]Key{}
	for _, v := range calls {
		t.Run(v.Label, func(t *testing.T) {
			d, err := Derive(v.call())
			if got := errorWord(err); got != v.Want.Error {
				t.Fatalf("error %v, want %q", err, v.Want.Error)
			}
			if err != nil {
				return
			}
			if got := fmt.Sprintf("%x", d.Arguments); got != v.Want.Arguments || d.Applies != v.Want.Applies {
				t.Errorf("applies %v, arguments %s; want %v, %s", d.Applies, got, v.Want.Applies, v.Want.Arguments)
			}
			var ids [][2]string
			for _, id := range d.Identities {
				ids = append(ids, [2]string{fmt.Sprintf("%x", id.Key), fmt.Sprintf("%x", id.Print)})
			}
			if !slices.Equal(ids, v.Want.Identities) {
				t.Errorf("identities\n%v, want\n%v", ids, v.Want.Identities)
			}
			var guards []string
			for _, k := range d.Guards {
				guards = append(guards, fmt.Sprintf("%x", k))
			}
			if !slices.Equal(guards, v.Want.Guards) {
				t.Errorf("guards %v, want %v", guards, v.Want.Guards)
			}
			if !d.Applies {
				return
			}
			key := d.Identities[0].Key
			if v.SameAs != "" && key != labelled(t, shown, v.SameAs) {
				t.Errorf("should be the same call as %q", v.SameAs)
			}
			if v.DiffersFrom != "" && key == labelled(t, shown, v.DiffersFrom) {
				t.Errorf("should be another call than %q", v.DiffersFrom)
			}
			shown[v.Label] = key
		})
	}
}

func labelled(t *testing.T, shown map[string]Key, label string) Key {
	t.Helper()
	k, ok := shown[label]
	if !ok {
		t.Fatalf("no vector %q before this one", label)
	}
	return k
}

func errorWord(err error) string {
	var bad *ArgumentsError
	switch {
	case err == nil:
		return ""
	case errors.As(err, &bad):
		return "arguments"
	case errors.Is(err, ErrKeyRequired):
		return "key_required"
	}
	return err.Error()
}

func TestUpstreamKeyVectors(t *testing.T) {
	_, vectors := keyVectors(t)
	for _, v := range vectors {
		var k Key
		if _, err := hex.Decode(k[:], []byte(v.Key)); err != nil {
			t.Fatal(err)
		}
		generation, err := strconv.ParseUint(v.Generation, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		if got := UpstreamKey(k, generation); got != v.Text || len(got) != 67 {
			t.Errorf("%s of %s: %s, want %s", v.Label, v.Key, got, v.Text)
		}
	}
}

func TestClientKeyVectors(t *testing.T) {
	var vectors []struct {
		Label     string
		Values    []string
		Key       string
		Malformed bool
	}
	readVectors(t, "client-keys.json", &vectors)
	for _, v := range vectors {
		key, err := ParseClientKey(v.Values)
		if key != v.Key || errors.Is(err, ErrKeyMalformed) != v.Malformed || (err != nil) != v.Malformed {
			t.Errorf("%s: %q is %q, %v; want %q, malformed %v", v.Label, v.Values, key, err, v.Key, v.Malformed)
		}
	}
}

// base is a call whose every part can be told from the others.
func base() *tool.Call {
	return &tool.Call{
		Tool:   &tool.Tool{Name: "tool", Target: tool.Target{Scheme: "https", Authority: "host:443", Path: "/path"}, Dedup: tool.Dedup{Scope: "agent"}},
		Tenant: "tenant", Agent: "agent", Method: "POST", Target: tool.Target{Scheme: "https", Authority: "host:443", Path: "/path", Query: "query"},
		Header: []tool.Header{{Name: "One", Value: "first"}, {Name: "Two", Value: "second"}, {Name: "Content-Type", Value: "text/plain"}},
		Body:   []byte("body"), HasBody: true, ClientKey: "client", ForceNew: "label",
	}
}

// Text that moves from the end of one part of a call to the start of another makes another call.
func TestNothingMovesBetweenParts(t *testing.T) {
	parts := func(c *tool.Call) []*string {
		return []*string{&c.Tenant, &c.Agent, &c.Tool.Name, &c.Method, &c.Target.Authority, &c.Target.Path, &c.Target.Query,
			&c.Header[0].Name, &c.Header[0].Value, &c.Header[1].Name, &c.Header[1].Value, &c.ForceNew, &c.Header[2].Value}
	}
	seen := map[Key]string{}
	add := func(what string, c *tool.Call) {
		t.Helper()
		for _, splits := range []bool{false, true} {
			c.Tool.Dedup.Splits = splits
			d, err := Derive(c)
			if err != nil {
				t.Fatal(err)
			}
			k := d.Identities[0].Key
			if other, ok := seen[k]; ok {
				t.Errorf("%s, splits %v, has the key of %s", what, splits, other)
			}
			seen[k] = what
		}
	}
	add("the call", base())
	n := len(parts(base()))
	for from := range n {
		for to := range n {
			if from == to {
				continue
			}
			c := base()
			p := parts(c)
			last := len(*p[from]) - 1
			moved := (*p[from])[last:]
			*p[from], *p[to] = (*p[from])[:last], moved+*p[to]
			add(fmt.Sprintf("%d to %d", from, to), c)
			c = base()
			p = parts(c)
			*p[from], *p[to] = "", *p[to]+*p[from]
			add(fmt.Sprintf("all of %d to %d", from, to), c)
		}
	}
}

// Every part of a client's key is inside tenant, scope and tool.
func TestClientKeysAreScoped(t *testing.T) {
	seen := map[Key]bool{}
	for _, change := range []func(c *tool.Call){
		func(c *tool.Call) {}, func(c *tool.Call) { c.Tenant = "t2" }, func(c *tool.Call) { c.Agent = "a2" }, func(c *tool.Call) { c.Tool.Name = "tool2" },
		func(c *tool.Call) { c.ClientKey = "client2" }, func(c *tool.Call) { c.Tool.Dedup.Scope = "global" },
		func(c *tool.Call) { c.Tenant, c.Agent = "tenanta", "gent" }, func(c *tool.Call) { c.Tool.Name, c.ClientKey = "toolc", "lient" },
	} {
		c := base()
		c.ForceNew = ""
		change(c)
		d, err := Derive(c)
		if err != nil || len(d.Identities) != 2 {
			t.Fatal(d, err)
		}
		if k := d.Identities[1].Key; seen[k] {
			t.Errorf("key %x stands twice", k)
		} else {
			seen[k] = true
		}
		if d.Identities[1].Print != d.Identities[0].Key {
			t.Error("the client's key is not bound to the derived one")
		}
	}
}

// Deriving neither changes the call nor remembers it.
func TestDeriveIsPure(t *testing.T) {
	calls, _ := keyVectors(t)
	done := make(chan error)
	for g := range 4 {
		go func() {
			for i := range 400 {
				v := calls[(i*7+g)%len(calls)]
				d, err := Derive(v.call())
				if err == nil && fmt.Sprintf("%x", d.Arguments) != v.Want.Arguments {
					done <- fmt.Errorf("%s: %x", v.Label, d.Arguments)
					return
				}
			}
			done <- nil
		}()
	}
	for range 4 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// A usual call costs one allocation: the identities.
func TestDeriveAllocations(t *testing.T) {
	if poolsForget {
		t.Skip("allocations are counted without the race detector, which makes some of its own: make unit runs it again")
	}
	c := base()
	c.Header[2].Value, c.Body, c.ForceNew = "application/json", body200, ""
	n := testing.AllocsPerRun(200, func() {
		if _, err := Derive(c); err != nil {
			t.Fatal(err)
		}
	})
	if n > 2 {
		t.Errorf("%v allocations", n)
	}
}

// The README says how an args_hash is made; a reader who follows it by hand gets the same.
func TestArgumentsByHand(t *testing.T) {
	c := base()
	c.Header[2].Value, c.Body = "application/json", []byte(`{ "b":1e0 }`)
	list := "\x00\x00\x00\x0doo1-arguments" + "\x00\x00\x00\x04json" + "\x00\x00\x00\x10application/json" + "\x00\x00\x00\x07" + `{"b":1}`
	d, err := Derive(c)
	if want := sha256.Sum256([]byte(list)); err != nil || d.Arguments != want {
		t.Errorf("%x, %v, want %x", d.Arguments, err, want)
	}
}

func TestExplain(t *testing.T) {
	c := base()
	c.ForceNew = ""
	c.Tool.Dedup.Ignore = []string{"/t"}
	c.Header = []tool.Header{{Name: "Content-Type", Value: "application/json; charset=utf-8"}, {Name: "Authorization", Value: "Bearer sk_live_1"}, {Name: "User-Agent", Value: "curl"}, {Name: "Stripe-Account", Value: "acct_1"}}
	c.Body = []byte(`{"t":1,"n":1.0,"a":"x"}`)
	e, err := Explain(c)
	if err != nil {
		t.Fatal(err)
	}
	if e.Canonical != `{"a":"x","n":1}` || e.Form != "json" || e.MediaType != "application/json" || e.Scope != "agent agent" || !slices.Equal(e.Ignored, []string{"/t"}) || e.Why != "" {
		t.Errorf("%+v", e)
	}
	want := []HeaderWeight{
		{"Content-Type", true, "with the arguments"}, {"Authorization", true, "SHA-256 of its value"},
		{"User-Agent", false, "on the list of headers that never count"}, {"Stripe-Account", true, "its value"},
	}
	if !slices.Equal(e.Headers, want) {
		t.Errorf("headers %+v", e.Headers)
	}
	if strings.Contains(fmt.Sprintf("%+v", e), "sk_live") {
		t.Error("the explanation shows a credential")
	}
	d, _ := Derive(c)
	if e.Keys.Identities[0] != d.Identities[0] {
		t.Error("explained another key")
	}
}

func TestExplainWhyNot(t *testing.T) {
	for _, v := range []struct {
		mode   tool.Mode
		method string
		why    string
		err    error
	}{
		{tool.Off, "POST", "the tool's dedup.mode is off", nil},
		{tool.Window, "GET", "GET is not deduplicated unless the tool's dedup.mode is written", nil},
		{tool.Explicit, "POST", "the call has no Idempotency-Key", nil},
		{tool.Required, "POST", "the call has no Idempotency-Key", ErrKeyRequired},
		{tool.Window, "POST", "", nil},
	} {
		c := base()
		c.ClientKey, c.Tool.Dedup.Mode, c.Method = "", v.mode, v.method
		e, err := Explain(c)
		if e.Why != v.why || err != v.err || e.Canonical != "body" {
			t.Errorf("%v %s: %q, %v, %q", v.mode, v.method, e.Why, err, e.Canonical)
		}
	}
}

// After a change of the tool's definition a repeated call still meets its record, in every mode and with the client's
// key, and a key that was used for other arguments is still refused.
func TestDefinitionsMeet(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	for _, mode := range []tool.Mode{tool.Window, tool.Explicit, tool.Required} {
		for what, before := range map[string]tool.Definition{
			"url":    {Authority: "old:443", Path: "/old", Scope: "agent"},
			"scope":  {Scope: "global"},
			"ignore": {Scope: "agent", Ignore: []string{"/t"}},
		} {
			call := func(definition int, body string) Derived {
				c := base()
				c.ForceNew, c.Header[2].Value, c.Body, c.Tool.Dedup.Mode = "", "application/json", []byte(body), mode
				switch definition {
				case 0: // as it was
					if before.Path != "" {
						c.Tool.Target.Authority, c.Tool.Target.Path = before.Authority, before.Path
						c.Target = c.Tool.Target
						c.Target.Query = "query"
					}
					c.Tool.Dedup.Scope, c.Tool.Dedup.Ignore = before.Scope, before.Ignore
				case 1: // as it is
					c.Tool.Previous = []tool.Definition{before}
				}
				d, err := Derive(c)
				if err != nil {
					t.Fatal(err)
				}
				return d
			}
			const body, other = `{"n":1,"t":7}`, `{"n":2,"t":7}`
			// Whichever definition the first call ran under, the second is met under the other.
			for _, order := range [][2]int{{0, 1}, {1, 1}} {
				first, second := call(order[0], body), call(order[1], body)
				if got := meetRecord(first, second, now); got != Replay {
					t.Errorf("mode %v, another %s, %v: %v, want a replay", mode, what, order, got)
				}
				if got := meetRecord(first, call(order[1], other), now); got != Reused {
					t.Errorf("mode %v, another %s, %v, other arguments: %v, want reused", mode, what, order, got)
				}
			}
		}
	}
}

// meetRecord is what a second call finds once the first is done.
func meetRecord(first, second Derived, now time.Time) Status {
	found := make([]State, len(second.Identities))
	for i, id := range second.Identities {
		for _, have := range first.Identities {
			if have.Key == id.Key {
				found[i] = State{Outcome: Done, Held: true, Print: have.Print, Fence: 1, Expires: now.Add(time.Hour)}
				break
			}
		}
	}
	v := Begin(&Claim{Keys: second.Identities, Nonce: 2}, found, nil, now)
	return v.Status
}
