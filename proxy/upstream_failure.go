package proxy

import "fmt"

// failure is an error in words for people whose kind, one of govern's, says what it means for the call. The kind is no
// part of the words: whoever shows them shows the kind's code beside them.
type failure struct {
	kind error
	error
}

// fail makes a failure; its words are formatted as by fmt.Errorf.
func fail(kind error, format string, args ...any) error {
	return &failure{kind, fmt.Errorf(format, args...)}
}

func (f *failure) Unwrap() []error { return []error{f.kind, f.error} }
