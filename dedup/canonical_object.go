package dedup

import (
	"bytes"
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// jsonMember is one member of an open object: where its name stands in names, where name and value stand in out
// (nowhere when the member is ignored) and where it began in the source. maxText bounds them.
type jsonMember struct {
	name, nameEnd uint32
	out, outEnd   uint32
	at            uint32
	head          uint64 // the start of the name, in whose order most names are already
}

func (s *scanner) object(i, depth int, within span) int {
	open, members, names := len(s.out), len(s.members), len(s.names)
	s.out = append(s.out, '{')
	if i = s.space(i + 1); i < len(s.src) && s.src[i] == '}' {
		s.out = append(s.out, '}')
		return i + 1
	}
	ordered := true
	for end := false; !end; {
		if i = s.member(i, depth, within); i < 0 {
			return i
		}
		ordered = ordered && s.inOrder(members)
		if i, end = s.separator(i, '}'); i < 0 {
			return i
		}
	}
	if !ordered && !s.order(members) {
		return -1
	}
	s.close(open, members, ordered)
	s.members, s.names = s.members[:members], s.names[:names]
	return i
}

// member reads one member, writes it with a comma behind it, and pushes it; an ignored one is read and not written.
func (s *scanner) member(i, depth int, within span) int {
	if i = s.space(i); i >= len(s.src) || s.src[i] != '"' {
		return s.fail(BadSyntax, i)
	}
	at, out, name := i, len(s.out), len(s.names)
	if i = s.text(i); i < 0 {
		return i
	}
	s.names = appendUnescaped(s.names, s.out[out+1:len(s.out)-1])
	nameEnd := len(s.names)
	if i = s.space(i); i >= len(s.src) || s.src[i] != ':' {
		return s.fail(BadSyntax, i)
	}
	s.out = append(s.out, ':')
	inside, ignored := s.enter(within, s.names[name:nameEnd])
	if i = s.value(s.space(i+1), depth, inside); i < 0 {
		return i
	}
	s.leave(within)
	if ignored {
		s.out = s.out[:out]
	}
	s.members = append(s.members, jsonMember{uint32(name), uint32(nameEnd), uint32(out), uint32(len(s.out)), uint32(at), headOf(s.names[name:nameEnd])})
	if !ignored {
		s.out = append(s.out, ',')
	}
	return i
}

// inOrder says whether the last member's name is behind the one before it.
func (s *scanner) inOrder(first int) bool {
	n := len(s.members)
	return n-first < 2 || s.compare(s.members[n-2], s.members[n-1]) < 0
}

func (s *scanner) compare(a, b jsonMember) int {
	if a.head != b.head {
		return cmp.Compare(a.head, b.head)
	}
	return compareUTF16(s.names[a.name:a.nameEnd], s.names[b.name:b.nameEnd])
}

// order sorts the members from first on; it fails on two of one name.
func (s *scanner) order(first int) bool {
	m := s.members[first:]
	slices.SortFunc(m, s.compare)
	for i := 1; i < len(m); i++ {
		if s.compare(m[i-1], m[i]) == 0 {
			s.fail(DuplicateMember, int(max(m[i-1].at, m[i].at)))
			return false
		}
	}
	return true
}

// close ends the object that opened at out[open]: it puts the members in order where they are not, and replaces the
// last comma by the closing brace.
func (s *scanner) close(open, members int, ordered bool) {
	if !ordered {
		s.spare = append(s.spare[:0], s.out[open:]...)
		s.out = s.out[:open+1]
		for _, m := range s.members[members:] {
			if m.outEnd > m.out {
				s.out = append(append(s.out, s.spare[int(m.out)-open:int(m.outEnd)-open]...), ',')
			}
		}
	}
	if last := len(s.out) - 1; last > open {
		s.out[last] = '}'
		return
	}
	s.out = append(s.out, '}')
}

// compareUTF16 orders UTF-8 text by UTF-16 code units, as RFC 8785 does. It differs from the order of bytes in one
// place: U+E000 to U+FFFF (lead bytes EE and EF) come behind the pairs that stand for U+10000 and above (F0 to F4).
func compareUTF16(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return int(unitRank(a[i])) - int(unitRank(b[i]))
		}
	}
	return len(a) - len(b)
}

// headOf is the first eight bytes of a name as a number that is ordered as compareUTF16 orders names.
func headOf(name []byte) (head uint64) {
	for i := range min(len(name), 8) {
		head |= uint64(unitRank(name[i])) << (56 - 8*i)
	}
	return head
}

func unitRank(b byte) byte {
	if b == 0xEE || b == 0xEF {
		return b + 0x10
	}
	return b
}

// enter pushes the pointers that lead on through the member called name and says whether one of them ends there.
func (s *scanner) enter(within span, name []byte) (inside span, ends bool) {
	inside.lo = len(s.pointers)
	for _, p := range s.pointers[within.lo:within.hi] {
		rest, ok := step(p, name)
		if ok && rest == "" {
			ends = true
		} else if ok {
			s.pointers = append(s.pointers, rest)
		}
	}
	inside.hi = len(s.pointers)
	return inside, ends
}

// enterIndex is enter for the element n of an array. An element itself is never left out: only members are.
func (s *scanner) enterIndex(within span, n int) (span, bool) {
	if within.lo == within.hi {
		return within, false
	}
	var digits [20]byte
	return s.enter(within, strconv.AppendInt(digits[:0], int64(n), 10))
}

// leave pops what enter pushed.
func (s *scanner) leave(within span) {
	if within.lo < within.hi {
		s.pointers = s.pointers[:within.hi]
	}
}

// step takes the first reference token off a JSON pointer when it is name.
func step(pointer string, name []byte) (rest string, ok bool) {
	if pointer == "" || pointer[0] != '/' {
		return "", false
	}
	token := pointer[1:]
	if i := strings.IndexByte(token, '/'); i >= 0 {
		token, rest = token[:i], token[i:]
	}
	for len(name) > 0 && token != "" {
		c, n := token[0], 1
		if c == '~' && len(token) > 1 && (token[1] == '0' || token[1] == '1') {
			c, n = "~/"[token[1]-'0'], 2
		}
		if c != name[0] {
			return "", false
		}
		token, name = token[n:], name[1:]
	}
	return rest, token == "" && len(name) == 0
}

// appendUnescaped appends the text that a canonical string, without its quotes, stands for.
func appendUnescaped(dst, quoted []byte) []byte {
	for {
		i := bytes.IndexByte(quoted, '\\')
		if i < 0 {
			return append(dst, quoted...)
		}
		dst = append(dst, quoted[:i]...)
		c := quoted[i+1]
		quoted = quoted[i+2:]
		switch c {
		case 'u':
			dst = append(dst, byte(hex4(quoted)))
			quoted = quoted[4:]
		default:
			dst = append(dst, unescaped(c))
		}
	}
}
