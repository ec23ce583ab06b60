package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Problem is one thing that is wrong, or odd, in a configuration: where it stands, what it is and how to mend it.
// It holds no secret and nothing that came from an expansion.
type Problem struct {
	File         string // the file, or "environment" or "command line"
	Line, Column int    // from 1; 0 when it has no place in a file
	Key          string // as in tools[3].dedup.ttl; "" for the whole file
	Message      string
	Mend         string // what to do; may be empty

	meant string // the key that a misspelt one probably is
}

// Error is file:line:column: key: message; mend.
func (p Problem) Error() string {
	var b strings.Builder
	if p.File != "" {
		b.WriteString(p.File)
		if p.Line > 0 {
			fmt.Fprintf(&b, ":%d:%d", p.Line, p.Column)
		}
		b.WriteString(": ")
	}
	if p.Key != "" {
		b.WriteString(p.Key + ": ")
	}
	b.WriteString(p.Message)
	if p.Mend != "" {
		b.WriteString("; " + p.Mend)
	}
	return b.String()
}

// Problems lists every Problem within err; any other error becomes one without a place.
func Problems(err error) []Problem {
	if err == nil {
		return nil
	}
	if p, ok := errors.AsType[Problem](err); ok && !isJoined(err) {
		return []Problem{p}
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []Problem{{Message: err.Error()}}
	}
	var all []Problem
	for _, e := range joined.Unwrap() {
		all = append(all, Problems(e)...)
	}
	return all
}

func isJoined(err error) bool {
	_, ok := err.(interface{ Unwrap() []error })
	return ok
}

// join makes one error of problems, in the order of the file, or nil.
func join(problems []Problem) error {
	slices.SortStableFunc(problems, func(a, b Problem) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	errs := make([]error, len(problems))
	for i, p := range problems {
		errs[i] = p
	}
	return errors.Join(errs...)
}
