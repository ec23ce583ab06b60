package dedup

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// Explanation says for a person what makes a call the same as another one. It holds the agent's arguments and query,
// but of headers only their names: a value may be a credential.
type Explanation struct {
	Keys      Derived
	Why       string // why the call is not deduplicated; empty when it is
	Scope     string // who shares the answer: "agent billing-agent", "run r-17" or "global"
	Form      string // how the body is compared: none | json | multipart | bytes
	MediaType string // as it counts
	Canonical string // the arguments as they count; binary ones are described
	Ignored   []string
	Headers   []HeaderWeight // of the call, in its order
}

// HeaderWeight says whether a header counts, and how or why not.
type HeaderWeight struct {
	Name   string // as it stood
	Counts bool
	How    string
}

// Explain derives a call's keys and says what counted. It changes nothing. Its errors are those of Derive; with
// ErrKeyRequired the explanation is whole.
func Explain(c *tool.Call) (Explanation, error) {
	keys, err := Derive(c)
	if err != nil && err != ErrKeyRequired {
		return Explanation{}, err
	}
	e := Explanation{Keys: keys, Why: whyNot(c)}
	scope, id := sharers(c, c.Tool.Dedup.Scope)
	e.Scope = strings.TrimSuffix(scope+" "+id, " ")
	e.explainBody(c)
	for _, h := range c.Header {
		w := weigh(c.Tool, appendLower(nil, h.Name), trimSpace(h.Value))
		e.Headers = append(e.Headers, HeaderWeight{h.Name, w.counts() || w == asMediaType, string(w)})
	}
	return e, err
}

func whyNot(c *tool.Call) string {
	if ok, _ := applies(c); ok {
		return ""
	}
	switch c.Tool.Dedup.Mode {
	case tool.Off:
		return "the tool's dedup.mode is off"
	case tool.Explicit, tool.Required:
		if c.ClientKey == "" {
			return "the call has no Idempotency-Key"
		}
	}
	return c.Method + " is not deduplicated unless the tool's dedup.mode is written"
}

func (e *Explanation) explainBody(c *tool.Call) {
	f, media := bodyForm(c)
	e.MediaType = media
	switch f {
	case formJSON:
		var s scanner
		s.ignore(c, c.Tool.Dedup.Ignore)
		e.Ignored = append([]string(nil), s.pointers...)
		s.scan(c.Body) // Derive has read it without a fault
		e.Canonical = string(s.out)
	case formMultipart:
		if m, ok := readMultipart(media, c.Body); ok {
			e.MediaType, e.Canonical = "multipart/form-data", m.describe()
			break
		}
		f = formBytes
		e.Canonical = describeBytes(c.Body)
	case formBytes:
		e.Canonical = describeBytes(c.Body)
	}
	e.Form = string(f)
}

func describeBytes(b []byte) string {
	if utf8.Valid(b) && strings.IndexByte(string(b), 0) < 0 {
		return string(b)
	}
	return fmt.Sprintf("%d bytes", len(b))
}

// describe is one line for each part.
func (m *multipartBody) describe() string {
	var b strings.Builder
	for _, p := range m.parts {
		fmt.Fprintf(&b, "name=%q", p.name)
		if p.hasFile {
			fmt.Fprintf(&b, " filename=%q", p.filename)
		}
		if p.kind != "" {
			fmt.Fprintf(&b, " type=%q", p.kind)
		}
		for _, v := range p.rest {
			fmt.Fprintf(&b, " %s=%q", strings.TrimPrefix(v.name, ";"), v.value)
		}
		fmt.Fprintf(&b, " %d bytes\n", len(p.content))
	}
	return b.String()
}
