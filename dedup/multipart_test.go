package dedup

import (
	"bytes"
	"fmt"
	"mime/multipart"
	"strings"
	"testing"

	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// upload is what Go's own encoder makes of two fields and a file, with a boundary that it draws.
func upload(t *testing.T, filename string, content []byte) (contentType string, body []byte) {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	if err := w.WriteField("purpose", "dispute_evidence"); err != nil {
		t.Fatal(err)
	}
	f, err := w.CreateFormFile("file", filename)
	if err != nil {
		t.Fatal(err)
	}
	f.Write(content)
	w.Close()
	return w.FormDataContentType(), b.Bytes()
}

func argumentsOf(t *testing.T, contentType string, body []byte) Key {
	t.Helper()
	c := base()
	c.Header, c.Body = []tool.Header{{Name: "Content-Type", Value: contentType}}, body
	d, err := Derive(c)
	if err != nil {
		t.Fatal(err)
	}
	return d.Arguments
}

func TestMultipartBoundaryDoesNotCount(t *testing.T) {
	for _, content := range []string{"", "\r\n", "--", "\r\n--\r\n", "a\r\nb", "\x00\xff", strings.Repeat("x", 1<<16)} {
		type1, body1 := upload(t, "a.pdf", []byte(content))
		type2, body2 := upload(t, "a.pdf", []byte(content))
		if bytes.Equal(body1, body2) {
			t.Fatal("the encoder drew one boundary twice")
		}
		if argumentsOf(t, type1, body1) != argumentsOf(t, type2, body2) {
			t.Errorf("%.20q: the boundary counts", content)
		}
		type3, body3 := upload(t, "b.pdf", []byte(content))
		type4, body4 := upload(t, "a.pdf", []byte(content+"\n"))
		if argumentsOf(t, type1, body1) == argumentsOf(t, type3, body3) || argumentsOf(t, type1, body1) == argumentsOf(t, type4, body4) {
			t.Errorf("%.20q: another file name or content does not count", content)
		}
	}
}

// Every change of one byte is another call, unless it changes the boundary everywhere or only the spelling of a part's
// head.
func TestMultipartEveryByteCounts(t *testing.T) {
	const head = "multipart/form-data; boundary=XyZ"
	body := "--XyZ\r\nContent-Disposition: form-data; name=\"a\"; filename=\"f\"\r\nContent-Type: text/plain\r\nX-More: 1\r\n\r\ncontent\r\n--XyZ\r\nContent-Disposition: form-data; name=\"b\"\r\n\r\n2\r\n--XyZ--\r\n"
	want := argumentsOf(t, head, []byte(body))
	for i := range body {
		for _, change := range []byte{body[i] ^ 1, body[i] ^ 0x20, '-', '\n', '"', 0} {
			b := []byte(body)
			if b[i] = change; change == body[i] || strings.EqualFold(string(b), body) && inName(body, i) {
				continue
			}
			if argumentsOf(t, head, b) == want {
				t.Errorf("byte %d: %q for %q does not count", i, change, body[i])
			}
		}
		if cut := body[:i] + body[i+1:]; argumentsOf(t, head, []byte(cut)) == want && cut != strings.Replace(body, ": ", ":", 1) && !onlySpace(body, i) {
			t.Errorf("byte %d: without %q it is the same", i, body[i])
		}
	}
}

// inName says whether byte i is in the part of a head that is read in any case: a name, or form-data.
func inName(body string, i int) bool {
	line := body[strings.LastIndexByte(body[:i], '\n')+1:]
	line, _, _ = strings.Cut(line, "\r")
	if !strings.HasPrefix(line, "Content-") && !strings.HasPrefix(line, "X-More") {
		return false
	}
	at := i - strings.LastIndexByte(body[:i], '\n') - 1
	colon := strings.IndexByte(line, ':')
	return at < colon || strings.HasPrefix(line, "Content-Disposition") && line[at] != '"' && strings.Count(line[:at], `"`)%2 == 0
}

func onlySpace(body string, i int) bool { return body[i] == ' ' }

func TestMultipartInDoubt(t *testing.T) {
	const part = "Content-Disposition: form-data; name=\"a\""
	whole := func(head, content string) string { return "--b\r\n" + head + "\r\n\r\n" + content + "\r\n--b--\r\n" }
	if _, ok := readMultipart("multipart/form-data; boundary=b", []byte(whole(part, "1"))); !ok {
		t.Fatal("a plain body is in doubt")
	}
	for what, v := range map[string][2]string{
		"no boundary":                     {"multipart/form-data", whole(part, "1")},
		"an empty boundary":               {`multipart/form-data; boundary=""`, "--\r\n" + part + "\r\n\r\n1\r\n----"},
		"a boundary twice":                {"multipart/form-data; boundary=b; boundary=c", whole(part, "1")},
		"a boundary too long":             {"multipart/form-data; boundary=" + strings.Repeat("b", 71), strings.ReplaceAll(whole(part, "1"), "--b", "--"+strings.Repeat("b", 71))},
		"a boundary that ends in a space": {`multipart/form-data; boundary="b "`, strings.ReplaceAll(whole(part, "1"), "--b", "--b ")},
		"another boundary":                {"multipart/form-data; boundary=c", whole(part, "1")},
		"a preamble":                      {"multipart/form-data; boundary=b", "x\r\n" + whole(part, "1")},
		"an epilogue":                     {"multipart/form-data; boundary=b", whole(part, "1") + "x"},
		"padding":                         {"multipart/form-data; boundary=b", strings.Replace(whole(part, "1"), "--b\r", "--b \r", 1)},
		"a longer boundary inside":        {"multipart/form-data; boundary=b", whole(part, "1\r\n--bc\r\n2")},
		"its boundary after a bare LF":    {"multipart/form-data; boundary=b", whole(part, "1\n--b\n2")},
		"its boundary in a head":          {"multipart/form-data; boundary=b", whole(part+"\r\nX: --b", "1")},
		"no end":                          {"multipart/form-data; boundary=b", strings.TrimSuffix(whole(part, "1"), "--\r\n")},
		"bare LF":                         {"multipart/form-data; boundary=b", strings.ReplaceAll(whole(part, "1"), "\r\n", "\n")},
		"no head":                         {"multipart/form-data; boundary=b", "--b\r\n\r\n1\r\n--b--"},
		"no disposition":                  {"multipart/form-data; boundary=b", whole("Content-Type: text/plain", "1")},
		"two dispositions":                {"multipart/form-data; boundary=b", whole(part+"\r\n"+part, "1")},
		"two types":                       {"multipart/form-data; boundary=b", whole(part+"\r\nContent-Type: a/b\r\ncontent-type: a/c", "1")},
		"an empty type":                   {"multipart/form-data; boundary=b", whole(part+"\r\nContent-Type:", "1")},
		"another disposition":             {"multipart/form-data; boundary=b", whole(`Content-Disposition: attachment; name="a"`, "1")},
		"no name":                         {"multipart/form-data; boundary=b", whole(`Content-Disposition: form-data; filename="a"`, "1")},
		"two names":                       {"multipart/form-data; boundary=b", whole(part+`; name="b"`, "1")},
		"a backslash in the name":         {"multipart/form-data; boundary=b", whole(`Content-Disposition: form-data; name="a\"; filename=\"x"`, "1")},
		"quotes not closed":               {"multipart/form-data; boundary=b", whole(`Content-Disposition: form-data; name="a`, "1")},
		"something behind the quotes":     {"multipart/form-data; boundary=b", whole(part+`x`, "1")},
		"a bare CR in a head":             {"multipart/form-data; boundary=b", whole(part+"\r\nX: a\rb", "1")},
		"a folded line":                   {"multipart/form-data; boundary=b", whole(part+"\r\n filename=\"x\"", "1")},
		"a name with a space":             {"multipart/form-data; boundary=b", whole(part+"\r\nX : a", "1")},
	} {
		if _, ok := readMultipart(v[0], []byte(v[1])); ok {
			t.Errorf("%s is not in doubt", what)
		}
	}
}

// What is read as parts can be put together again, byte for byte but for the spelling of heads.
func FuzzMultipart(f *testing.F) {
	f.Add("multipart/form-data; boundary=b", []byte("--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--b--\r\n"))
	f.Add(`multipart/form-data; charset=utf-8; boundary="b c"`, []byte("--b c\r\nContent-Disposition: form-data; name=a; filename=\"x\"\r\nContent-Type: a/b\r\nX: y\r\n\r\n\r\n--b c--"))
	f.Fuzz(func(t *testing.T, contentType string, body []byte) {
		m, ok := readMultipart(contentType, body)
		if !ok {
			return
		}
		var b bytes.Buffer
		for _, p := range m.parts {
			fmt.Fprintf(&b, "--other\r\nContent-Disposition: form-data; name=\"%s\"", p.name)
			if p.hasFile {
				fmt.Fprintf(&b, "; filename=\"%s\"", p.filename)
			}
			for _, v := range p.rest {
				if v.name[0] == ';' {
					fmt.Fprintf(&b, "%s=\"%s\"", v.name, v.value)
				}
			}
			if p.kind != "" {
				fmt.Fprintf(&b, "\r\nContent-Type: %s", p.kind)
			}
			for _, v := range p.rest {
				if v.name[0] != ';' {
					fmt.Fprintf(&b, "\r\n%s: %s", v.name, v.value)
				}
			}
			fmt.Fprintf(&b, "\r\n\r\n%s\r\n", p.content)
		}
		b.WriteString("--other--")
		if bytes.Count(b.Bytes(), []byte("--other")) != len(m.parts)+1 {
			return
		}
		again, ok := readMultipart("multipart/form-data; boundary=other", b.Bytes())
		if !ok {
			t.Fatalf("%q was read and %q is not", body, b.Bytes())
		}
		again.params = m.params
		if hashParts(&m) != hashParts(&again) {
			t.Fatalf("%q and %q differ", body, b.Bytes())
		}
	})
}

func hashParts(m *multipartBody) Key {
	var w writer
	w.multipart(m)
	return w.sum(0)
}
