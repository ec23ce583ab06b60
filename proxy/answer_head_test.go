package proxy

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func headText(lines ...string) string { return strings.Join(lines, "\r\n") + "\r\n\r\n" }

func TestParseAnswer(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"plain", headText("HTTP/1.1 200 OK", "Content-Type: text/plain", "content-length: 5"), "200 len=5 [Content-Type=text/plain]"},
		{"order and spelling", headText("HTTP/1.1 201 Created", "x-b: 2", "X-A:1", "x-b:\t3 \t"), "201 len=-1 [x-b=2 X-A=1 x-b=3]"},
		{"no reason", headText("HTTP/1.1 200 ", "A: b"), "200 len=-1 [A=b]"},
		{"no reason, no space", headText("HTTP/1.1 200", "A: b"), "200 len=-1 [A=b]"},
		{"old", headText("HTTP/1.0 200 OK"), "200 len=-1 close []"},
		{"same length twice", headText("HTTP/1.1 200 OK", "Content-Length: 5", "Content-Length: 5"), "200 len=5 []"},
		{"chunked", headText("HTTP/1.1 200 OK", "Transfer-Encoding: Chunked"), "200 len=-1 chunked []"},
		{"events", headText("HTTP/1.1 200 OK", "Content-Type: Text/Event-Stream; charset=utf-8"), "200 len=-1 events [Content-Type=Text/Event-Stream; charset=utf-8]"},
		{"close", headText("HTTP/1.1 200 OK", "Connection: x, Close"), "200 len=-1 close []"},
		{"named by Connection", headText("HTTP/1.1 200 OK", "X-Secret: 1", "Connection: x-secret, keep-alive", "Y: 2"), "200 len=-1 [Y=2]"},
		{"hop by hop", headText("HTTP/1.1 200 OK", "Keep-Alive: timeout=5", "Proxy-Authenticate: Basic", "Proxy-Connection: close", "TE: x", "Trailer: y", "Upgrade: h2c", "Via: 1.1 z"), "200 len=-1 [Via=1.1 z]"},
		{"ours", headText("HTTP/1.1 200 OK", "X-OnceOnly-Decision: forged", "x_onceonly_outcome: done", "Idempotent-Replayed: true", "idempotent_replayed: true", "Alt-Svc: h3=\":443\"", "ETag: \"x\""), "200 len=-1 [ETag=\"x\"]"},
		{"unknown status", headText("HTTP/1.1 799 Odd"), "799 len=-1 []"},
		{"latin-1 value", headText("HTTP/1.1 200 OK", "X: caf\xe9"), "200 len=-1 [X=caf\xe9]"},

		{"length and chunks", headText("HTTP/1.1 200 OK", "Content-Length: 5", "Transfer-Encoding: chunked"), "error"},
		{"chunks and length", headText("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", "Content-Length: 5"), "error"},
		{"two lengths", headText("HTTP/1.1 200 OK", "Content-Length: 5", "Content-Length: 6"), "error"},
		{"list of lengths", headText("HTTP/1.1 200 OK", "Content-Length: 5, 5"), "error"},
		{"signed length", headText("HTTP/1.1 200 OK", "Content-Length: +5"), "error"},
		{"negative length", headText("HTTP/1.1 200 OK", "Content-Length: -5"), "error"},
		{"hexadecimal length", headText("HTTP/1.1 200 OK", "Content-Length: 0x5"), "error"},
		{"empty length", headText("HTTP/1.1 200 OK", "Content-Length:"), "error"},
		{"huge length", headText("HTTP/1.1 200 OK", "Content-Length: 99999999999999999999"), "error"},
		{"underscored length", headText("HTTP/1.1 200 OK", "Content-Length: 5", "Content_Length: 6"), "error"},
		{"other coding", headText("HTTP/1.1 200 OK", "Transfer-Encoding: gzip"), "error"},
		{"codings", headText("HTTP/1.1 200 OK", "Transfer-Encoding: gzip, chunked"), "error"},
		{"chunked twice", headText("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), "error"},
		{"chunked in 1.0", headText("HTTP/1.0 200 OK", "Transfer-Encoding: chunked"), "error"},
		{"folded", headText("HTTP/1.1 200 OK", "A: b", " c"), "error"},
		{"space before the colon", headText("HTTP/1.1 200 OK", "Content-Length : 5"), "error"},
		{"no colon", headText("HTTP/1.1 200 OK", "nonsense"), "error"},
		{"no name", headText("HTTP/1.1 200 OK", ": x"), "error"},
		{"bare LF", "HTTP/1.1 200 OK\nA: b\r\n\r\n", "error"},
		{"bare LF between headers", "HTTP/1.1 200 OK\r\nA: b\nC: d\r\n\r\n", "error"},
		{"bare CR", headText("HTTP/1.1 200 OK", "A: b\rC: d"), "error"},
		{"NUL", headText("HTTP/1.1 200 OK", "A: b\x00"), "error"},
		{"leading empty line", "\r\nHTTP/1.1 200 OK\r\n\r\n", "error"},
		{"HTTP/2", headText("HTTP/2.0 200 OK"), "error"},
		{"lower case", headText("http/1.1 200 OK"), "error"},
		{"two spaces", headText("HTTP/1.1  200 OK"), "error"},
		{"short status", headText("HTTP/1.1 20 OK"), "error"},
		{"long status", headText("HTTP/1.1 2000 OK"), "error"},
		{"status below 100", headText("HTTP/1.1 099 OK"), "error"},
		{"another protocol", headText("220 mail ready"), "error"},
	} {
		if got := shown(parseAnswer(c.text)); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func shown(h answerHead, err error) string {
	if err != nil {
		return "error"
	}
	s := fmt.Sprintf("%d len=%d ", h.status, h.length)
	for _, flag := range []struct {
		set  bool
		word string
	}{{h.chunked, "chunked "}, {h.closes, "close "}, {h.events, "events "}} {
		if flag.set {
			s += flag.word
		}
	}
	var pairs []string
	for _, f := range h.header {
		pairs = append(pairs, f.Name+"="+f.Value)
	}
	return s + "[" + strings.Join(pairs, " ") + "]"
}

func TestPatience(t *testing.T) {
	for value, want := range map[string]time.Duration{
		"timeout=5": 4 * time.Second, "max=100, Timeout=75": 74 * time.Second, "timeout=1": time.Nanosecond, "timeout=0": time.Nanosecond,
		"timeout=x": 0, "": 0, "max=3": 0, "timeout=99999999999": 0,
	} {
		if got := patienceOf(value); got != want {
			t.Errorf("%q: %v, want %v", value, got, want)
		}
	}
}

// A head that is accepted can be said again from its parts and means the same.
func FuzzParseAnswer(f *testing.F) {
	f.Add(headText("HTTP/1.1 200 OK", "Content-Type: text/plain", "Content-Length: 5"))
	f.Add(headText("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", "Connection: close, x", "X: y"))
	f.Add(headText("HTTP/1.0 404", "A: b\t c"))
	f.Fuzz(func(t *testing.T, text string) {
		i := strings.Index(text, "\r\n\r\n")
		if i < 0 {
			t.Skip("no whole head")
		}
		h, err := parseAnswer(text[:i+4])
		if err != nil {
			return
		}
		again := fmt.Sprintf("HTTP/1.1 %d \r\n", h.status)
		for _, field := range h.header {
			if strings.ContainsAny(field.Name+field.Value, "\r\n\x00") {
				t.Fatalf("a line end got through: %q", field)
			}
			again += field.Name + ": " + field.Value + "\r\n"
		}
		if h.length >= 0 {
			again += fmt.Sprintf("Content-Length: %d\r\n", h.length)
		}
		if h.chunked {
			again += "Transfer-Encoding: chunked\r\n"
		}
		if h.closes {
			again += "Connection: close\r\n"
		}
		if first, second := shown(h, nil), shown(parseAnswer(again+"\r\n")); first != second {
			t.Errorf("read %s, and said again %s", first, second)
		}
	})
}
