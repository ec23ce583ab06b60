package e2e

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/oo-sidecar/oo-sidecar/test/stand"
)

// TestJSONCorpus: what is no JSON is no arguments; what is, is passed on as it was written.
func TestJSONCorpus(t *testing.T) {
	t.Parallel()
	a := act(t, ok)
	s := start(t, []settings{a.tool("ok", settings{"dedup": settings{"mode": "off"}})}, nil)
	counts := map[string]int{}
	for name, text := range stand.Corpus(t, "json-parsing/*.json") {
		before := a.ran("")
		r := s.invoke("ok", text)
		want := map[byte]int{'y': 200, 'n': 400, 'i': r.status}[name[0]]
		if strings.HasPrefix(name, "y_object_duplicated_key") {
			want = 400 // one of the two would have to be chosen
		}
		if name == "n_structure_no_data.json" {
			want = 200 // no bytes are no arguments
		}
		accepted := a.ran("") - before
		if r.status != want || accepted != map[int]int{200: 1, 400: 0}[r.status] || r.status == 400 && r.code() != "arguments_unparseable" {
			t.Errorf("%s: %d %q, accepted %d times, wanted %d: %.80q", name, r.status, r.code(), accepted, want, text)
		}
		if sent := a.requests(""); r.status == 200 && sent[len(sent)-1].body != text {
			t.Errorf("%s reached the tool as %.80q", name, sent[len(sent)-1].body)
		}
		counts[name[:1]]++
	}
	if counts["n"] < 180 || counts["y"] < 90 {
		t.Errorf("the corpus is too small: %v", counts)
	}
}

// unescape decodes a file of the request corpus: real newlines are dropped, then the escapes decoded.
func unescape(text string) string {
	text = strings.ReplaceAll(text, "\n", "")
	return regexp.MustCompile(`\\(r|n|t|0|x[0-9a-fA-F]{2})`).ReplaceAllStringFunc(text, func(e string) string {
		if c, is := map[string]string{`\r`: "\r", `\n`: "\n", `\t`: "\t", `\0`: "\x00"}[e]; is {
			return c
		}
		c, _ := strconv.ParseUint(e[2:], 16, 8)
		return string([]byte{byte(c)})
	})
}

var (
	requestLine = regexp.MustCompile(`^([^ \r\n]+) [^ \r\n]+ ([^\r\n]*\r\n)`)
	hostLine    = regexp.MustCompile(`(?m)^Host: [^\r\n]*\r$`)
)

// aimed are the request as it is, and with a target and a Host that lead to the tool.
func aimed(s *sidecar, a *actor, request string) map[string]string {
	host := strings.TrimPrefix(a.URL, "http://")
	variants := map[string]string{"as it is": request}
	for target, own := range map[string]string{a.URL + "/ok": host, "/tools/ok": s.proxy} {
		m := requestLine.FindStringSubmatch(request)
		if m == nil {
			continue
		}
		for _, method := range []string{m[1], "POST"} {
			if method == "POST" && m[1] != "GET" && m[1] != "PUT" {
				method = m[1]
			}
			aimed := requestLine.ReplaceAllString(request, method+" "+target+" "+strings.ReplaceAll(m[2], "$", "$$"))
			variants[method+" to "+target] = aimed
			if hostLine.MatchString(aimed) {
				variants[method+" with the right Host to "+target] = hostLine.ReplaceAllString(aimed, "Host: "+own+"\r")
			} else {
				variants[method+" with a Host to "+target] = strings.Replace(aimed, "\r\n", "\r\nHost: "+own+"\r\n", 1)
			}
		}
	}
	return variants
}

