package govern_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/hmac"
	"github.com/oo-sidecar/oo-sidecar/internal/audit"
	"github.com/oo-sidecar/oo-sidecar/internal/govern"
	"github.com/oo-sidecar/oo-sidecar/internal/journal"
	"github.com/oo-sidecar/oo-sidecar/internal/store"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
	"github.com/oo-sidecar/oo-sidecar/policy"
)

// world is a governor over the real store, policies, keys and signatures. Only the tools are played, because their
// faults must be made. Its clock is that of a synctest bubble: waiting costs nothing, and synctest.Wait says that
// everybody who can wait does.
type world struct {
	*testing.T
	store *store.Embedded
	stage *stage
	meter *meter
	gov   *govern.Governor
	shown func(dedup.Key) string

	mu      sync.Mutex
	n       int
	replies map[string]*reply // by request id; guarded by mu
	logged  []string          // guarded by mu
}

// setting is what a world starts with. Everything has a default.
type setting struct {
	tools        []tool.Config
	policies     []policy.Config
	unregistered govern.Unregistered
	passthrough  string // one host
	answerBytes  int64  // 64
	waiters      int
	maxUnknown   int64
	fs           journal.FS
}

// in runs act in a world of its own and then holds every request against the audit.
func in(t *testing.T, s setting, act func(*world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(time.Date(2026, 3, 4, 12, 0, 30, 0, time.UTC))) // a bubble begins in 2000
		w := newWorld(t, s)
		act(w)
		w.oneRecordEach()
		if n := w.gov.Running(); n != 0 {
			t.Errorf("%d requests are said to be running still", n)
		}
	})
}

func newWorld(t *testing.T, s setting) *world {
	t.Helper()
	if s.answerBytes == 0 {
		s.answerBytes = 64
	}
	e, err := store.OpenEmbedded(store.Options{
		Config:  store.EmbeddedConfig{Dir: t.TempDir(), Durability: "process", MaxUnknown: s.maxUnknown},
		Waiters: s.waiters, AnswerBytes: s.answerBytes, FS: s.fs, Segment: 1 << 20,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close(context.Background()) })
	secret := e.Secret()
	mask := hmac.NewMask(secret[:])
	w := &world{T: t, store: e, stage: &stage{}, meter: &meter{}, shown: func(k dedup.Key) string { return mask.Shown(k) }, replies: map[string]*reply{}}
	w.gov = &govern.Governor{
		Store: e, Sender: w.stage, Meter: w.meter, Limits: govern.Limits{AnswerBytes: tool.Size(s.answerBytes)}, Shown: w.shown,
		Disabled: func(agent string) bool { _, off := e.Disabled(agent); return off },
		Record: func(r *audit.Record) {
			if err := e.Append(r.Append(nil), false); err != nil && !errors.Is(err, journal.ErrUnavailable) {
				t.Errorf("a record could not be written: %v", err)
			}
		},
		Log: w.log,
	}
	w.use(s)
	return w
}

func (w *world) log(level slog.Level, msg string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.logged = append(w.logged, fmt.Sprint(level, " ", msg, " ", args))
}

// use makes tools and policies what the next requests see.
func (w *world) use(s setting) {
	w.Helper()
	var tools []*tool.Tool
	for _, c := range s.tools {
		tools = append(tools, build(w.T, c))
	}
	registry, err := tool.NewRegistry(tools)
	if err != nil {
		w.Fatal(err)
	}
	policies, err := policy.New(s.policies)
	if err != nil {
		w.Fatal(err)
	}
	snapshot, err := govern.NewSnapshot(govern.Snapshot{
		Registry: registry, Policies: policies, Unregistered: s.unregistered, At: time.Now(),
		Passthrough: func(host string) bool { return host == s.passthrough },
	})
	if err != nil {
		w.Fatal(err)
	}
	w.gov.Use(snapshot)
}

