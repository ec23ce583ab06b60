package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// A document whose aliases were followed may have this many nodes, this deep within each other.
const (
	visits = 100_000
	levels = 32
)

// reader turns a document into the map that koanf merges, led by the types of Config: names must be known, and every
// value is read from its own text, so that money never passes through a float and 5 never means five nanoseconds.
// It gathers every problem instead of stopping at the first one. It is a koanf.Parser.
type reader struct {
	environ  []string
	origin   *origin
	problems []Problem
	file     string // what is being read: a file's path or a variable's name
	visited  int
	depth    int
}

// spot is where the reader is: as people write it, tools[3].dedup.ttl, and as the tables have it, tools[].dedup.ttl.
type spot struct {
	key, schema string
	name        string // the last part, as written
}

func (s spot) field(name string) spot {
	shown := legible(name, "_-")
	if s.key == "" {
		return spot{shown, name, name}
	}
	return spot{s.key + "." + shown, s.schema + "." + name, name}
}

func (s spot) item(i int) spot {
	return spot{s.key + "[" + strconv.Itoa(i) + "]", s.schema + "[]", ""}
}

var plainName = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

func (s spot) entry(name string) spot {
	schema := s.schema + "{}"
	also := "_-.:@*/[]"
	if secrets[schema] {
		also = "_-.@"
	}
	shown := legible(name, also)
	if plainName.MatchString(shown) {
		return spot{s.key + "." + shown, schema, name}
	}
	return spot{s.key + "[" + strconv.Quote(shown) + "]", schema, name}
}

// legible is as much of a name as may be shown: where the colon behind it was forgotten, it goes on with the value.
func legible(name, also string) string {
	end := strings.IndexFunc(name, func(r rune) bool {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		return !letter && !strings.ContainsRune(also, r)
	})
	if end < 0 && len(name) <= 128 {
		return name
	}
	if end < 0 {
		end = 32
	}
	return name[:end] + "…"
}

// Unmarshal reads one document. It fails only when there is no document to speak of.
func (r *reader) Unmarshal(data []byte) (map[string]any, error) {
	n, err := r.parse(data)
	if err != nil || n == nil {
		return nil, err
	}
	m, _ := r.value(n, reflect.TypeFor[Config](), spot{})
	tree, _ := m.(map[string]any)
	return tree, nil
}

// Marshal is not needed: nothing is ever written back.
func (r *reader) Marshal(map[string]any) ([]byte, error) { return nil, errors.ErrUnsupported }

// parse reads the only document of data; nil when there is nothing in it.
func (r *reader) parse(data []byte) (*yaml.Node, error) {
	data = jsonAsYAML(data)
	d := yaml.NewDecoder(bytes.NewReader(data))
	var doc, more yaml.Node
	if err := d.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, r.syntax(err, data)
	}
	if err := d.Decode(&more); err == nil {
		return nil, Problem{File: r.file, Line: more.Line, Column: more.Column, Message: "a second document begins here",
			Mend: "one file holds one configuration"}
	} else if !errors.Is(err, io.EOF) {
		return nil, r.syntax(err, data)
	}
	return doc.Content[0], nil
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)

// syntax says where the parser stopped. The name of an anchor is not repeated: it may be a secret that begins with a
// star.
func (r *reader) syntax(err error, data []byte) Problem {
	p := Problem{File: r.file, Message: "is not YAML: " + err.Error()}
	if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
		p.Line, _ = strconv.Atoi(m[1])
		p.Message = "is not YAML: " + m[2]
	}
	if before, rest, found := strings.Cut(p.Message, "anchor '"); found {
		name, _, _ := strings.Cut(rest, "'")
		at := max(bytes.Index(data, []byte("*"+name)), 0)
		p.Line = 1 + bytes.Count(data[:at], []byte("\n"))
		p.Message, p.Mend = before+"anchor", "quote a value that begins with *"
	}
	p.Column = min(p.Line, 1)
	return p
}

func (r *reader) fault(n *yaml.Node, s spot, message, mend string) (any, bool) {
	r.problems = append(r.problems, Problem{File: r.file, Line: n.Line, Column: n.Column, Key: s.key,
		Message: r.origin.redact(message), Mend: r.origin.redact(mend)})
	return nil, false
}

// value reads a node as a value of type t; false when it says nothing or is wrong.
func (r *reader) value(n *yaml.Node, t reflect.Type, s spot) (any, bool) {
	if r.exhausted(n, s) {
		return nil, false
	}
	r.depth++
	defer func() { r.depth-- }()
	if n.Kind == yaml.AliasNode {
		return r.value(n.Alias, t, s)
	}
	if tag := n.ShortTag(); tag == "!!null" {
		return nil, false
	} else if !strings.HasPrefix(tag, "!!") || tag == "!!binary" {
		return r.fault(n, s, "the tag "+n.Tag+" is not supported", "write the value without a tag")
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case isLeaf(t):
		return r.leaf(n, t, s)
	case t.Kind() == reflect.Struct:
		return r.object(n, t, s)
	case t.Kind() == reflect.Map:
		return r.table(n, t.Elem(), s)
	case t.Kind() == reflect.Slice:
		return r.list(n, t, s)
	}
	return r.any(n, s)
}

