package store

import (
	"context"
)

// topology knows which node holds the keys.
type topology interface {
	// owner is the address of the master to ask.
	owner(ctx context.Context) (string, error)
	// moved says that the named node answered MOVED to this address.
	moved(addr string)
	// doubt says that the owner did not behave like one: look again.
	doubt()
}

// fixed is the topology of one server.
type fixed string

func (f fixed) owner(context.Context) (string, error) { return string(f), nil }
func (f fixed) moved(string)                          {}
func (f fixed) doubt()                                {}
