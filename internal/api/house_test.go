package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/hmac"
	"github.com/oo-sidecar/oo-sidecar/internal/api"
	"github.com/oo-sidecar/oo-sidecar/internal/api/apitest"
	"github.com/oo-sidecar/oo-sidecar/internal/audit"
	"github.com/oo-sidecar/oo-sidecar/internal/govern"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
	"github.com/oo-sidecar/oo-sidecar/policy"
	"github.com/oo-sidecar/oo-sidecar/proxy"
)

const (
	opsKey    = "once_live_operator_for_tests"
	botKey    = "once_live_support_bot_for_tests"
	freeKey   = "once_live_free_plan_for_tests"
	otherKey  = "once_live_other_namespace_for_tests"
	billerKey = "once_live_billing_agent_for_tests"
)

// house is the api over the real store, governor and upstream client, with one tool server behind it.
type house struct {
	t     *testing.T
	dir   string
	clock *clock
	store keeper
	gov   *govern.Governor
	api   *api.Server
	http  *httptest.Server
	tool  *shop
	stop  context.CancelFunc

	mu      sync.Mutex
	notices []api.Notice // guarded by mu
	moments []api.Moment // guarded by mu
	records []audit.Record
}

// clock is real time, and moves on when it is told to.
type clock struct {
	mu    sync.Mutex
	ahead time.Duration
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.ahead)
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead += d
}

// shop is a tool server that counts and does as it is told.
type shop struct {
	*httptest.Server
	mu     sync.Mutex
	bodies []string                    // guarded by mu
	serve  map[string]http.HandlerFunc // by path; guarded by mu
	header map[string]http.Header      // the last by path; guarded by mu
}

