package store

import (
	"errors"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"
)

// What may have become of a script whose answer is not there.
var (
	// errNotExecuted: the script surely did not run. Asking again needs no care.
	errNotExecuted = errors.New("Redis did not run it")
	// errLost: the script may have run, its reply is lost. Ask again with the same nonce.
	errLost = errors.New("the reply of Redis is lost")
	// errReplicas: the script ran and its reply is there, but fewer replicas than wait_replicas have it.
	errReplicas = errors.New("too few replicas have it")
)

// refusals begin the errors by which a server says that it ran nothing: it is not the one, not ready, or may not.
var refusals = []string{
	"TRYAGAIN", "MOVED", "ASK", "READONLY", "NOSCRIPT", "BUSY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "CROSSSLOT",
	"OOM", "MISCONF", "NOREPLICAS", "NOPERM", "NOAUTH", "WRONGPASS", "DENIED", "ERR max number of clients",
}

// failures begin those of them that say that this server can do nothing for anybody now.
var failures = []string{"READONLY", "BUSY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "MISCONF", "NOAUTH", "WRONGPASS", "DENIED", "ERR max number of clients"}

// serverError is the text of an error that the server answered; false for what happened on the way.
func serverError(err error) (string, bool) {
	var answered redis.Error
	if !errors.As(err, &answered) || errors.Is(err, redis.Nil) {
		return "", false
	}
	return answered.Error(), true
}

func begins(text string, with []string) bool {
	for _, w := range with {
		if strings.HasPrefix(text, w) && (len(text) == len(w) || text[len(w)] == ' ') {
			return true
		}
	}
	return false
}

// sentError sorts what came of a command after it was written. What a script itself raises stays as it is.
func sentError(err error) error {
	if err == nil || errors.Is(err, redis.Nil) {
		return nil
	}
	text, answered := serverError(err)
	switch {
	case !answered:
		return fmt.Errorf("%w: %w", errLost, err)
	case begins(text, refusals):
		return fmt.Errorf("%w: %w", errNotExecuted, err)
	case strings.Contains(text, "access a non local key"): // its slot is being moved; what it did before stands
		return fmt.Errorf("%w: %w", errLost, err)
	}
	return err
}

// onTheWay says that the connection failed after the script was written.
func onTheWay(err error) bool {
	_, answered := serverError(err)
	return errors.Is(err, errLost) && !answered
}

func notExecuted(err error) error {
	if errors.Is(err, errNotExecuted) {
		return err
	}
	return fmt.Errorf("%w: %w", errNotExecuted, err)
}

// outage says whether the error tells of the server or the way to it, and not of this one command.
func outage(err error) bool {
	switch {
	case onTheWay(err):
		return true
	case !errors.Is(err, errNotExecuted):
		return false
	}
	text, answered := serverError(err)
	return !answered || begins(text, failures)
}