func build(t *testing.T, c tool.Config) *tool.Tool {
	t.Helper()
	if c.URL == "" {
		c.URL = "https://" + c.Name + ".test/run"
	}
	if c.MaxRetries == nil {
		c.MaxRetries = new(int)
	}
	made, err := tool.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func ptr[T any](v T) *T { return &v }

// asking is a request to be made.
type asking struct {
	govern.Request
	ctx     context.Context // nil: one that never ends
	hangsUp bool            // the agent has gone: no byte of the answer can be written
	breaks  bool            // writing to the agent panics
	lost    bool            // the wire loses the stream and never writes it
}

var jsonType = tool.Header{Name: "Content-Type", Value: "application/json"}

// named is a call of /tools/{name}.
func named(name, args string) *asking {
	return &asking{Request: govern.Request{Route: govern.Reverse, Name: name, Method: "POST", Header: []tool.Header{jsonType}, Body: []byte(args), HasBody: true}}
}

// forwarded is a call through the forward proxy.
func forwarded(t *testing.T, method, url, body string) *asking {
	t.Helper()
	target, err := tool.ParseTarget(url)
	if err != nil {
		t.Fatal(err)
	}
	a := &asking{Request: govern.Request{Route: govern.Forward, Method: method, Target: target}}
	if body != "" {
		a.Header, a.Body, a.HasBody = []tool.Header{jsonType}, []byte(body), true
	}
	return a
}

func (a *asking) with(change func(*govern.Request)) *asking { change(&a.Request); return a }

// reply is what the agent got.
type reply struct {
	*govern.Reply
	id     string
	body   string
	whole  bool // the answer's end was written
	header map[string]string
	durable
}

// durable is what the store knew when the last byte of a streamed answer was about to leave.
type durable struct{ settled bool }

// ask makes a request and takes its answer whole, as a wire would.
func (w *world) ask(a *asking) *reply {
	w.mu.Lock()
	w.n++
	id := fmt.Sprintf("%032d", w.n)
	w.mu.Unlock()
	r := a.Request
	r.ID, r.Arrived, r.Tenant = id, time.Now(), "default"
	if r.Agent == "" {
		r.Agent = "ag"
	}
	ctx := a.ctx
	if ctx == nil {
		ctx = context.Background()
	}
	got := &reply{Reply: w.gov.Govern(ctx, &r), id: id, header: map[string]string{}}
	if got.Reply == nil {
		w.Fatal("Govern returned nil")
	}
	for _, h := range got.Header {
		if _, twice := got.header[h.Name]; twice && h.Name != "Set-Cookie" {
			w.Errorf("the answer has %s twice", h.Name)
		}
		got.header[h.Name] = h.Value
	}
	w.take(a, got)
	w.mu.Lock()
	w.replies[id] = got
	w.mu.Unlock()
	return got
}

func (w *world) take(a *asking, got *reply) {
	got.body, got.whole = string(got.Body), !a.hangsUp
	if got.Stream != nil && !a.lost {
		out := &agentSide{asking: a, w: w, id: got.id, length: got.Stream.Length()}
		err := got.Stream.WriteTo(context.Background(), out)
		got.whole = err == nil && !a.hangsUp
		got.body, got.settled = out.String(), out.settled
		if again := got.Stream.WriteTo(context.Background(), out); again == nil {
			w.Error("a stream was written twice")
		}
	}
	if got.Delivered != nil && !a.lost {
		got.Delivered(got.whole)
	}
}

// agentSide is where a streamed answer goes.
type agentSide struct {
	bytes.Buffer
	*asking
	w       *world
	id      string
	length  int64
	settled bool
}

func (s *agentSide) Write(p []byte) (int, error) {
	switch {
	case len(p) == 0:
		s.w.Error("an empty piece was written: in chunked coding that is the end")
	case s.hangsUp:
		return 0, io.ErrClosedPipe
	case s.breaks:
		panic("the wire broke")
	}
	if int64(s.Len()+len(p)) == s.length { // the last byte: law 3 wants the outcome on the disk
		s.settled = len(s.w.records(s.id)) == 1
	}
	return s.Buffer.Write(p)
}

func (s *agentSide) Flush() error { return nil }

// want checks an answer against the words of one line: status decision reason outcome, "-" for an absent outcome.
func (r *reply) want(t testing.TB, line string) {
	t.Helper()
	outcome := cmpOr(r.header["X-OnceOnly-Outcome"], "-")
	got := fmt.Sprint(r.Status, " ", r.header["X-OnceOnly-Decision"], " ", r.header["X-OnceOnly-Reason"], " ", outcome)
	if got != line {
		t.Errorf("the answer is %q, want %q\n%s", got, line, r.body)
	}
	if string(r.Decision) != r.header["X-OnceOnly-Decision"] || r.Reason != r.header["X-OnceOnly-Reason"] || r.Outcome != r.header["X-OnceOnly-Outcome"] || r.Key != r.header["X-OnceOnly-Key"] {
		t.Errorf("the reply and its headers differ: %+v", r.Reply)
	}
	if r.header["X-Request-Id"] != r.id {
		t.Errorf("X-Request-Id is %q, want %q", r.header["X-Request-Id"], r.id)
	}
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// usage is what the agent has been charged: calls in the hour, spend of the day, calls of the tool on the day.
func (w *world) usage(name string) string {
	u := w.store.Usage("default", "ag", name)
	return fmt.Sprint(u.HourCalls, " ", u.DaySpend, " ", u.ToolCalls)
}

// records are the audit's records of one request; all of them for "".
func (w *world) records(id string) (found []audit.Record) {
	q := audit.Query{OldestFirst: true}
	rows, err := q.Rows(w.store.Journal().Entries(0))
	if err != nil {
		w.Fatal(err)
	}
	for _, row := range rows {
		if id == "" || row.Record.RequestID == id {
			found = append(found, *row.Record)
		}
	}
	return found
}

// linger lets records that nobody waits for reach the journal.
func linger() {
	time.Sleep(20 * time.Millisecond)
	synctest.Wait()
}

// record is the one record of a request.
func (w *world) record(r *reply) audit.Record {
	w.Helper()
	linger()
	found := w.records(r.id)
	if len(found) != 1 {
		w.Fatalf("request %s has %d records", r.id, len(found))
	}
	return found[0]
}

// oneRecordEach is law 3: every request has one record, and it says what the agent was told.
func (w *world) oneRecordEach() {
	w.Helper()
	linger()
	byID := map[string][]audit.Record{}
	for _, rec := range w.records("") {
		byID[rec.RequestID] = append(byID[rec.RequestID], rec)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, r := range w.replies {
		if len(byID[id]) != 1 {
			w.Errorf("request %s has %d records: %+v", id, len(byID[id]), byID[id])
			continue
		}
		rec := byID[id][0]
		if rec.Decision != string(r.Decision) || rec.PolicyReason != r.Reason || r.Outcome != "" && rec.Outcome != r.Outcome {
			w.Errorf("request %s was told %s %s %s and recorded as %s %s %s", id, r.Decision, r.Reason, r.Outcome, rec.Decision, rec.PolicyReason, rec.Outcome)
		}
		if rec.RiskLevel == "" || !strings.HasPrefix(rec.Key, r.Key) || rec.AgentID == "" || rec.Time.IsZero() {
			w.Errorf("the record of request %s lacks something: %+v", id, rec)
		}
		delete(byID, id)
	}
	for id, more := range byID {
		if !more[0].Recovered {
			w.Errorf("request %s was recorded and never answered: %+v", id, more)
		}
	}
	if w.meter.calls != len(w.replies) {
		w.Errorf("%d requests were counted, %d made", w.meter.calls, len(w.replies))
	}
}

// off throws the kill switch of the agent.
func (w *world) off(agent string) {
	if _, err := w.store.Disable(context.Background(), agent, "test", "operator"); err != nil {
		w.Error(err)
	}
}

// meter counts what it is told.
type meter struct {
	mu                    sync.Mutex
	calls, doubles        int
	failOpen, storeErrors []string
	overhead, upstream    time.Duration // of the last call
	negative              bool
}

func (m *meter) Call(r *audit.Record, overhead, upstream time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls++
	m.overhead, m.upstream = overhead, upstream
	m.negative = m.negative || overhead < 0
}

func (m *meter) FailOpen(check string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failOpen = append(m.failOpen, check)
}

func (m *meter) StoreError(op string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.storeErrors = append(m.storeErrors, op)
}

func (m *meter) DoubleExecution() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.doubles++
}

// stage plays every tool: it remembers what was sent and answers by its script, then by always, then 200.
type stage struct {
	mu     sync.Mutex
	seen   []seen // guarded by mu
	script []act  // guarded by mu
	always act
	ran    []bool    // of each attempt, whether bytes may have left; guarded by mu
	bodies []*played // guarded by mu
}

// seen is one attempt as the tool got it.
type seen struct {
	govern.Attempt
	key   string
	fence uint64
	n     int // X-OnceOnly-Attempt
}

// act is what a tool does with one attempt.
type act func(context.Context, *govern.Attempt) (*govern.Answer, govern.Phase, error)

func (s *stage) then(acts ...act) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.script = append(s.script, acts...)
}

func (s *stage) Send(ctx context.Context, a *govern.Attempt) (*govern.Answer, govern.Phase, error) {
	s.mu.Lock()
	at := seen{Attempt: *a, key: header(a.Header, "Idempotency-Key")}
	at.fence, _ = strconv.ParseUint(header(a.Header, "X-OnceOnly-Fence"), 10, 64)
	at.n, _ = strconv.Atoi(header(a.Header, "X-OnceOnly-Attempt"))
	at.Body = bytes.Clone(a.Body)
	s.seen = append(s.seen, at)
	do := s.always
	if len(s.script) > 0 {
		do, s.script = s.script[0], s.script[1:]
	}
	s.mu.Unlock()
	if do == nil {
		do = answers(200, `{"ok":true}`, jsonType)
	}
	answer, phase, err := do(ctx, a)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ran = append(s.ran, phase >= govern.FirstByte)
	if answer != nil {
		s.bodies = append(s.bodies, answer.Body.(*played))
	}
	return answer, phase, err
}

func header(headers []tool.Header, name string) string {
	i := slices.IndexFunc(headers, func(h tool.Header) bool { return strings.EqualFold(h.Name, name) })
	if i < 0 {
		return ""
	}
	return headers[i].Value
}

// sends is how often anything was sent.
func (s *stage) sends() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.seen)
}

