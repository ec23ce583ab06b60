package proxy

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/oo-sidecar/oo-sidecar/internal/govern"
	"github.com/oo-sidecar/oo-sidecar/internal/needed"
)

// corpus reads a folder of the public request corpus: real newlines are dropped, then the escapes decoded.
func corpus(t testing.TB, folder string) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(needed.Corpus(t, "http-requests/"+folder), "*.http"))
	if err != nil || len(files) == 0 {
		t.Fatal("no requests: ", err)
	}
	decode := strings.NewReplacer("\n", "", `\r`, "\r", `\n`, "\n", `\t`, "\t", `\0`, "\x00")
	all := map[string]string{}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all[filepath.Base(f)] = decodeHex(decode.Replace(string(text)))
	}
	return all
}

func decodeHex(s string) string {
	var b strings.Builder
	for {
		before, after, ok := strings.Cut(s, `\x`)
		b.WriteString(before)
		if !ok || len(after) < 2 {
			return b.String()
		}
		c, err := strconv.ParseUint(after[:2], 16, 8)
		if err != nil {
			b.WriteString(`\x`)
			s = after
			continue
		}
		b.WriteByte(byte(c))
		s = after[2:]
	}
}

// retarget replaces the request target, and the method where the path wants POST.
func retarget(request, target string) (string, bool) {
	line, rest, ok := strings.Cut(request, "\r\n")
	words := strings.Split(line, " ")
	if !ok || len(words) != 3 {
		return "", false
	}
	if words[0] == "GET" || words[0] == "PUT" {
		words[0] = "POST"
	}
	words[1] = target
	return strings.Join(words, " ") + "\r\n" + rest, true
}

func TestNoInvalidRequestIsGoverned(t *testing.T) {
	// Their only fault is the request target, so that another target makes them right.
	targetOnly := map[string]bool{
		"006.http": true, "rfc9112_target_asterisk_non_options_01.http": true, "rfc9112_target_authority_non_connect_01.http": true,
		"rfc9112_target_relative_01.http": true, "016.http": true,
	}
	// What makes them invalid is a setting of the server that they were written for; with a Host they are requests like any other.
	fineWithHost := map[string]bool{"010.http": true, "019.http": true}
	g := newRig(t)
	check := func(name, how, request string) {
		t.Helper()
		before, _ := g.seen()
		out := g.raw(request)
		if governed, _ := g.seen(); len(governed) != len(before) {
			t.Errorf("%s, %s, was governed: %.120q", name, how, request)
		}
		if status := statusOf(out); status < 400 || status > 499 {
			t.Errorf("%s, %s: answer %.60q", name, how, out)
		}
	}
	for name, request := range corpus(t, "invalid") {
		check(name, "as it is", request)
		if targetOnly[name] {
			continue
		}
		for _, target := range []string{"http://tool.test/ok", "/tools/ok"} {
			changed, ok := retarget(request, target)
			if !ok {
				continue
			}
			check(name, "to "+target, changed)
			if !strings.Contains(changed, "Host:") && !fineWithHost[name] {
				host := map[bool]string{true: "localhost", false: "tool.test"}[target[0] == '/']
				check(name, "with a Host, to "+target, strings.Replace(changed, "\r\n", "\r\nHost: "+host+"\r\n", 1))
			}
		}
	}
}

func TestValidRequestsOfTheCorpus(t *testing.T) {
	// Right by the RFCs, and refused all the same: by the gate's rules, or because what they ask for is not here.
	g := newRig(t)
	served := 0
	for name, request := range corpus(t, "valid") {
		before, refusedBefore := g.seen()
		out := g.raw(request)
		governed, refused := g.seen()
		if len(governed)+len(refused) == len(before)+len(refusedBefore) {
			t.Errorf("%s left no record; answer %.60q", name, out)
		}
		served += len(governed) - len(before)
	}
	if served < 2 { // the absolute-form ones with a host that agrees
		t.Errorf("%d of the valid requests were governed", served)
	}
}

