package tool

import (
	"slices"
	"strconv"
	"strings"
)

// target reads url: a plain address, without patterns.
func (b *builder) target() {
	if b.URL == "" {
		b.bad("url", "is missing; write where calls are sent, such as https://host/path")
		return
	}
	t, err := ParseTarget(b.URL)
	if err != nil {
		b.bad("url", "%v", err)
		return
	}
	if strings.ContainsAny(b.URL, "{}") {
		b.bad("url", "holds {…}; patterns belong into match")
		return
	}
	if err := CheckPath(t.Path, b.AllowEncodedSlash); err != nil {
		b.bad("url", "%v; write the path as the tool's own documentation does", err)
		return
	}
	b.t.Target = t
}

// matches reads the patterns of forwarded calls. Without any it is POST on url.
func (b *builder) matches() {
	if len(b.Match) == 0 {
		if t := b.t.Target; t.Path != "" {
			b.t.Matches = []Match{{Methods: []string{"POST"}, Scheme: t.Scheme, Authority: t.Authority, Segments: segments(t.Path)}}
		}
		return
	}
	for i, m := range b.Match {
		if m, ok := b.match("match["+strconv.Itoa(i)+"]", m); ok {
			b.t.Matches = append(b.t.Matches, m)
		}
	}
}

func (b *builder) match(field string, c MatchConfig) (Match, bool) {
	before := len(b.problems)
	m := Match{Methods: slices.Clone(c.Methods)}
	if len(m.Methods) == 0 {
		m.Methods = []string{"POST"}
	}
	b.methods(field+".methods", m.Methods)
	t, err := ParseTarget(c.URL)
	switch {
	case c.URL == "":
		b.bad(field+".url", "is missing; write a pattern such as https://host/v1/items/{id}")
	case err != nil:
		b.bad(field+".url", "%v", err)
	case t.Query != "":
		b.bad(field+".url", "has a query; calls are matched by scheme, host, method and path: remove it")
	default:
		b.pattern(field+".url", t.Path)
	}
	m.Scheme, m.Authority, m.Segments = t.Scheme, t.Authority, segments(t.Path)
	return m, len(b.problems) == before
}

func (b *builder) methods(field string, methods []string) {
	for i, m := range methods {
		switch {
		case !isMethod(m):
			b.bad(field, "%q is no method; write it in upper case, such as POST", m)
		case m == "CONNECT":
			b.bad(field, "CONNECT opens tunnels and is never a call; remove it")
		case slices.Contains(methods[:i], m):
			b.bad(field, "%s stands there twice; remove one", m)
		}
	}
}

func isMethod(s string) bool {
	for i := range len(s) {
		if (s[i] < 'A' || s[i] > 'Z') && s[i] != '-' && s[i] != '_' {
			return false
		}
	}
	return s != "" && s[0] >= 'A' && s[0] <= 'Z'
}

// pattern judges a path whose segments may be {x} and, at the end, {x...}.
func (b *builder) pattern(field, path string) {
	if err := CheckPath(path, b.AllowEncodedSlash); err != nil {
		b.bad(field, "%v; such a call is never let through", err)
		return
	}
	parts, names := segments(path), []string{}
	for i, s := range parts {
		name, rest, ok := parameter(s)
		switch {
		case !ok && strings.ContainsAny(s, "{}"):
			b.bad(field, "the segment %q mixes text and {…}; {name} takes a whole segment", s)
		case !ok:
		case rest && i < len(parts)-1:
			b.bad(field, "%s stands before the end; {%s...} may only be the last segment", s, name)
		case slices.Contains(names, name):
			b.bad(field, "%s stands there twice; give each its own name", s)
		default:
			names = append(names, name)
		}
	}
}

// segments splits a path, "/" being one empty segment.
func segments(path string) []string { return strings.Split(strings.TrimPrefix(path, "/"), "/") }

// parameter reads {name} and {name...}.
func parameter(segment string) (name string, rest, ok bool) {
	name, ok = strings.CutPrefix(segment, "{")
	if !ok {
		return "", false, false
	}
	if name, ok = strings.CutSuffix(name, "}"); !ok {
		return "", false, false
	}
	name, rest = strings.CutSuffix(name, "...")
	for i := range len(name) {
		if !isAlphanumeric(name[i]) && name[i] != '_' {
			return "", false, false
		}
	}
	return name, rest, name != ""
}

// Method is the first of the tool's methods: that of calls by /tools/{name} and /v1/ai/run.
func (t *Tool) Method() string {
	if len(t.Matches) == 0 {
		return "POST"
	}
	return t.Matches[0].Methods[0]
}