// last is the newest attempt.
func (s *stage) last() seen {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen[len(s.seen)-1]
}

// leaked says how many answers were never closed.
func (s *stage) leaked() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.bodies {
		if !b.closed {
			n++
		}
	}
	return n
}

// played is the body of an answer.
type played struct {
	pieces []string
	end    error         // io.EOF: whole
	slow   time.Duration // of each Read
	panics bool
	closed bool
	until  time.Time
}

func (b *played) Read(p []byte) (int, error) {
	time.Sleep(b.slow)
	switch {
	case b.panics:
		panic("the body broke")
	case len(b.pieces) == 0:
		return 0, b.end
	}
	n := copy(p, b.pieces[0])
	if b.pieces[0] = b.pieces[0][n:]; b.pieces[0] == "" {
		b.pieces = b.pieces[1:]
	}
	return n, nil
}

func (b *played) Close() error { b.closed = true; return nil }

func answerOf(b *played, status int, length int64, headers []tool.Header) *govern.Answer {
	return &govern.Answer{
		Status: status, Header: slices.Clone(headers), Length: length, Body: b, Events: length < 0,
		Deadline: func(t time.Time) { b.until = t },
	}
}

// answers gives a whole answer with a length.
func answers(status int, body string, headers ...tool.Header) act {
	return func(context.Context, *govern.Attempt) (*govern.Answer, govern.Phase, error) {
		return answerOf(&played{pieces: []string{body}, end: io.EOF}, status, int64(len(body)), headers), govern.FirstByteRead, nil
	}
}