// ambiguous requests and what is wrong with each. Every one must be refused whatever it is for.
var ambiguous = map[string]string{
	"content-length and chunked":      "POST %s HTTP/1.1\r\n%sContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"chunked and content-length":      "POST %s HTTP/1.1\r\n%sTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
	"two content-lengths":             "POST %s HTTP/1.1\r\n%sContent-Length: 4\r\nContent-Length: 4\r\n\r\nbody",
	"content-length list":             "POST %s HTTP/1.1\r\n%sContent-Length: 4, 4\r\n\r\nbody",
	"content-length plus":             "POST %s HTTP/1.1\r\n%sContent-Length: +4\r\n\r\nbody",
	"content-length minus":            "POST %s HTTP/1.1\r\n%sContent-Length: -4\r\n\r\nbody",
	"content-length padded":           "POST %s HTTP/1.1\r\n%sContent-Length: 4 \r\n\r\nbody",
	"content-length tab":              "POST %s HTTP/1.1\r\n%sContent-Length:\t4\r\n\r\nbody",
	"content-length hex":              "POST %s HTTP/1.1\r\n%sContent-Length: 0x4\r\n\r\nbody",
	"content-length underscore":       "POST %s HTTP/1.1\r\n%sContent-Length: 0_4\r\n\r\nbody",
	"content-length octal":            "POST %s HTTP/1.1\r\n%sContent-Length: 04\r\n\r\nbody",
	"content-length empty":            "POST %s HTTP/1.1\r\n%sContent-Length:\r\n\r\n",
	"content-length overflow":         "POST %s HTTP/1.1\r\n%sContent-Length: 18446744073709551620\r\n\r\nbody",
	"content-length fraction":         "POST %s HTTP/1.1\r\n%sContent-Length: 4.0\r\n\r\nbody",
	"content_length":                  "POST %s HTTP/1.1\r\n%sContent_Length: 4\r\n\r\nbody",
	"transfer_encoding":               "POST %s HTTP/1.1\r\n%sTransfer_Encoding: chunked\r\nContent-Length: 4\r\n\r\nbody",
	"space before colon":              "POST %s HTTP/1.1\r\n%sTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
	"tab before colon":                "POST %s HTTP/1.1\r\n%sContent-Length\t: 4\r\n\r\nbody",
	"space in name":                   "POST %s HTTP/1.1\r\n%sX Y: 4\r\n\r\n",
	"empty name":                      "POST %s HTTP/1.1\r\n%s: 4\r\n\r\n",
	"no colon":                        "POST %s HTTP/1.1\r\n%sXY\r\n\r\n",
	"te vertical tab":                 "POST %s HTTP/1.1\r\n%sTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
	"te vertical tab behind":          "POST %s HTTP/1.1\r\n%sTransfer-Encoding: chunked\x0b\r\n\r\n0\r\n\r\n",
	"te form feed":                    "POST %s HTTP/1.1\r\n%sTransfer-Encoding: \x0cchunked\r\n\r\n0\r\n\r\n",
	"te NUL":                          "POST %s HTTP/1.1\r\n%sTransfer-Encoding: chunked\x00\r\n\r\n0\r\n\r\n",
	"te bare CR":                      "POST %s HTTP/1.1\r\n%sTransfer-Encoding: chunked\rX: y\r\n\r\n0\r\n\r\n",
	"te tab":                          "POST %s HTTP/1.1\r\n%sTransfer-Encoding:\tchunked\r\n\r\n0\r\n\r\n",
	"te padded":                       "POST %s HTTP/1.1\r\n%sTransfer-Encoding: chunked \r\n\r\n0\r\n\r\n",
	"te upper case":                   "POST %s HTTP/1.1\r\n%sTransfer-Encoding: CHUNKED\r\n\r\n0\r\n\r\n",
	"te quoted":                       "POST %s HTTP/1.1\r\n%sTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
	"te list":                         "POST %s HTTP/1.1\r\n%sTransfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
	"te comma":                        "POST %s HTTP/1.1\r\n%sTransfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n",
	"te parameter":                    "POST %s HTTP/1.1\r\n%sTransfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n",
	"te identity":                     "POST %s HTTP/1.1\r\n%sTransfer-Encoding: identity\r\nContent-Length: 4\r\n\r\nbody",
	"te unknown":                      "POST %s HTTP/1.1\r\n%sTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
	"te twice":                        "POST %s HTTP/1.1\r\n%sTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"te empty":                        "POST %s HTTP/1.1\r\n%sTransfer-Encoding:\r\n\r\n",
	"te in 1.0":                       "POST %s HTTP/1.0\r\n%sTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"te folded":                       "POST %s HTTP/1.1\r\n%sTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
	"folded first":                    "POST %s HTTP/1.1\r\n %sContent-Length: 0\r\n\r\n",
	"folded":                          "POST %s HTTP/1.1\r\n%sX: a\r\n\tb\r\n\r\n",
	"bare LF line":                    "POST %s HTTP/1.1\r\n%sX: a\nContent-Length: 4\r\n\r\nbody",
	"bare LF request line":            "POST %s HTTP/1.1\n%s\r\n",
	"bare LF end":                     "POST %s HTTP/1.1\r\n%sX: a\r\n\n",
	"LF only":                         "POST %s HTTP/1.1\nX: %s\n\n",
	"bare CR":                         "POST %s HTTP/1.1\r\n%sX: a\rY: b\r\n\r\n",
	"CR CR LF":                        "POST %s HTTP/1.1\r\n%sX: a\r\r\n\r\n",
	"NUL in value":                    "POST %s HTTP/1.1\r\n%sX: a\x00b\r\n\r\n",
	"NUL in name":                     "POST %s HTTP/1.1\r\n%sX\x00: a\r\n\r\n",
	"DEL in value":                    "POST %s HTTP/1.1\r\n%sX: a\x7f\r\n\r\n",
	"escape in value":                 "POST %s HTTP/1.1\r\n%sX: \x1b[0m\r\n\r\n",
	"two Hosts":                       "POST %s HTTP/1.1\r\n%[2]s%[2]s\r\n",
	"no Host":                         "POST %s HTTP/1.1\r\nX: %.0s\r\n\r\n",
	"empty Host":                      "POST %s HTTP/1.1\r\nHost:\r\nX: %.0s\r\n\r\n",
	"Host with userinfo":              "POST %s HTTP/1.1\r\nHost: a@localhost%.0s\r\n\r\n",
	"Host with a path":                "POST %s HTTP/1.1\r\nHost: localhost/x%.0s\r\n\r\n",
	"Host list":                       "POST %s HTTP/1.1\r\nHost: localhost, tool.test%.0s\r\n\r\n",
	"Host tab":                        "POST %s HTTP/1.1\r\nHost:\tlocalhost%.0s\r\n\r\n",
	"Host_ by another name":           "POST %s HTTP/1.1\r\n%sX_OnceOnly_Run_Id: a\r\n\r\n",
	"idempotency key twice":           "POST %s HTTP/1.1\r\n%sIdempotency-Key: a\r\nidempotency-key: b\r\n\r\n",
	"ours twice":                      "POST %s HTTP/1.1\r\n%sX-OnceOnly-Run-Id: a\r\nX-ONCEONLY-RUN-ID: b\r\n\r\n",
	"authorization twice":             "POST %s HTTP/1.1\r\n%sAuthorization: a\r\nAuthorization: b\r\n\r\n",
	"proxy-authorization twice":       "POST %s HTTP/1.1\r\n%sProxy-Authorization: a\r\nProxy-Authorization: a\r\n\r\n",
	"content-type twice":              "POST %s HTTP/1.1\r\n%sContent-Type: a/b\r\nContent-Type: a/b\r\n\r\n",
	"connection names ours":           "POST %s HTTP/1.1\r\n%sConnection: close, X-OnceOnly-Run-Id\r\n\r\n",
	"connection names the key":        "POST %s HTTP/1.1\r\n%sConnection: Idempotency-Key\r\n\r\n",
	"connection names content-length": "POST %s HTTP/1.1\r\n%sConnection: Content-Length\r\nContent-Length: 0\r\n\r\n",
	"connection names host":           "POST %s HTTP/1.1\r\n%sConnection: host\r\n\r\n",
	"trailer":                         "POST %s HTTP/1.1\r\n%sTrailer: X\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"trailers":                        "POST %s HTTP/1.1\r\n%sTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n\r\n",
	"chunk extension":                 "POST %s HTTP/1.1\r\n%sTransfer-Encoding: chunked\r\n\r\n4;a=b\r\nbody\r\n0\r\n\r\n",
	"chunk extension on the last":     "POST %s HTTP/1.1\r\n%sTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0;a\r\n\r\n",
	"chunk size LF":                   "POST %s HTTP/1.1\r\n%sTransfer-Encoding: chunked\r\n\r\n4\nbody\r\n0\r\n\r\n",
	"chunk size CR":                   "POST %s HTTP/1.1\r\n%sTransfer-Encoding: chunked\r\n\r\n4\rXbody\r\n0\r\n\r\n",
	"chunk size plus":                 "POST %s HTTP/1.1\r\n%sTransfer-Encoding: chunked\r\n\r\n+4\r\nbody\r\n0\r\n\r\n",
	"chunk size 0x":                   "POST %s HTTP/1.1\r\n%sTransfer-Encoding: chunked\r\n\r\n0x4\r\nbody\r\n0\r\n\r\n",
	"chunk size padded":               "POST %s HTTP/1.1\r\n%sTransfer-Encoding: chunked\r\n\r\n4 \r\nbody\r\n0\r\n\r\n",
	"chunk size overflow":             "POST %s HTTP/1.1\r\n%sTransfer-Encoding: chunked\r\n\r\n10000000000000004\r\nbody\r\n0\r\n\r\n",
	"chunk size negative":             "POST %s HTTP/1.1\r\n%sTransfer-Encoding: chunked\r\n\r\n-1\r\nbody\r\n0\r\n\r\n",
	"chunk size empty":                "POST %s HTTP/1.1\r\n%sTransfer-Encoding: chunked\r\n\r\n\r\nbody\r\n0\r\n\r\n",
	"chunk too long":                  "POST %s HTTP/1.1\r\n%sTransfer-Encoding: chunked\r\n\r\n4\r\nbody!\r\n0\r\n\r\n",
	"chunk ends in LF":                "POST %s HTTP/1.1\r\n%sTransfer-Encoding: chunked\r\n\r\n4\r\nbody\n0\r\n\r\n",
	"chunk ends in two others":        "POST %s HTTP/1.1\r\n%sTransfer-Encoding: chunked\r\n\r\n4\r\nbodyXX0\r\n\r\n",
	"chunks without end":              "POST %s HTTP/1.1\r\n%sTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n",
	"last chunk without its line":     "POST %s HTTP/1.1\r\n%sTransfer-Encoding: chunked\r\n\r\n0\r\n",
	"body cut":                        "POST %s HTTP/1.1\r\n%sContent-Length: 5\r\n\r\nbody",
	"version 1.2":                     "POST %s HTTP/1.2\r\n%s\r\n",
	"version 2.0":                     "POST %s HTTP/2.0\r\n%s\r\n",
	"version 0.9":                     "POST %s HTTP/0.9\r\n%s\r\n",
	"version in lower case":           "POST %s http/1.1\r\n%s\r\n",
	"version padded":                  "POST %s HTTP/1.1 \r\n%s\r\n",
	"version 1.10":                    "POST %s HTTP/1.10\r\n%s\r\n",
	"no version":                      "POST %s\r\n%s\r\n",
	"two spaces":                      "POST  %s HTTP/1.1\r\n%s\r\n",
	"tab in request line":             "POST\t%s HTTP/1.1\r\n%s\r\n",
	"space before the method":         " POST %s HTTP/1.1\r\n%s\r\n",
	"method in lower case":            "post %s HTTP/1.1\r\n%s\r\n",
	"method in mixed case":            "Post %s HTTP/1.1\r\n%s\r\n",
	"method with a colon":             "POST: %s HTTP/1.1\r\n%s\r\n",
	"two empty lines before":          "\r\n\r\nPOST %s HTTP/1.1\r\n%s\r\n",
	"an LF before":                    "\nPOST %s HTTP/1.1\r\n%s\r\n",
	"a fragment":                      "POST %s#x HTTP/1.1\r\n%s\r\n",
	"non-ASCII path":                  "POST %s\xc3\xa9 HTTP/1.1\r\n%s\r\n",
	"bad escape":                      "POST %s%%zz HTTP/1.1\r\n%s\r\n",
	"space in path":                   "POST %s x HTTP/1.1\r\n%s\r\n",
	"NUL in path":                     "POST %s\x00 HTTP/1.1\r\n%s\r\n",
	"PROXY protocol":                  "PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\nPOST %s HTTP/1.1\r\n%s\r\n",
	"TLS":                             "\x16\x03\x01\x00\xa5%s%s",
	"HTTP/2 preface":                  "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n%.0s%.0s",
}

