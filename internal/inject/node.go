package inject

import (
	"slices"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// field is the value of a mapping's key; nil when there is none, also when it is null.
func field(m *yaml.Node, name string) *yaml.Node {
	if m == nil || m.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == name {
			if v := m.Content[i+1]; v.Tag != "!!null" {
				return v
			}
			return nil
		}
	}
	return nil
}

// at follows keys; nil when one is missing.
func at(m *yaml.Node, names ...string) *yaml.Node {
	for _, name := range names {
		m = field(m, name)
	}
	return m
}

// text is a scalar's, empty when there is none.
func text(n *yaml.Node) string {
	if n == nil || n.Kind != yaml.ScalarNode {
		return ""
	}
	return n.Value
}

// yes says whether a scalar is true.
func yes(n *yaml.Node) bool {
	var b bool
	return n != nil && n.Decode(&b) == nil && b
}

// number is a scalar's whole number.
func number(n *yaml.Node) (int64, bool) {
	var i int64
	if n == nil || n.Kind != yaml.ScalarNode || n.Decode(&i) != nil {
		return 0, false
	}
	return i, true
}

// items are those of a sequence.
func items(n *yaml.Node) []*yaml.Node {
	if n == nil || n.Kind != yaml.SequenceNode {
		return nil
	}
	return n.Content
}

// named finds the item of a sequence that has this name.
func named(list *yaml.Node, name string) (*yaml.Node, int) {
	for i, n := range items(list) {
		if text(field(n, "name")) == name {
			return n, i
		}
	}
	return nil, -1
}

// put gives a key its value, in place when the mapping has it, else at the end.
func put(m *yaml.Node, name string, value *yaml.Node) {
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == name {
			if !equal(m.Content[i+1], value) {
				m.Content[i+1] = value
			}
			return
		}
	}
	m.Content = append(m.Content, str(name), value)
}

// putBefore gives a new key its value, before the key other.
func putBefore(m *yaml.Node, other, name string, value *yaml.Node) {
	drop(m, name) // it may be there, and null
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == other {
			m.Content = slices.Insert(m.Content, i, str(name), value)
			return
		}
	}
	put(m, name, value)
}

// drop takes a key out of a mapping.
func drop(m *yaml.Node, name string) {
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == name {
			m.Content = slices.Delete(m.Content, i, i+2)
			return
		}
	}
}

// under is the mapping or sequence at a key, made when there is none. It is printed in lines of its own, not in braces,
// because something will be added.
func under(m *yaml.Node, name string, kind yaml.Kind) *yaml.Node {
	n := field(m, name)
	if n == nil {
		n = &yaml.Node{Kind: kind, Tag: map[yaml.Kind]string{yaml.MappingNode: "!!map", yaml.SequenceNode: "!!seq"}[kind]}
		put(m, name, n)
	}
	n.Style &^= yaml.FlowStyle
	return n
}

// insert puts an item into a sequence.
func insert(list *yaml.Node, i int, n *yaml.Node) { list.Content = slices.Insert(list.Content, i, n) }

func str(s string) *yaml.Node {
	n := &yaml.Node{}
	n.SetString(s)
	return n
}

// clone is a deep copy.
func clone(n *yaml.Node) *yaml.Node {
	c := *n
	c.Content = make([]*yaml.Node, len(n.Content))
	for i, child := range n.Content {
		c.Content[i] = clone(child)
	}
	return &c
}

// equal says whether two nodes mean the same to a reader of JSON: members in any order, comments and styles aside.
func equal(a, b *yaml.Node) bool {
	if a.Kind != b.Kind {
		return false
	}
	switch a.Kind {
	case yaml.MappingNode:
		return len(a.Content) == len(b.Content) && equalMembers(a, b)
	case yaml.ScalarNode:
		return equalScalars(a, b)
	}
	return slices.EqualFunc(a.Content, b.Content, equal)
}

func equalMembers(a, b *yaml.Node) bool {
	for i := 0; i+1 < len(a.Content); i += 2 {
		j := slices.IndexFunc(b.Content, func(n *yaml.Node) bool { return n.Value == a.Content[i].Value })
		for j >= 0 && j%2 == 1 { // a value that reads like the key
			next := slices.IndexFunc(b.Content[j+1:], func(n *yaml.Node) bool { return n.Value == a.Content[i].Value })
			if next < 0 {
				return false
			}
			j += 1 + next
		}
		if j < 0 || !equal(a.Content[i+1], b.Content[j+1]) {
			return false
		}
	}
	return true
}

func equalScalars(a, b *yaml.Node) bool {
	if a.ShortTag() != b.ShortTag() {
		return false
	}
	if a.Value == b.Value {
		return true
	}
	x, isX := number(a)
	y, isY := number(b)
	return a.ShortTag() == "!!int" && isX && isY && x == y
}

// path joins the fields of an error's place.
func path(base, name string) string {
	if base == "" {
		return name
	}
	return base + "." + name
}

func index(base string, i int) string { return base + "[" + strconv.Itoa(i) + "]" }