func newShop(t *testing.T) *shop {
	s := &shop{serve: map[string]http.HandlerFunc{}, header: map[string]http.Header{}}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		s.mu.Lock()
		s.bodies = append(s.bodies, r.URL.Path+" "+string(body))
		s.header[r.URL.Path] = r.Header
		serve := s.serve[r.URL.Path]
		s.mu.Unlock()
		if serve != nil {
			serve(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"id":"ch_1"}`)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *shop) on(path string, f http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.serve[path] = f
}

// calls are the requests for a path so far.
func (s *shop) calls(path string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.bodies {
		if strings.HasPrefix(b, path+" ") {
			n++
		}
	}
	return n
}

type silent struct{}

func (silent) Call(*audit.Record, time.Duration, time.Duration) {}
func (silent) FailOpen(string)                                  {}
func (silent) StoreError(string)                                {}
func (silent) DoubleExecution()                                 {}

// setup is what a house starts with.
type setup struct {
	dir      string
	tools    []tool.Config // their URL is a path of the shop
	policies []policy.Config
	tool     *shop
}

func newHouse(t *testing.T, with setup) *house {
	t.Helper()
	h := &house{t: t, dir: with.dir, clock: &clock{}, tool: with.tool}
	if h.dir == "" {
		h.dir = t.TempDir()
	}
	if h.tool == nil {
		h.tool = newShop(t)
	}
	h.store = openKeeper(t, h.dir, h.clock)
	secret := h.store.Secret()
	mask := hmac.NewMask(secret[:])
	upstream, err := proxy.NewUpstream(proxy.Config{AllowPrivate: []string{"127.0.0.0/8"}})
	if err != nil {
		t.Fatal(err)
	}
	h.gov = &govern.Governor{
		Store: h.store, Sender: upstream, Meter: silent{}, Limits: govern.Limits{AnswerBytes: 1 << 20, Waiters: 1024},
		Shown:    func(k dedup.Key) string { return mask.Shown(k) },
		Disabled: func(agent string) bool { _, off := h.store.Disabled(agent); return off },
		Record: func(r *audit.Record) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.records = append(h.records, *r)
		},
		Log: func(slog.Level, string, ...any) {},
	}
	h.use(with.tools, with.policies)
	var ctx context.Context
	ctx, h.stop = context.WithCancel(context.Background())
	h.api = &api.Server{Leases: h.store, Governor: h.gov, Calls: ctx, Log: slog.New(slog.DiscardHandler),
		Noted: func(n *api.Notice) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.notices = append(h.notices, *n)
		},
		Timeline: func(m *api.Moment) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.moments = append(h.moments, *m)
		},
	}
	ring, err := api.NewKeyring([]api.KeyConfig{
		{Name: "ops", Role: "operator", Key: opsKey},
		{Name: "bot", Role: "agent", AgentID: "support_bot", Key: botKey},
		{Name: "biller", Role: "agent", AgentID: "billing", Key: billerKey},
		{Name: "free", Role: "operator", Key: freeKey, Plan: "free"},
		{Name: "other", Role: "operator", Key: otherKey, Namespace: "other"},
	})
	if err != nil {
		t.Fatal(err)
	}
	h.api.UseKeys(ring)
	h.http = httptest.NewServer(h.api.Handler())
	t.Cleanup(func() {
		h.http.Close()
		h.stop()
		_ = h.store.Close(context.Background())
		upstream.Close()
	})
	return h
}

func (h *house) use(tools []tool.Config, policies []policy.Config) {
	h.t.Helper()
	var made []*tool.Tool
	for _, c := range tools {
		if strings.HasPrefix(c.URL, "/") {
			c.URL = h.tool.URL + c.URL
		}
		built, err := tool.New(c)
		if err != nil {
			h.t.Fatal(err)
		}
		made = append(made, built)
	}
	registry, err := tool.NewRegistry(made)
	if err != nil {
		h.t.Fatal(err)
	}
	set, err := policy.New(policies)
	if err != nil {
		h.t.Fatal(err)
	}
	snapshot, err := govern.NewSnapshot(govern.Snapshot{Registry: registry, Policies: set, At: time.Now()})
	if err != nil {
		h.t.Fatal(err)
	}
	h.gov.Use(snapshot)
}

// die is what is on the disk when the process is killed now, as the directory of the next one.
func (h *house) die() string {
	h.t.Helper()
	to := h.t.TempDir()
	names, err := os.ReadDir(h.dir)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, n := range names {
		data, err := os.ReadFile(filepath.Join(h.dir, n.Name()))
		if os.IsNotExist(err) {
			continue
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(to, n.Name()), data, 0o600)
		}
		if err != nil {
			h.t.Fatal(err)
		}
	}
	return to
}

// openapi is what every answer is held against.
var openapi = func() *apitest.Description {
	d, err := apitest.Read(api.Description)
	if err != nil {
		panic(err)
	}
	return d
}()

// got is an answer as it stood on the wire.
type got struct {
	status int
	header http.Header
	text   string
	body   map[string]any
}

// ask sends a request as the SDKs do.
func (h *house) ask(key, method, path, body string, headers ...string) got {
	h.t.Helper()
	r, err := http.NewRequest(method, h.http.URL+path, bytes.NewReader([]byte(body)))
	if err != nil {
		h.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	if key != "" {
		r.Header.Set("Authorization", "Bearer "+key)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	g := got{status: resp.StatusCode, header: resp.Header, text: strings.TrimSpace(string(text))}
	_ = json.Unmarshal(text, &g.body)
	if resp.Header.Get("X-Request-Id") == "" {
		h.t.Errorf("%s %s: an answer without X-Request-Id", method, path)
	}
	if err := openapi.Judge(r, resp.StatusCode, text); err != nil {
		h.t.Error(err)
	}
	return g
}

func (h *house) post(path, body string) got { h.t.Helper(); return h.ask(opsKey, "POST", path, body) }
func (h *house) get(path string) got        { h.t.Helper(); return h.ask(opsKey, "GET", path, "") }

// is holds status and members of the answer's object against what is wanted.
func (g got) is(t *testing.T, status int, members map[string]any) {
	t.Helper()
	if g.status != status {
		t.Fatalf("%d %s, want %d", g.status, g.text, status)
	}
	for name, want := range members {
		value, ok := g.body[name]
		if !ok || !equal(value, want) {
			t.Fatalf("%s is %v, want %v in %s", name, value, want, g.text)
		}
	}
}

func equal(value, want any) bool {
	a, err1 := json.Marshal(value)
	b, err2 := json.Marshal(want)
	return err1 == nil && err2 == nil && string(a) == string(b)
}

// detail is detail.error of an error's body.
func (g got) detail() string {
	d, _ := g.body["detail"].(map[string]any)
	text, _ := d["error"].(string)
	return text
}

// heard are the types of the notices so far.
func (h *house) heard() (types []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, n := range h.notices {
		types = append(types, n.Type)
	}
	return types
}

// line are the timeline's entries of a run, as type:status.
func (h *house) line(run string) (line []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, m := range h.moments {
		if m.RunID == run {
			line = append(line, m.Type+":"+m.Status)
		}
	}
	return line
}

// until polls another goroutine's work, which nothing signals to the outside.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 4000 {
		if ok() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatal("never: " + what)
}

// resolveUnsent is an operator's word that a call was not executed.
func (h *house) resolveUnsent(key dedup.Key, fence uint64) {
	h.t.Helper()
	r := &dedup.Resolution{Key: key, Fence: fence, Outcome: dedup.NotSent, Why: "looked", Who: "ops", Force: true}
	if err := h.store.Resolve(h.t.Context(), r, "shown"); err != nil {
		h.t.Fatal(err)
	}
}
