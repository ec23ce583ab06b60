package tool

import (
	"slices"
	"strings"
)

// hostTree holds the patterns of one authority, twice: as they stand, and folded for near misses.
type hostTree struct {
	authority    string
	https        bool // a tool names it as https
	root, folded node
}

// node is a step in a tree of path segments. A request visits each node at most once, so that no path can cost more
// than the patterns there are.
type node struct {
	literals map[string]*node
	one      *node    // {x}
	here     []*entry // patterns that end here, agents' before global ones
	rest     []*entry // patterns that go on here with {x...}, likewise
}

// entry is one pattern of one tool.
type entry struct {
	tool  *Tool
	match *Match
	node  *node
	agent string // whose tool it is; "" with global
	own   bool   // only agent's
	rank  []byte // kind of each segment, for comparing patterns
	names []param
}

// param is where a parameter stands.
type param struct {
	name string
	at   int // segment
	rest bool
}

// Kinds of segments in a rank; the larger is the more specific.
const (
	kindRest byte = iota
	kindOne
	kindLiteral
)

// query is what a pattern must fit beside the path. Nil fits all.
type query struct{ scheme, method, agent string }

func (q *query) fits(e *entry) bool {
	return q == nil || e.match.Scheme == q.scheme && slices.Contains(e.match.Methods, q.method) && (!e.own || e.agent == q.agent)
}

func newEntry(t *Tool, m *Match) *entry {
	e := &entry{tool: t, match: m}
	e.agent, e.own = strings.CutPrefix(t.Scope, "agent:")
	for i, s := range m.Segments {
		name, rest, ok := parameter(s)
		switch {
		case !ok && (s != "" || i < len(m.Segments)-1): // a slash at the end makes nothing more specific
			e.rank = append(e.rank, kindLiteral)
		case ok && rest:
			e.rank = append(e.rank, kindRest)
		case ok:
			e.rank = append(e.rank, kindOne)
		}
		if ok {
			e.names = append(e.names, param{name, i, rest})
		}
	}
	return e
}

// add puts the pattern into both trees. It returns a pattern that is already there and is neither more nor less
// specific, and a method that both match.
func (h *hostTree) add(e *entry) (other *entry, method string) {
	leaf, list := h.root.place(e.match.Segments)
	for _, o := range *list {
		if o.match.Scheme != e.match.Scheme || o.tool.Scope != e.tool.Scope {
			continue
		}
		for _, m := range e.match.Methods {
			if slices.Contains(o.match.Methods, m) {
				return o, m
			}
		}
	}
	e.node = leaf
	insert(list, e)
	h.addFolded(e)
	return nil, ""
}

// addFolded makes the pattern findable by a folded path, in which {x...} may have lost the slash before it.
func (h *hostTree) addFolded(e *entry) {
	n, list := h.folded.place(foldSegments(e.match.Segments))
	*list = append(*list, e)
	if list == &n.rest {
		n.here = append(n.here, e)
	}
	slices.SortStableFunc(n.here, func(a, b *entry) int {
		if moreSpecific(a.rank, b.rank) {
			return -1
		}
		if moreSpecific(b.rank, a.rank) {
			return 1
		}
		return 0
	})
}

// insert keeps agents' patterns before global ones.
func insert(list *[]*entry, e *entry) {
	if e.own {
		*list = slices.Insert(*list, 0, e)
		return
	}
	*list = append(*list, e)
}

// place walks to where a pattern ends, making the way, and returns the list it belongs to.
func (n *node) place(parts []string) (*node, *[]*entry) {
	for _, s := range parts {
		_, rest, ok := parameter(s)
		switch {
		case rest:
			return n, &n.rest
		case ok:
			if n.one == nil {
				n.one = &node{}
			}
			n = n.one
		default:
			if n.literals == nil {
				n.literals = make(map[string]*node)
			}
			if n.literals[s] == nil {
				n.literals[s] = &node{}
			}
			n = n.literals[s]
		}
	}
	return n, &n.here
}

// foldSegments is foldPath for a pattern, whose parameters stay.
func foldSegments(parts []string) []string {
	folded := make([]string, 0, len(parts))
	for i, s := range parts {
		if _, _, ok := parameter(s); ok {
			folded = append(folded, s)
		} else if s != "" || i < len(parts)-1 {
			folded = append(folded, strings.ToLower(unescape(s)))
		}
	}
	return folded
}

// find is the most specific pattern that matches path and fits q; nil on a nil tree.
func (h *hostTree) find(path string, q *query) *entry {
	if h == nil || !strings.HasPrefix(path, "/") {
		return nil
	}
	return h.root.find(path, q)
}

// findFolded is the most specific pattern that the folded path may have been meant for.
func (h *hostTree) findFolded(path string) *entry {
	if h == nil || path != "" && path[0] != '/' {
		return nil
	}
	return h.folded.find(path, nil)
}

// find walks on with what is left of a path: nothing, or a slash and more.
func (n *node) find(path string, q *query) *entry {
	if path == "" {
		return first(n.here, q)
	}
	segment, after := path[1:], ""
	if i := strings.IndexByte(segment, '/'); i >= 0 {
		segment, after = segment[:i], segment[i:]
	}
	if next := n.literals[segment]; next != nil {
		if e := next.find(after, q); e != nil {
			return e
		}
	}
	if n.one != nil && segment != "" {
		if e := n.one.find(after, q); e != nil {
			return e
		}
	}
	return first(n.rest, q)
}

func first(list []*entry, q *query) *entry {
	for _, e := range list {
		if q.fits(e) {
			return e
		}
	}
	return nil
}

// siblings are the patterns that match whatever e matches and are as specific, e among them.
func (e *entry) siblings() []*entry {
	if slices.Contains(e.rank, kindRest) {
		return e.node.rest
	}
	return e.node.here
}

// params are the values of the pattern's parameters in a path that it matches.
func (e *entry) params(path string) []Param {
	if len(e.names) == 0 {
		return nil
	}
	params := make([]Param, 0, len(e.names))
	next, at := e.names, 0
	for rest := path[1:]; len(next) > 0; at++ {
		segment, after, _ := strings.Cut(rest, "/")
		if next[0].at == at {
			if next[0].rest {
				segment = rest
			}
			params = append(params, Param{next[0].name, segment})
			next = next[1:]
		}
		rest = after
	}
	return params
}

func (e *entry) beats(other *entry) bool {
	if moreSpecific(e.rank, other.rank) {
		return true
	}
	return !moreSpecific(other.rank, e.rank) && e.own && !other.own
}

// better is the more specific of two patterns, either of which may be nil; a when they are equal.
func better(a, b *entry) *entry {
	if a == nil || b != nil && moreSpecific(b.rank, a.rank) {
		return b
	}
	return a
}

// moreSpecific compares two ranks of patterns that match the same path.
func moreSpecific(a, b []byte) bool {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return a[i] > b[i]
		}
	}
	return len(a) < len(b)
}
