package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
)

// What is measured must be the answers that are said: the bare handler gives them, and another answer ends the run.
func TestDialogs(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	right := roleForTest(t, func(out io.Writer) error { return serveBareAPI(ctx, out) })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"status":"duplicate"}`) }))
	for what, dialog := range dialogs {
		for address, good := range map[string]bool{right: true, l.Addr().String(): false} {
			c, err := dial(contender{address: address, dialog: dialog})
			if err != nil {
				t.Fatal(err)
			}
			for n := range uint64(3) {
				if err := c.call(n); (err == nil) != good {
					t.Errorf("%s: %v, good %t", what, err, good)
				}
				if !good {
					break
				}
			}
			c.conn.Close()
		}
	}
}

// What is refused for now is asked again, with another key, and counted.
func TestDialogsArePatient(t *testing.T) {
	before := refused.Load()
	keys := map[string]bool{}
	err := patiently(7, func(key string) error {
		if keys[key] = true; len(keys) < 3 {
			return fmt.Errorf("%w: for now", errRefused)
		}
		return nil
	})
	if err != nil || len(keys) != 3 || refused.Load()-before != 2 {
		t.Errorf("%v after %v", err, keys)
	}
}
