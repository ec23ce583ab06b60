package control

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/hmac"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// TestKinds: what an answer means is decided by its status alone, and a question that may have been heard is never called
// unheard.
func TestKinds(t *testing.T) {
	status, body := 200, "{}"
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if status == 0 {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("Retry-After", "7")
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}))
	defer srv.Close()
	c, err := newClient(srv.URL, "key-of-the-test")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct {
		status int
		body   string
		kind   Kind
		code   string
	}{
		{401, `{"detail":"Missing"}`, Denied, "Missing"}, {402, `{"detail":{"error":"payment_required"}}`, Denied, "payment_required"},
		{403, `x`, Denied, ""}, {422, `{"detail":[{"msg":"y"}]}`, Denied, ""}, {429, `{}`, Busy, ""}, {500, ``, Broken, ""}, {503, `{"detail":7}`, Broken, ""},
		{404, `{"detail":"Not Found"}`, Absent, "Not Found"}, {405, ``, Absent, ""}, {501, ``, Absent, ""}, {409, `{"detail":{"error":"lease_lost"}}`, Conflict, "lease_lost"},
		{307, ``, Refused, ""}, {418, "{\"detail\":\"a\\nb\"}", Refused, ""}, {200, `<html>`, Lost, ""}, {200, ``, Lost, ""}, {200, `[]`, Lost, ""}, {0, ``, Lost, ""},
	} {
		status, body = want.status, want.body
		var out struct{ Status string }
		err := c.do(context.Background(), "POST", "/ai/lease", map[string]int{"a": 1}, &out)
		e, ok := errors.AsType[*Error](err)
		if !ok || e.Kind != want.kind || e.Code != want.code {
			t.Errorf("%d %q: %+v", want.status, want.body, err)
			continue
		}
		if want.status == 429 && e.RetryAfter != 7*time.Second {
			t.Errorf("Retry-After: %s", e.RetryAfter)
		}
		if strings.Contains(err.Error(), "key-of-the-test") {
			t.Errorf("the key stands in %q", err)
		}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	gone, _ := newClient("http://"+ln.Addr().String(), "k")
	if err := gone.do(context.Background(), "GET", "/me", nil, &struct{}{}); kindOf(err) != Unreached {
		t.Errorf("nobody listens: %v", err)
	}
}

// TestBase: /v1 is added where the address has no path, as the SDKs do.
func TestBase(t *testing.T) {
	for base, want := range map[string]string{
		"http://h:1": "http://h:1/v1", "http://h:1/": "http://h:1/v1", "https://h/v1": "https://h/v1", "https://h/v1/": "https://h/v1", "https://h/custom": "https://h/custom",
	} {
		if c, err := newClient(base, "k"); err != nil || c.base != want {
			t.Errorf("%s: %s %v", base, c.base, err)
		}
	}
}

// TestResult: an answer comes back whole, or without its body, and a body that is not the one of the hash is none.
func TestResult(t *testing.T) {
	body := []byte("an answer\x00\xff")
	a := &dedup.Answer{Status: 201, Header: []tool.Header{{Name: "Content-Type", Value: "text/plain"}}, Body: body, Size: int64(len(body)), Kept: true}
	copy(a.SHA256[:], fromHex(t, digest(body)))
	text, hash := encodeResult(a, "print", true)
	got, print := decodeResult(&leaseAnswer{Result: text, ResultHash: hash})
	if !got.Kept || string(got.Body) != string(body) || got.Status != 201 || len(got.Header) != 1 || print != "print" || got.SHA256 != a.SHA256 {
		t.Errorf("%+v %s", got, print)
	}
	bare, hash := encodeResult(a, "print", false)
	if strings.Contains(string(bare), "body") || strings.Contains(string(bare), "text/plain") {
		t.Errorf("without results goes out %s", bare)
	}
	if got, _ := decodeResult(&leaseAnswer{Result: bare, ResultHash: hash}); got.Kept || got.Status != 201 || got.Size != a.Size || got.SHA256 != a.SHA256 {
		t.Errorf("%+v", got)
	}
	for name, x := range map[string]*leaseAnswer{
		"another hash": {Result: text, ResultHash: strings.Repeat("00", 32)}, "no hash": {Result: text}, "foreign": {Result: json.RawMessage(`{"ok":true}`)},
		"garbage": {Result: json.RawMessage(`[1`)}, "nothing": {},
		"no status": {Result: bytes.Replace(text, []byte("201"), []byte("99"), 1), ResultHash: hash}, "a negative size": {Result: bytes.Replace(text, []byte(`"size":`), []byte(`"size":-`), 1), ResultHash: hash},
	} {
		if got, _ := decodeResult(x); got.Kept {
			t.Errorf("%s is taken for an answer", name)
		}
	}
}

