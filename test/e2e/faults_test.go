package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/oo-sidecar/oo-sidecar/test/stand"
)

const huge = 20 << 20

// fault is a tool that misbehaves, what the first caller of it gets, and what the second one does.
type fault struct {
	name   string
	play   func(*scene)
	more   settings // of the tool
	status int      // of the first answer
	code   string   // of the first answer; "" when the tool's own is passed on
	ends   string   // the outcome; "" in a head that goes out before it is known
	again  string   // of the second call: replay, run, or a refusal's code
}

func status(n int) func(*scene) {
	return func(x *scene) {
		x.answer(n, fmt.Sprintf("answer %d of %d", x.nth, n), "Content-Type", "text/plain", "Location", "/elsewhere", "Retry-After", "7", "Set-Cookie", "a=b", "X-RateLimit-Remaining", "3")
	}
}

func words(text string) func(*scene) {
	return func(x *scene) {
		x.say(text)
		x.Close()
	}
}

// faults is the table of semantics.md, "Outcome by answer, first attempt", at the wire.
var faults = []fault{
	{"200", status(200), nil, 200, "", "done", "replay"},
	{"201", status(201), nil, 201, "", "done", "replay"},
	{"204", status(204), nil, 204, "", "done", "replay"},
	{"302", status(302), nil, 302, "", "done", "replay"},
	{"304", status(304), nil, 304, "", "done", "replay"},
	{"307", status(307), nil, 307, "", "failed", "replay"},
	{"308", status(308), nil, 308, "", "failed", "replay"},
	{"400", status(400), nil, 400, "", "failed", "replay"},
	{"402", status(402), nil, 402, "", "failed", "replay"},
	{"404", status(404), nil, 404, "", "failed", "replay"},
	{"409", status(409), nil, 409, "", "failed", "replay"},
	{"422", status(422), nil, 422, "", "failed", "replay"},
	{"401", status(401), nil, 401, "", "failed", "run"},
	{"407", status(407), nil, 407, "", "failed", "run"},
	{"408", status(408), nil, 408, "", "failed", "run"},
	{"421", status(421), nil, 421, "", "failed", "run"},
	{"425", status(425), nil, 425, "", "failed", "run"},
	{"429", status(429), nil, 429, "", "failed", "run"},
	{"500", status(500), nil, 500, "", "unknown", "outcome_unknown"},
	{"503", status(503), nil, 503, "", "unknown", "outcome_unknown"},
	{"503 that promises", status(503), settings{"not_executed_statuses": []int{503}}, 503, "", "failed", "run"},
	{"600", status(600), nil, 600, "", "unknown", "outcome_unknown"},
	{"503 of a read", status(503), settings{"effect": "read", "max_retries": 0}, 503, "", "failed", "run"},

	{"hang", func(x *scene) { _, _ = io.Copy(io.Discard, x) }, settings{"timeout": "300ms"}, 504, "upstream_outcome_unknown", "unknown", "outcome_unknown"},
	{"reset", func(x *scene) { x.reset() }, nil, 504, "upstream_outcome_unknown", "unknown", "outcome_unknown"},
	{"reset of a read", func(x *scene) { x.reset() }, settings{"effect": "read", "max_retries": 0}, 504, "upstream_outcome_unknown", "failed", "run"},
	{"end", func(x *scene) { x.Close() }, nil, 504, "upstream_outcome_unknown", "unknown", "outcome_unknown"},
	{"half a head", words("HTTP/1.1 200 O"), nil, 504, "upstream_outcome_unknown", "unknown", "outcome_unknown"},
	{"half a body", words("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"), nil, 504, "upstream_outcome_unknown", "unknown", "outcome_unknown"},
	{"slow half", func(x *scene) {
		x.say("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
		_, _ = io.Copy(io.Discard, x)
	}, settings{"timeout": "300ms"}, 504, "upstream_outcome_unknown", "unknown", "outcome_unknown"},
	{"no HTTP", words("hello\r\n\r\n"), nil, 504, "upstream_outcome_unknown", "unknown", "outcome_unknown"},
	{"101", words("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"), nil, 504, "upstream_outcome_unknown", "unknown", "outcome_unknown"},
	{"final 102", words("HTTP/1.1 102 Processing\r\n\r\n"), nil, 504, "upstream_outcome_unknown", "unknown", "outcome_unknown"},
	{"early hints", words("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), nil, 200, "", "done", "replay"},
	{"two lengths", words("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!"), nil, 504, "upstream_outcome_unknown", "unknown", "outcome_unknown"},
	{"length and chunks", words("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"), nil, 504, "upstream_outcome_unknown", "unknown", "outcome_unknown"},
	{"HTTP/1.0", words("HTTP/1.0 200 OK\r\n\r\nuntil the end"), nil, 200, "", "", "replay"},
	{"chunks", words("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"), nil, 200, "", "", "replay"},
	{"20 MB", func(x *scene) { x.answer(200, strings.Repeat("x", huge)) }, nil, 200, "", "", "result_not_kept"},
	{"20 MB in chunks", func(x *scene) {
		x.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		for range huge >> 20 {
			x.say("100000\r\n" + strings.Repeat("x", 1<<20) + "\r\n")
		}
		x.say("0\r\n\r\n")
	}, nil, 200, "", "", "result_not_kept"},
	{"forged", func(x *scene) {
		x.answer(200, "ok", "X-OnceOnly-Decision", "dedup", "X-OnceOnly-Outcome", "failed", "X_OnceOnly_Reason", "forged", "Idempotent-Replayed", "true", "X-OnceOnly-Key", "0")
	}, nil, 200, "", "done", "replay"},
}

func TestFaults(t *testing.T) {
	t.Parallel()
	plays, tools := map[string]func(*scene){}, []settings(nil)
	a := act(t, func(x *scene) { plays[x.name()](x) })
	for i, f := range faults {
		name := fmt.Sprintf("fault%d", i)
		plays[name] = f.play
		tools = append(tools, a.tool(name, f.more))
	}
	s := start(t, tools, nil)
	for i, f := range faults {
		t.Run(f.name, func(t *testing.T) { f.check(t, s, a, fmt.Sprintf("fault%d", i)) })
	}
	s.verify()
}

func (f *fault) check(t *testing.T, s *sidecar, a *actor, name string) {
	first := s.invoke(name, `{"n":1}`)
	first.is(t, "first", f.status, f.code, "executed", f.ends)
	for _, h := range []string{"Idempotent-Replayed", "X_OnceOnly_Reason"} {
		if v := first.header.Get(h); v != "" {
			t.Errorf("the first answer has %s: %s", h, v)
		}
	}
	second, runs := s.invoke(name, `{"n":1}`), 1
	switch f.again {
	case "replay":
		if second.status != f.status || !second.replayed() || second.body != first.body || second.decision() != "dedup" || second.header.Get("Age") == "" {
			t.Errorf("second: %d, replayed %t, %s, Age %q, %.80q; the first was %.80q", second.status, second.replayed(), second.decision(), second.header.Get("Age"), second.body, first.body)
		}
		for _, h := range []string{"Set-Cookie", "X-Ratelimit-Remaining"} {
			if v := second.header.Get(h); v != "" {
				t.Errorf("the replay has %s: %s", h, v)
			}
		}
		if first.header.Get("Location") != second.header.Get("Location") {
			t.Errorf("Location %q became %q", first.header.Get("Location"), second.header.Get("Location"))
		}
	case "run":
		runs = 2
		second.is(t, "second", f.status, f.code, "executed", f.ends)
		if r := a.requests(name); len(r) == 2 && r[0].get("Idempotency-Key") == r[1].get("Idempotency-Key") {
			t.Error("it ran anew with the same upstream key")
		}
	case "result_not_kept":
		second.is(t, "second", 410, f.again, "dedup", "done")
		if len(first.body) != huge || !strings.Contains(second.body, `"length":`+strconv.Itoa(huge)) || !strings.Contains(second.body, `"sha256":"`) {
			t.Errorf("%d bytes came, then %.600s", len(first.body), second.body)
		}
	default:
		second.is(t, "second", 409, f.again, "dedup", "unknown")
		if after := second.header.Get("Retry-After"); after != "" {
			t.Errorf("outcome_unknown with Retry-After %s", after)
		}
	}
	if ran := a.ran(name); ran != runs {
		t.Errorf("ran %d times, wanted %d", ran, runs)
	}
}

// TestToolsOwnRetryAfter: what a tool says of its own limits reaches the agent.
func TestToolsOwnRetryAfter(t *testing.T) {
	t.Parallel()
	a := act(t, status(429))
	s := start(t, []settings{a.tool("limited", nil)}, nil)
	if r := s.call("limited", "{}"); r.header.Get("Retry-After") != "7" || r.header.Get("X-RateLimit-Remaining") != "3" || r.header.Get("Set-Cookie") != "a=b" {
		t.Errorf("the tool's headers came as %v", r.header)
	}
}

// TestTwoAnswers: what a tool says without being asked is nobody's answer.
func TestTwoAnswers(t *testing.T) {
	t.Parallel()
	a := act(t, func(x *scene) {
		x.answer(200, x.body)
		x.answer(200, "nobody asked")
	})
	s := start(t, []settings{a.tool("twice", nil)}, nil)
	for i := range 20 {
		body := fmt.Sprintf(`{"n":%d}`, i)
		if r := s.call("twice", body); r.status != 200 || r.body != body {
			t.Errorf("call %d: %d %q", i, r.status, r.body)
		}
	}
	if ran := a.ran(""); ran != 20 {
		t.Errorf("20 calls ran %d times", ran)
	}
}

// TestStaleConnections: a tool that drops kept connections loses no call and gets none twice.
func TestStaleConnections(t *testing.T) {
	t.Parallel()
	closed := make(chan bool, 1)
	a := act(t, func(x *scene) {
		ok(x)
		if x.name() == "reset" {
			x.reset()
		} else {
			x.Close()
		}
		closed <- true
	})
	s := start(t, []settings{a.tool("close", nil), a.tool("reset", nil)}, nil)
	for _, name := range []string{"close", "reset"} {
		done := 0
		for i := range 50 {
			if r := s.call(name, fmt.Sprintf(`{"n":%d}`, i)); r.status == 200 {
				done++
			} else if name == "close" || r.code() != "upstream_outcome_unknown" { // a reset may overtake its answer
				t.Errorf("%s, call %d: %d %s", name, i, r.status, r.body)
			}
			got(t, "the tool closes", closed) // until then the connection is as good as any
		}
		if ran := a.ran(name); ran != 50 || done == 0 {
			t.Errorf("%s: 50 calls ran %d times, %d were answered", name, ran, done)
		}
	}
}

// TestUnreachable: nothing was sent, so nothing is remembered.
func TestUnreachable(t *testing.T) {
	t.Parallel()
	address := stand.FreeAddr(t)
	s := start(t, []settings{{"name": "dead", "url": "http://" + address + "/dead", "max_retries": 0}}, nil)
	for range 3 {
		r := s.call("dead", "{}")
		r.is(t, "dead", 502, "upstream_unreachable", "executed", "not_sent")
	}
	ln, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	a := actOn(t, ln, "http", ok)
	if r := s.call("dead", "{}"); r.status != 200 || r.replayed() || a.ran("") != 1 {
		t.Errorf("alive again: %d, ran %d", r.status, a.ran(""))
	}
}

// metric is the text of the metrics whose lines begin so.
func metric(s *sidecar, prefix string) string {
	var b strings.Builder
	for line := range strings.Lines(s.send("GET", "http://"+s.health+"/metrics", "").body) {
		if strings.HasPrefix(line, prefix) {
			b.WriteString(line)
		}
	}
	return b.String()
}

// TestClientHangsUp: the call goes on, and the retry gets its answer.
func TestClientHangsUp(t *testing.T) {
	t.Parallel()
	began, goOn := make(chan bool, 2), make(chan bool)
	a := act(t, func(x *scene) {
		began <- true
		<-goOn
		ok(x)
	})
	s := start(t, []settings{a.tool("pay", nil)}, nil)
	c := s.dial()
	_, _ = io.WriteString(c, s.post("pay", `{"n":1}`))
	got(t, "the tool was called", began)
	c.Close()
	close(goOn)
	for i := range 3 {
		if r := s.call("pay", `{"n":1}`); r.status != 200 || !r.replayed() || !strings.Contains(r.body, `"nth":1`) {
			t.Errorf("retry %d: %d, replayed %t: %s", i, r.status, r.replayed(), r.body)
		}
	}
	if ran := a.ran(""); ran != 1 {
		t.Errorf("ran %d times", ran)
	}
}

// TestRetryMeetsTheRunningCall: it waits for the answer of the one that its first try began.
func TestRetryMeetsTheRunningCall(t *testing.T) {
	t.Parallel()
	began, goOn := make(chan bool, 2), make(chan bool)
	a := act(t, func(x *scene) {
		began <- true
		<-goOn
		ok(x)
	})
	s := start(t, []settings{a.tool("pay", nil), a.tool("hasty", settings{"dedup": settings{"wait": "200ms"}})}, nil)
	first := later(func() answer { return s.call("pay", `{"n":1}`) })
	got(t, "the tool was called", began)
	second := later(func() answer { return s.call("pay", `{"n":1}`) })
	hasty := later(func() answer { return s.call("hasty", `{"n":1}`) })
	got(t, "the other tool was called", began)
	impatient := s.call("hasty", `{"n":1}`)
	impatient.is(t, "after its wait", 409, "in_flight", "dedup", "")
	if impatient.header.Get("Retry-After") == "" {
		t.Error("in_flight without Retry-After")
	}
	close(goOn)
	one, two := got(t, "the first was answered", first), got(t, "the second was answered", second)
	if one.status != 200 || two.status != 200 || one.replayed() || !two.replayed() || one.body != two.body || a.ran("pay") != 1 {
		t.Errorf("%d %q, then %d %q, ran %d", one.status, one.body, two.status, two.body, a.ran("pay"))
	}
	if r := got(t, "the hasty one was answered", hasty); r.status != 200 {
		t.Errorf("hasty: %d", r.status)
	}
}

// TestWindows: what has ended is forgotten after its time, and not before; what runs anew has a new upstream key.
func TestWindows(t *testing.T) {
	t.Parallel()
	a := act(t, func(x *scene) {
		if x.name() == "declined" {
			x.answer(402, "declined")
			return
		}
		ok(x)
	})
	s := start(t, []settings{
		a.tool("brief", settings{"dedup": settings{"ttl": "2s"}, "auth": signed}),
		a.tool("declined", settings{"dedup": settings{"failed_ttl": "1s"}}),
	}, nil)
	for _, name := range []string{"brief", "declined"} {
		s.call(name, "{}")
		if r := s.call(name, "{}"); !r.replayed() || a.ran(name) != 1 {
			t.Errorf("%s: replayed %t within its window, ran %d", name, r.replayed(), a.ran(name))
		}
		eventually(t, name+" ran anew", func() bool { return !s.call(name, "{}").replayed() })
		h := a.requests(name)
		if len(h) != 2 || h[0].get("Idempotency-Key") == h[1].get("Idempotency-Key") {
			t.Errorf("%s ran %d times, or under the same upstream key", name, len(h))
		}
	}
	h := a.requests("brief")
	if first, second := number(h[0].get("X-OnceOnly-Fence")), number(h[1].get("X-OnceOnly-Fence")); second <= first || first == 0 {
		t.Errorf("fence %d, then %d", first, second)
	}
}

func number(s string) uint64 {
	n, _ := strconv.ParseUint(s, 10, 64)
	return n
}

// sse is what a streaming tool sends before and after a pause.
const sseHead = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"

func chunk(text string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(text), text) }

// TestStreams: pieces arrive before the end, the whole is kept, a cut one never looks whole.
func TestStreams(t *testing.T) {
	t.Parallel()
	goOn := map[string]chan bool{}
	for _, name := range []string{"whole", "cut", "left"} {
		goOn[name] = make(chan bool, 1)
	}
	a := act(t, func(x *scene) {
		x.say(sseHead + chunk("data: one\n\n"))
		<-goOn[x.name()]
		x.say(chunk("data: two\n\n"))
		if x.name() == "cut" {
			x.Close()
			return
		}
		x.say("0\r\n\r\n")
	})
	s := start(t, []settings{a.tool("whole", nil), a.tool("cut", nil), a.tool("left", nil)}, nil)
	for name, next := range goOn {
		c := s.dial()
		r := bufio.NewReader(c)
		_, _ = io.WriteString(c, s.post(name, "{}"))
		resp, err := http.ReadResponse(r, &http.Request{Method: "POST"})
		if err != nil {
			t.Fatal(err)
		}
		if v := resp.Header.Get("X-OnceOnly-Outcome"); v != "" || resp.Header.Get("X-OnceOnly-Decision") != "executed" {
			t.Errorf("%s: the head says outcome %q, decision %q", name, v, resp.Header.Get("X-OnceOnly-Decision"))
		}
		piece := make([]byte, 11)
		if _, err := io.ReadFull(resp.Body, piece); err != nil || string(piece) != "data: one\n\n" {
			t.Fatalf("%s: the first piece is %q, %v", name, piece, err)
		}
		if name == "left" {
			c.Close()
			next <- true
			continue
		}
		next <- true
		rest, err := io.ReadAll(resp.Body)
		if string(rest) != "data: two\n\n" && name == "whole" || (err == nil) != (name == "whole") {
			t.Errorf("%s: the rest is %q, %v", name, rest, err)
		}
	}
	for name, want := range map[string]string{"whole": "", "left": "", "cut": "outcome_unknown"} {
		r := s.call(name, "{}")
		if r.code() != want || want == "" && (!r.replayed() || r.body != "data: one\n\ndata: two\n\n") || a.ran(name) != 1 {
			t.Errorf("%s again: %d %s, replayed %t, ran %d: %q", name, r.status, r.code(), r.replayed(), a.ran(name), r.body)
		}
	}
}

// TestStreamEndsAfterItsOutcome: whoever has seen the end of a stream finds it kept, even when the sidecar is killed at
// that moment.
func TestStreamEndsAfterItsOutcome(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("y", 2<<20)
	a := act(t, func(x *scene) {
		if x.name() == "long" {
			x.answer(200, long)
			return
		}
		x.say(sseHead + chunk("data: one\n\n") + "0\r\n\r\n")
	})
	s := start(t, []settings{a.tool("events", nil), a.tool("long", nil)}, nil)
	for i := range 6 {
		body := fmt.Sprintf(`{"n":%d}`, i)
		name := []string{"events", "long"}[i%2]
		c := s.dial()
		_, _ = io.WriteString(c, s.post(name, body))
		first := listen(bufio.NewReader(c), "POST")
		s.kill()
		s.run()
		again := s.call(name, body)
		if first.status != 200 || name == "events" && (!again.replayed() || again.body != first.body) || name == "long" && again.code() != "result_not_kept" {
			t.Errorf("%s: %d, then %d %s, replayed %t", name, first.status, again.status, again.code(), again.replayed())
		}
		if len(first.body) == 0 || name == "long" && first.body != long {
			t.Errorf("%s gave %d bytes", name, len(first.body))
		}
	}
	if ran := a.ran(""); ran != 6 {
		t.Errorf("6 calls ran %d times", ran)
	}
}

// TestDrain: a running call ends, a new one is refused, and the process leaves in peace.
func TestDrain(t *testing.T) {
	t.Parallel()
	began, goOn := make(chan bool, 1), make(chan bool)
	a := act(t, func(x *scene) {
		if x.name() == "pay" {
			began <- true
			<-goOn
		}
		ok(x)
	})
	s := start(t, []settings{a.tool("pay", nil), a.tool("other", nil)}, nil)
	first := later(func() answer { return s.call("pay", `{"n":1}`) })
	got(t, "the tool was called", began)
	_ = s.cmd.Process.Signal(os.Interrupt)
	eventually(t, "new calls were refused", func() bool {
		r, err := trySend("POST", "http://"+s.proxy+"/tools/other", "{}")
		return err == nil && r.status == 503 && r.code() == "draining" && r.header.Get("Retry-After") != ""
	})
	close(goOn)
	if r := got(t, "the running call ended", first); r.status != 200 {
		t.Errorf("the running call: %d %s", r.status, r.body)
	}
	if err := got(t, "the process ended", s.exited); err != nil {
		t.Errorf("it left with %v:\n%s", err, s.log)
	}
	s.run()
	if r := s.call("pay", `{"n":1}`); !r.replayed() || a.ran("pay") != 1 {
		t.Errorf("after the restart: %d, ran %d", r.status, a.ran("pay"))
	}
}

// TestSecretsStayInside: what the sidecar adds for the tool is seen by the tool alone.
func TestSecretsStayInside(t *testing.T) {
	t.Parallel()
	const secret, signing = "sk_live_very_secret_credential", "the-secret-of-the-tool-pay"
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	a := act(t, func(x *scene) {
		x.answer(302, "see Location", "Location", "https://elsewhere.test/?with="+x.get("Authorization"), "X-Echo", x.get("Authorization"), "Link", "<"+x.get("X-Api-Key")+">")
	})
	s := start(t, []settings{a.tool("pay", settings{
		"headers": settings{"Authorization": "Bearer ${file:" + file + "}", "X-Api-Key": "${file:" + file + "}"},
		"auth":    signed,
	})}, settings{"log": settings{"level": "debug"}})
	body := `{"card":"4242424242424242"}`
	answers := []answer{s.invoke("pay", body, "Authorization", "Bearer of-the-agent"), s.invoke("pay", body, "Authorization", "Bearer of-the-agent")}
	sent := a.requests("pay")
	if len(sent) != 1 || sent[0].get("Authorization") != "Bearer "+secret || sent[0].get("X-Api-Key") != secret {
		t.Errorf("the tool was called %d times with %q", len(sent), sent[0].get("Authorization"))
	}
	out, errs, _ := s.cli("explain", "POST", a.URL+"/pay", "-d", body)
	export, _, _ := s.cli("audit", "export", "--changes")
	ready := s.send("GET", "http://"+s.health+"/readyz?verbose", "")
	toolsList, metrics := s.admin("GET", "/entries/tools", ""), metric(s, "")
	s.stop()
	places := map[string]string{
		"explain": out + errs, "audit": export, "log": s.log.String(), "metrics": metrics, "readyz": ready.body, "the api's tools": toolsList.body,
	}
	for i, r := range answers {
		places[fmt.Sprintf("answer %d", i+1)] = fmt.Sprint(r.header, r.body)
	}
	_ = filepath.Walk(filepath.Join(s.dir, "store"), func(path string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			data, _ := os.ReadFile(path)
			places[filepath.Base(path)] = string(data)
		}
		return err
	})
	for place, text := range places {
		for _, hidden := range []string{secret, signing, "4242424242424242"} {
			if strings.Contains(text, hidden) && (place != "explain" || hidden != "4242424242424242") { // explain shows the arguments that it was given
				t.Errorf("%s tells %.12s…", place, hidden)
			}
		}
	}
}