func TestAmbiguousRequestsAreRefused(t *testing.T) {
	g := newRig(t)
	for name, pattern := range ambiguous {
		for target, host := range map[string]string{"http://tool.test/ok": "Host: tool.test\r\n", "/tools/ok": "Host: localhost\r\n"} {
			before, refusedBefore := g.seen()
			request := strings.NewReplacer("%[2]s", host, "%.0s", "", "%%", "%").Replace(pattern)
			request = strings.Replace(request, "%s", target, 1)
			request = strings.Replace(request, "%s", host, 1)
			out := g.raw(request)
			governed, refused := g.seen()
			if len(governed) != len(before) || len(refused) != len(refusedBefore)+1 || statusOf(out) != 400 || !strings.Contains(out, "Connection: close\r\n") {
				t.Errorf("%s, %s: governed %d, refused %v, answer %.60q", name, target, len(governed)-len(before), refused[len(refusedBefore):], out)
			}
		}
	}
}

func TestTargetsAndHosts(t *testing.T) {
	for request, want := range map[string]int{
		"POST http://other.test/ HTTP/1.1\r\nHost: other.test\r\n":             200,
		"POST http://other.test HTTP/1.1\r\nHost: other.test:80\r\n":           200,
		"POST http://other.test?x HTTP/1.1\r\nHost: OTHER.test\r\n":            200,
		"POST https://other.test/ HTTP/1.1\r\nHost: other.test:443\r\n":        200,
		"POST http://other.test/ HTTP/1.0\r\n":                                 200,
		"POST http://[2001:db8::1]/ HTTP/1.1\r\nHost: [2001:DB8:0::1]:80\r\n":  200,
		"POST http://other.test/ HTTP/1.1\r\nHost: evil.test\r\n":              400,
		"POST http://other.test/ HTTP/1.1\r\nHost: other.test:81\r\n":          400,
		"POST https://other.test/ HTTP/1.1\r\nHost: other.test:80\r\n":         400,
		"POST http://other.test/ HTTP/1.0\r\nHost: evil.test\r\n":              400,
		"POST http://a@other.test/ HTTP/1.1\r\nHost: other.test\r\n":           400,
		"POST http://other.test@evil.test/ HTTP/1.1\r\nHost: other.test\r\n":   400,
		"POST http://other.test\\@evil.test/ HTTP/1.1\r\nHost: other.test\r\n": 400,
		"POST http:///ok HTTP/1.1\r\nHost: other.test\r\n":                     400,
		"POST http:other.test/ HTTP/1.1\r\nHost: other.test\r\n":               400,
		"POST ftp://other.test/ HTTP/1.1\r\nHost: other.test\r\n":              400,
		"POST file:///etc/passwd HTTP/1.1\r\nHost: other.test\r\n":             400,
		"POST http://other.test:0/ HTTP/1.1\r\nHost: other.test:0\r\n":         400,
		"POST http://other.test:65536/ HTTP/1.1\r\nHost: other.test:65536\r\n": 400,
		"POST http://other.test:/ HTTP/1.1\r\nHost: other.test:\r\n":           400,
		"POST http://other.test:080/ HTTP/1.1\r\nHost: other.test:080\r\n":     400,
		"POST http://127.1/ HTTP/1.1\r\nHost: 127.1\r\n":                       400,
		"POST http://0x7f000001/ HTTP/1.1\r\nHost: 0x7f000001\r\n":             400,
		"POST http://2130706433/ HTTP/1.1\r\nHost: 2130706433\r\n":             400,
		"POST http://0177.0.0.1/ HTTP/1.1\r\nHost: 0177.0.0.1\r\n":             400,
		"POST http://[fe80::1%25eth0]/ HTTP/1.1\r\nHost: [fe80::1%25eth0]\r\n": 400,
		"POST http://[::1/ HTTP/1.1\r\nHost: [::1\r\n":                         400,
		"POST http://caf%C3%A9.test/ HTTP/1.1\r\nHost: caf%C3%A9.test\r\n":     400,
		"POST http://a..test/ HTTP/1.1\r\nHost: a..test\r\n":                   400,
	} {
		g := newRig(t)
		out := g.raw(request + "Content-Length: 0\r\n\r\n")
		governed, refused := g.seen()
		if statusOf(out) != want || len(governed)+len(refused) != 1 || (want == 200) != (len(governed) == 1) {
			t.Errorf("%q: governed %d, refused %v %v, answer %.60q", request, len(governed), refused, g.details, out)
		}
	}
}