// TestResultHeaders: an answer that another sidecar gave cannot break out of its headers.
func TestResultHeaders(t *testing.T) {
	a := &dedup.Answer{Status: 200, Kept: true, Header: []tool.Header{
		{Name: "ETag", Value: "a"}, {Name: "X\r\nSet-Cookie", Value: "a"}, {Name: "Link", Value: "a\r\nSet-Cookie: b"}, {Name: "", Value: "c"}, {Name: "a b", Value: "c"},
	}}
	a.SHA256 = sha256.Sum256(nil)
	text, hash := encodeResult(a, "print", true)
	if got, _ := decodeResult(&leaseAnswer{Result: text, ResultHash: hash}); !got.Kept || len(got.Header) != 1 || got.Header[0].Name != "ETag" {
		t.Errorf("%+v", got)
	}
}

func fromHex(t *testing.T, s string) []byte {
	t.Helper()
	out := make([]byte, len(s)/2)
	if _, err := fmt.Sscanf(s, "%x", &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestGoesOut: the key never goes out as it is; sidecars with the same secret agree, and with none.
func TestGoesOut(t *testing.T) {
	k := dedup.Key{1, 2, 3}
	seen := map[string]bool{}
	for _, secret := range []string{"", "a-secret-of-all-sidecars", "another-secret-of-sidecars"} {
		one, two := &Leases{}, &Leases{}
		if secret != "" {
			one.mask, two.mask = hmac.NewMask([]byte(secret)), hmac.NewMask([]byte(secret))
		}
		out := one.goesOut(k)
		if out != two.goesOut(k) || seen[out] || strings.Contains(out, fmt.Sprintf("%x", k)) || len(out) > 256 {
			t.Errorf("under %q the key goes out as %s", secret, out)
		}
		seen[out] = true
	}
}

// TestBook: what is held is there after a restart, settled leases are not, and a torn line costs nothing else.
func TestBook(t *testing.T) {
	dir := t.TempDir()
	b, err := openBook(dir)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		if err := b.put(&held{Key: fmt.Sprint("key", i), ID: fmt.Sprint("lease", i), Fence: uint64(i + 1), Local: dedup.Key{byte(i + 1)}, TTL: time.Minute}); err != nil {
			t.Fatal(err)
		}
	}
	b.done(b.ofFence(1))
	b.change(b.ofFence(2), func() { b.byFence[2].Say, b.byFence[2].Hash = sayComplete, "abc" })
	moved := b.copy(b.ofFence(3))
	moved.Fence = 30
	if err := b.put(&moved); err != nil {
		t.Fatal(err)
	}
	if b.ofFence(3) != nil || b.ofFence(30) == nil {
		t.Error("a lease stands under two fences")
	}
	if err := b.close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, bookFile), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(f, `{"gone":"lea`)
	f.Close()
	for range 2 {
		b, err = openBook(dir)
		if err != nil {
			t.Fatal(err)
		}
		if len(b.byID) != 4 || b.ofFence(1) != nil || b.ofFence(30) == nil || b.ofFence(2).Say != sayComplete || b.ofFence(2).Hash != "abc" || b.ofFence(2).Local != (dedup.Key{2}) {
			t.Errorf("%+v", b.byID)
		}
		if err := b.close(); err != nil {
			t.Fatal(err)
		}
	}
	if info, _ := os.Stat(filepath.Join(dir, bookFile)); info.Mode().Perm() != 0o600 {
		t.Errorf("the book has mode %v", info.Mode())
	}
}