// streams gives an answer without a length, in pieces, that ends with end (nil: whole).
func streams(status int, end error, pieces ...string) act {
	if end == nil {
		end = io.EOF
	}
	return func(context.Context, *govern.Attempt) (*govern.Answer, govern.Phase, error) {
		return answerOf(&played{pieces: slices.Clone(pieces), end: end}, status, -1, nil), govern.FirstByteRead, nil
	}
}

// halves announces a longer answer than it gives.
func halves(status int, body string) act {
	return func(context.Context, *govern.Attempt) (*govern.Answer, govern.Phase, error) {
		return answerOf(&played{pieces: []string{body}, end: io.ErrUnexpectedEOF}, status, int64(2*len(body)), nil), govern.FirstByteRead, nil
	}
}

// loses brings no answer.
func loses(phase govern.Phase, err error) act {
	return func(context.Context, *govern.Attempt) (*govern.Answer, govern.Phase, error) {
		return nil, phase, fmt.Errorf("%w: played", err)
	}
}

func panics(context.Context, *govern.Attempt) (*govern.Answer, govern.Phase, error) {
	panic("the sender broke")
}

// first runs something while the call is at the tool.
func first(do func(), then act) act {
	return func(ctx context.Context, a *govern.Attempt) (*govern.Answer, govern.Phase, error) {
		do()
		return then(ctx, a)
	}
}

// at keeps the tool busy until gate is closed.
func at(gate chan struct{}, then act) act { return first(func() { <-gate }, then) }