func TestHeadLimits(t *testing.T) {
	g := newRig(t)
	for name, c := range map[string]struct {
		fields string
		want   int
	}{
		"hundred fields":     {strings.Repeat("X: y\r\n", maxFields-1), 200},
		"too many fields":    {strings.Repeat("X: y\r\n", maxFields), 431},
		"long line":          {"X: " + strings.Repeat("y", maxLine-3) + "\r\n", 200},
		"too long a line":    {"X: " + strings.Repeat("y", maxLine-2) + "\r\n", 431},
		"too long, no end":   {"X: " + strings.Repeat("y", 100<<10), 431},
		"too large together": {strings.Repeat("X: "+strings.Repeat("y", 7000)+"\r\n", 6), 431},
	} {
		out := g.raw("POST /tools/ok HTTP/1.1\r\nHost: localhost\r\n" + c.fields + "\r\n")
		if statusOf(out) != c.want {
			t.Errorf("%s: %.60q", name, out)
		}
	}
}

// given is a connection on which all bytes have come already.
type given struct {
	net.Conn
	r io.Reader
}

func (g given) Read(p []byte) (int, error)         { return g.r.Read(p) }
func (g given) Write(p []byte) (int, error)        { return len(p), nil }
func (g given) SetReadDeadline(time.Time) error    { return nil }
func (g given) SetWriteDeadline(t time.Time) error { return nil }
func (g given) Close() error                       { return nil }