// TestRequestCorpus: no invalid request of another project's tests reaches the tool, aimed at it or not.
func TestRequestCorpus(t *testing.T) {
	t.Parallel()
	// Their only fault is the target, or a server's settings, so that aimed at the tool they are right.
	target := map[string]bool{
		"006.http": true, "016.http": true, "rfc9112_target_asterisk_non_options_01.http": true,
		"rfc9112_target_authority_non_connect_01.http": true, "rfc9112_target_relative_01.http": true, "limit_header_default_01.http": true,
	}
	// Or it is the Host.
	host := map[string]bool{"010.http": true, "011.http": true, "012.http": true, "019.http": true}
	a := act(t, ok)
	s := start(t, []settings{a.tool("ok", settings{"match": []settings{{"methods": []string{"GET", "POST", "PUT"}, "url": a.URL + "/ok"}}, "dedup": settings{"mode": "off"}})}, nil)
	sent := 0
	for name, text := range stand.Corpus(t, "http-requests/invalid/*.http") {
		for how, request := range aimed(s, a, unescape(text)) {
			if how != "as it is" && target[name] || strings.Contains(how, " Host ") && host[name] {
				continue
			}
			sent++
			before := a.ran("")
			r := s.say(request)
			if a.ran("") != before {
				t.Errorf("%s, %s, reached the tool: %.200q became %q", name, how, request, a.requests("")[before].raw)
			}
			if r.status < 400 || r.status > 499 && r.status != 501 {
				t.Errorf("%s, %s: %d %s", name, how, r.status, r.body)
			}
		}
	}
	if r := s.invoke("ok", "{}"); r.status != 200 || a.ran("") != 1 {
		t.Errorf("the next call: %d, ran %d", r.status, a.ran(""))
	}
	if sent < 300 {
		t.Errorf("only %d requests were sent", sent)
	}
	for name, text := range stand.Corpus(t, "http-requests/valid/*.http") {
		r := s.say(unescape(text))
		if r.status >= 500 && r.status != 501 {
			t.Errorf("%s, which is valid: %d %s", name, r.status, r.body)
		}
	}
}

// TestNumbers: different numbers are different calls, one number in several spellings is one.
func TestNumbers(t *testing.T) {
	t.Parallel()
	a := act(t, ok)
	s := start(t, []settings{a.tool("ok", nil)}, nil)
	for _, spellings := range [][]string{
		{"9007199254740992"}, {"9007199254740993"}, {"1", "1.0", "1e0", "10e-1", "0.1e1", "1.000", "1E+0"}, {"0", "-0", "0.0", "0e9", "-0.0e-7"},
		{"-1", "-1.0"}, {"0.1", "1e-1"}, {"0.10000000000000001"}, {"1e400", "10e399"}, {"1e401"}, {"1e-400"}, {"100", "1e2", "1.00e+2"},
		{"123456789012345678901234567890"}, {"123456789012345678901234567891"}, {`"1"`}, {"true"}, {"null"}, {"[]"}, {"{}"}, {`"é"`, `"\u00e9"`}, {`"e\u0301"`},
	} {
		before := a.ran("")
		for i, n := range spellings {
			r := s.invoke("ok", fmt.Sprintf(`{"n":%s}`, n))
			if r.status != 200 || r.replayed() != (i > 0) {
				t.Errorf("%s, after %s: %d %s, replayed %t", n, spellings[:i], r.status, r.code(), r.replayed())
			}
		}
		if ran := a.ran("") - before; ran != 1 {
			t.Errorf("%s ran %d times", spellings, ran)
		}
	}
}

// TestNaughtyStrings: whatever stands in the arguments reaches the tool as it is, twice is once, and the audit stays one line each.
func TestNaughtyStrings(t *testing.T) {
	t.Parallel()
	files := stand.Corpus(t, "strings/*.json")
	a := act(t, ok)
	s := start(t, []settings{a.tool("ok", nil)}, nil)
	sent := 0
	for _, text := range files {
		for literal := range strings.Lines(text) {
			literal = strings.TrimSuffix(strings.TrimSpace(literal), ",")
			if !strings.HasPrefix(literal, `"`) {
				continue
			}
			body := fmt.Sprintf(`{"i":%d,"text":%s}`, sent, literal)
			sent++
			first, second := s.invoke("ok", body, "X-OnceOnly-Run-Id", fmt.Sprint("run-", sent)), s.invoke("ok", body)
			if first.status != 200 || !second.replayed() || first.body != second.body {
				t.Errorf("%s: %d %s, then %d, replayed %t", body, first.status, first.code(), second.status, second.replayed())
			}
		}
	}
	if ran := a.ran(""); sent < 400 || ran != sent {
		t.Errorf("%d strings ran %d times", sent, ran)
	}
	if n := len(s.records()); n != 2*sent {
		t.Errorf("%d records of %d requests", n, 2*sent)
	}
	s.verify()
}