// TestBookStaysSmall: the file does not grow with what is settled.
func TestBookStaysSmall(t *testing.T) {
	b, err := openBook(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	for i := range 3000 {
		h := &held{Key: "k", ID: fmt.Sprint(i), Fence: uint64(i + 1)}
		if err := b.put(h); err != nil {
			t.Fatal(err)
		}
		b.done(h)
	}
	if err := b.tend(); err != nil {
		t.Fatal(err)
	}
	if info, _ := os.Stat(b.name); info.Size() != 0 {
		t.Errorf("%d bytes of nothing", info.Size())
	}
}

// TestKept: a snapshot of another control plane is none, one from the future is not fresher than now, a damaged one is told.
func TestKept(t *testing.T) {
	dir := t.TempDir()
	if s, _, err := readKept(dir, "a"); s != nil || err != nil {
		t.Error(s, err)
	}
	if err := writeKept(dir, "a", &Snapshot{Version: 7, Native: true}); err != nil {
		t.Fatal(err)
	}
	if err := confirmKept(dir, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	s, at, err := readKept(dir, "a")
	if err != nil || s.Version != 7 || !s.Native || at.After(time.Now()) {
		t.Error(s, at, err)
	}
	if s, _, err := readKept(dir, "b"); s != nil || err != nil {
		t.Error("a snapshot of another control plane:", s, err)
	}
	if err := os.WriteFile(filepath.Join(dir, snapshotFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := readKept(dir, "a"); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Error(err)
	}
}

// TestNoDowngrade: an oo-sidecar that no longer knows its snapshot is not taken for a hosted service, which counts no
// versions: that would be a way around them.
func TestNoDowngrade(t *testing.T) {
	native := true
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/v1/snapshot" && native:
			fmt.Fprint(w, `{"version":7,"tools":[],"policies":[]}`)
		case r.URL.Path == "/v1/snapshot":
			http.NotFound(w, r)
		default:
			fmt.Fprint(w, `[]`)
		}
	}))
	defer srv.Close()
	applied := 0
	f, err := Follow(Config{BaseURL: srv.URL, APIKey: "k", Poll: time.Second, MaxStale: time.Minute}, Options{
		Dir: t.TempDir(), Agents: func() []string { return nil }, Apply: func(*Snapshot) error { applied++; return nil },
		Alarm: func() {}, Fresh: func(time.Time) {}, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	if !f.Stale() || !errors.Is(f.Err(), ErrNever) {
		t.Error("nothing was read and nothing is stale")
	}
	if _, err := f.ask(context.Background()); err != nil || applied != 1 || f.Stale() {
		t.Fatal(err, applied)
	}
	native = false
	if _, err := f.ask(context.Background()); kindOf(err) != Absent || applied != 1 || !f.Native() {
		t.Errorf("%v, applied %d", err, applied)
	}
}

// TestHosted: policies, tools and the switches that can be asked for come as one, or not at all.
func TestHosted(t *testing.T) {
	answers := map[string]string{
		"/v1/policies": `{"data":[{"agent_id":"a","policy":{"blocked_tools":["x"],"max_actions_per_hour":null,"new_rule":1}}]}`,
		"/v1/tools":    `[{"name":"t","scope_id":"agent:a","url":"https://h/t","timeout_ms":250,"max_retries":0,"enabled":false,"has_secret":true}]`,
		"/v1/agents/a": `{"agent_id":"a","is_enabled":false,"disabled_reason":"r","disabled_at":"2026-03-01T00:00:00Z"}`,
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, ok := answers[r.URL.EscapedPath()]
		if !ok {
			http.NotFound(w, r)
			return
		}
		fmt.Fprint(w, text)
	}))
	defer srv.Close()
	c, _ := newClient(srv.URL, "k")
	s, err := c.hosted(context.Background(), []string{"a", "b/c"})
	if err != nil {
		t.Fatal(err)
	}
	if s.Native || s.Blind || len(s.Agents) != 1 || s.Agents[0].Agent != "a" || s.Agents[0].At.IsZero() || fmt.Sprint(s.Ignored) != "[a.new_rule]" ||
		string(s.Policies[0]) != `{"agent_id":"a","blocked_tools":["x"]}` || s.Tools[0].Signed != "onceonly" ||
		string(s.Tools[0].Spec) != `{"body":"envelope","enabled":false,"max_retries":0,"name":"t","scope":"agent:a","timeout":"250ms","url":"https://h/t"}` {
		t.Errorf("%+v %s %s", s, s.Policies, s.Tools[0].Spec)
	}
	answers["/v1/agents/a"] = `{}`
	if s, err := c.hosted(context.Background(), []string{"a"}); err == nil {
		t.Errorf("an agent of which nothing is said: %+v", s)
	}
	delete(answers, "/v1/agents/a")
	if s, err := c.hosted(context.Background(), []string{"a"}); err != nil || !s.Blind {
		t.Errorf("no agent can be asked for: %+v %v", s, err)
	}
	answers["/v1/policies"] = `{"policies":[]}`
	if s, err := c.hosted(context.Background(), nil); err == nil {
		t.Errorf("no list: %+v", s)
	}
}

// TestSameVersion: a control plane that offers again and again what holds already is not obeyed again and again.
func TestSameVersion(t *testing.T) {
	plane := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, `{"version":7}`) }))
	defer plane.Close()
	applied := 0
	f, err := Follow(Config{BaseURL: plane.URL, APIKey: "k", Poll: time.Second, MaxStale: time.Minute}, Options{
		Dir: t.TempDir(), Apply: func(*Snapshot) error { applied++; return nil },
		Alarm: func() {}, Fresh: func(time.Time) {}, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	for n := range 3 {
		if pushed, err := f.ask(t.Context()); err != nil || pushed != (n == 0) || applied != 1 {
			t.Errorf("question %d: asked again at once: %v, applied %d times: %v", n, pushed, applied, err)
		}
	}
}

// TestFloor: a kept version that does not hold here is a floor all the same.
func TestFloor(t *testing.T) {
	dir := t.TempDir()
	if err := writeKept(dir, "http://h", &Snapshot{Version: 9, Native: true}); err != nil {
		t.Fatal(err)
	}
	alarms, refuse := 0, true
	f, err := Follow(Config{BaseURL: "http://h", APIKey: "k", Poll: time.Second, MaxStale: time.Minute}, Options{
		Dir: dir, Apply: func(*Snapshot) error {
			if refuse {
				return errors.New("it does not hold")
			}
			return nil
		}, Alarm: func() { alarms++ }, Fresh: func(time.Time) {}, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil || f.Snapshot() != nil {
		t.Fatal(err)
	}
	refuse = false
	if err := f.take(&Snapshot{Version: 8, Native: true}, time.Now()); err == nil || alarms != 1 {
		t.Error(err, alarms)
	}
	if err := f.take(&Snapshot{Version: 9, Native: true}, time.Now()); err != nil || alarms != 1 {
		t.Error(err, alarms)
	}
}