// FuzzGate: whatever the gate lets through, net/http and fasthttp read as the gate did, to the last byte.
func FuzzGate(f *testing.F) {
	for _, folder := range []string{"valid", "invalid"} {
		for _, request := range corpus(f, folder) {
			f.Add([]byte(request), uint8(7))
		}
	}
	f.Add([]byte(call+call), uint8(1))
	f.Add([]byte("POST http://tool.test/ok HTTP/1.1\r\nHost: tool.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"+call), uint8(3))
	s := &Server{headerBytes: 4 << 10, conns: map[*conn]struct{}{}}
	s.settings.Store(&settings{maxBody: 1 << 16})
	s.Backend = Backend{
		Refuse:   func(*govern.Request, string, string) *govern.Reply { return &govern.Reply{Status: 400} },
		Identity: func() *Identity { return &Identity{} },
		Snapshot: func() *govern.Snapshot { return &govern.Snapshot{} },
	}
	f.Fuzz(func(t *testing.T, data []byte, step uint8) {
		c := newConn(s, given{r: &stepReader{data, int(step)}})
		var passed []byte
		buf := make([]byte, 1+int(step))
		for {
			n, err := c.gate.read(c, buf)
			passed = append(passed, buf[:n]...)
			if err != nil {
				return
			}
			if c.gate.phase == atEnd && c.gate.clear == 0 {
				compare(t, c, passed)
				passed, c.gate.taken = nil, true
			}
		}
	})
}

