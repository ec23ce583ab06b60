package dedup

// span is a range of one of the scanner's stacks.
type span struct{ lo, hi int }

// space returns the position of the next byte at or after i that is not white space.
func (s *scanner) space(i int) int {
	for i < len(s.src) {
		switch s.src[i] {
		case ' ', '\n', '\r', '\t':
			i++
		default:
			return i
		}
	}
	return i
}

// value reads the value at i and returns the position behind it, or -1. Depth counts the open arrays and objects;
// within are the pointers that lead into this value.
func (s *scanner) value(i, depth int, within span) int {
	if i >= len(s.src) {
		return s.fail(Truncated, i)
	}
	switch c := s.src[i]; c {
	case '"':
		return s.text(i)
	case '{', '[':
		if depth == MaxDepth {
			return s.fail(TooDeep, i)
		}
		if c == '{' {
			return s.object(i, depth+1, within)
		}
		return s.array(i, depth+1, within)
	case '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9':
		return s.number(i)
	case 't':
		return s.word(i, "true")
	case 'f':
		return s.word(i, "false")
	case 'n':
		return s.word(i, "null")
	}
	return s.fail(BadSyntax, i)
}

func (s *scanner) word(i int, w string) int {
	for j := range len(w) {
		if i+j >= len(s.src) || s.src[i+j] != w[j] {
			return s.fail(BadSyntax, i+j)
		}
	}
	s.out = append(s.out, w...)
	return i + len(w)
}

func (s *scanner) array(i, depth int, within span) int {
	s.out = append(s.out, '[')
	if i = s.space(i + 1); i < len(s.src) && s.src[i] == ']' {
		s.out = append(s.out, ']')
		return i + 1
	}
	for n := 0; ; n++ {
		inside, _ := s.enterIndex(within, n)
		if i = s.value(i, depth, inside); i < 0 {
			return i
		}
		s.leave(within)
		next, end := s.separator(i, ']')
		if end {
			s.out = append(s.out, ']')
			return next
		}
		s.out = append(s.out, ',')
		i = s.space(next)
	}
}

// separator reads a comma or the closing bracket and says whether it ends the value, as a fault does.
func (s *scanner) separator(i int, closing byte) (next int, end bool) {
	i = s.space(i)
	switch {
	case i < len(s.src) && s.src[i] == ',':
		return i + 1, false
	case i < len(s.src) && s.src[i] == closing:
		return i + 1, true
	}
	return s.fail(BadSyntax, i), true
}