// exhausted says that the document is not worth reading on; once.
func (r *reader) exhausted(n *yaml.Node, s spot) bool {
	if r.visited++; r.visited <= visits && r.depth < levels {
		return false
	}
	if r.visited <= visits+1 {
		r.fault(n, s, "holds too many values, or too deep ones, once its aliases are followed", "write it without aliases")
		r.visited = visits + 1
	}
	return true
}

// object reads the fields of a section.
func (r *reader) object(n *yaml.Node, t reflect.Type, s spot) (any, bool) {
	pairs, ok := r.pairs(n, s, s.field)
	if !ok {
		return nil, false
	}
	m := map[string]any{}
	for _, p := range pairs {
		at := s.field(p.key.Value)
		f, known := field(t, p.key.Value)
		if !known {
			r.unknown(p.key, at, s, names(t))
			continue
		}
		r.mark(p.key, at)
		if v, ok := r.value(p.value, f.Type, at); ok {
			m[p.key.Value] = v
		}
	}
	return m, true
}

// unknown reports a name that a section does not have.
func (r *reader) unknown(n *yaml.Node, at, section spot, known []string) {
	name := legible(n.Value, "_-")
	r.fault(n, at, fmt.Sprintf("unknown key %q", name), didYouMean(name, known))
	best, _ := nearest(name, known)
	r.problems[len(r.problems)-1].meant = section.field(best).key
}

// table reads a map whose names are the user's.
func (r *reader) table(n *yaml.Node, elem reflect.Type, s spot) (any, bool) {
	pairs, ok := r.pairs(n, s, s.entry)
	if !ok {
		return nil, false
	}
	m := map[string]any{}
	for _, p := range pairs {
		at := s.entry(p.key.Value)
		r.mark(p.key, at)
		if p.value.Kind == yaml.ScalarNode && p.value.ShortTag() == "!!null" {
			r.fault(p.value, at, "has no value", "write name: value, or remove it")
		} else if v, ok := r.value(p.value, elem, at); ok {
			m[p.key.Value] = v
		}
	}
	return m, true
}

func (r *reader) list(n *yaml.Node, t reflect.Type, s spot) (any, bool) {
	if t == hostList && n.Kind == yaml.ScalarNode { // one word instead of a list
		n = &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq", Line: n.Line, Column: n.Column, Content: []*yaml.Node{n}}
	}
	if n.Kind != yaml.SequenceNode {
		return r.fault(n, s, "must be a list", "begin each entry with - on a line of its own, or write [a, b]")
	}
	l := make([]any, 0, len(n.Content))
	for i, c := range n.Content {
		at := s.item(i)
		r.mark(c, at)
		v, ok := r.value(c, t.Elem(), at)
		if !ok && c.Kind == yaml.ScalarNode && c.ShortTag() == "!!null" {
			r.fault(c, at, "is empty", "fill the entry in or remove it")
		}
		if ok {
			l = append(l, v)
		} else {
			l = append(l, placeholder(t.Elem()))
		}
	}
	return l, true
}

// any reads what only its owner understands.
func (r *reader) any(n *yaml.Node, s spot) (any, bool) {
	switch n.Kind {
	case yaml.MappingNode:
		return r.table(n, anyType, s)
	case yaml.SequenceNode:
		return r.list(n, reflect.SliceOf(anyType), s)
	}
	return r.leaf(n, reflect.TypeFor[string](), s)
}

// mark remembers where a key stands.
func (r *reader) mark(n *yaml.Node, s spot) {
	r.origin.set(s.key, place{file: r.file, line: n.Line, col: n.Column})
}

// pair is one member of a mapping.
type pair struct{ key, value *yaml.Node }

// pairs lists the members of a mapping, those merged by << after its own. A name that stands twice is a problem.
func (r *reader) pairs(n *yaml.Node, s spot, at func(name string) spot) ([]pair, bool) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if r.exhausted(n, s) {
		return nil, false
	}
	r.depth++
	defer func() { r.depth-- }()
	if n.Kind != yaml.MappingNode {
		r.fault(n, s, "must hold names with values", "write name: value, indented below it")
		return nil, false
	}
	var own []pair
	var merged []*yaml.Node
	lines := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		first, twice := lines[key.Value]
		switch {
		case key.Kind != yaml.ScalarNode:
			r.fault(key, s, "a name must be plain text", "")
		case key.ShortTag() == "!!merge":
			merged = append(merged, value)
		case twice:
			r.fault(key, at(key.Value), fmt.Sprintf("is here for the second time; the first is on line %d", first), "remove one")
		default:
			lines[key.Value] = key.Line
			own = append(own, pair{key, value})
		}
	}
	for _, m := range merged {
		own = r.merge(own, m, s, at)
	}
	return own, true
}

// merge adds the members of a mapping, or of a list of them, that own does not have.
func (r *reader) merge(own []pair, n *yaml.Node, s spot, at func(name string) spot) []pair {
	if n.Kind == yaml.SequenceNode {
		for _, c := range n.Content {
			own = r.merge(own, c, s, at)
		}
		return own
	}
	more, _ := r.pairs(n, s, at)
	for _, p := range more {
		if !has(own, p.key.Value) {
			own = append(own, p)
		}
	}
	return own
}

func has(pairs []pair, name string) bool {
	for _, p := range pairs {
		if p.key.Value == name {
			return true
		}
	}
	return false
}