type stepReader struct {
	left []byte
	step int
}

func (r *stepReader) Read(p []byte) (int, error) {
	if len(r.left) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), 1+r.step)], r.left)
	r.left = r.left[n:]
	return n, nil
}

func compare(t *testing.T, c *conn, passed []byte) {
	t.Helper()
	h := &c.head
	br := bufio.NewReader(bytes.NewReader(passed))
	std, err := http.ReadRequest(br)
	if err != nil {
		t.Fatalf("net/http does not read %q: %v", passed, err)
	}
	body, err := io.ReadAll(std.Body)
	if err != nil {
		t.Fatalf("net/http does not read the body of %q: %v", passed, err)
	}
	if rest, _ := io.ReadAll(br); len(rest) > 0 {
		t.Fatalf("net/http leaves %q of %q", rest, passed)
	}
	if std.Method != h.method || std.RequestURI != h.target || int64(len(body)) != c.gate.body {
		t.Fatalf("net/http reads %s %s and %d bytes, the gate %s %s and %d", std.Method, std.RequestURI, len(body), h.method, h.target, c.gate.body)
	}
	if h.form == origin && std.Host != h.hostRaw {
		t.Fatalf("net/http reads Host %q, the gate %q", std.Host, h.hostRaw)
	}
	var fast fasthttp.Request
	fast.Header.DisableNormalizing()
	fbr := bufio.NewReaderSize(bytes.NewReader(passed), 64<<10)
	if err := fast.Header.Read(fbr); err != nil {
		t.Fatalf("fasthttp does not read %q: %v", passed, err)
	}
	if err := fast.ContinueReadBody(fbr, 1<<20, false); err != nil {
		t.Fatalf("fasthttp does not read the body of %q: %v", passed, err)
	}
	if string(fast.Header.Method()) != h.method || string(fast.Header.RequestURI()) != h.target || !bytes.Equal(fast.Body(), body) || fbr.Buffered() > 0 {
		t.Fatalf("fasthttp reads %s %s %q of %q", fast.Header.Method(), fast.Header.RequestURI(), fast.Body(), passed)
	}
	if string(fast.Header.Host()) != h.hostRaw || fast.Header.ConnectionClose() != h.close && !h.http10 { // 1.0 is closed always
		t.Fatalf("fasthttp reads Host %q and close %t of %q", fast.Header.Host(), fast.Header.ConnectionClose(), passed)
	}
}
