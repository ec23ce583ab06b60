package store_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/audit"
	"github.com/oo-sidecar/oo-sidecar/internal/store"
)

func TestSwitch(t *testing.T) {
	opt := store.Options{Config: store.EmbeddedConfig{Dir: t.TempDir()}}
	e := open(t, opt)
	var told []string
	e.OnSwitch(func(agent string, disabled bool) { told = append(told, fmt.Sprint(agent, disabled)) })
	for _, agent := range []string{"a", store.Everyone} {
		if _, err := e.Disable(t.Context(), agent, "it loops", "ops"); err != nil {
			t.Fatal(err)
		}
	}
	if s, off := e.Disabled("b"); !off || s.Agent != store.Everyone {
		t.Fatalf("everyone is stopped: %+v", s)
	}
	if _, err := e.Enable(t.Context(), store.Everyone, "", "ops"); err != nil {
		t.Fatal(err)
	}
	restarted := func() *store.Embedded {
		o := opt
		o.Config.Dir = copyOf(t, opt.Config.Dir)
		return open(t, o)
	}
	for _, e := range []*store.Embedded{e, restarted()} {
		if s, off := e.Disabled("a"); !off || s.Reason != "it loops" || s.Who != "ops" || s.Since.IsZero() {
			t.Fatalf("%+v", s)
		}
		if _, off := e.Disabled("b"); off || len(e.Switches()) != 1 {
			t.Fatalf("%+v", e.Switches())
		}
	}
	if _, err := e.Enable(t.Context(), "a", "mended", "ops"); err != nil {
		t.Fatal(err)
	}
	if _, off := restarted().Disabled("a"); off {
		t.Fatal("still off")
	}
	if want := []string{"atrue", "*true", "*false", "afalse"}; !slices.Equal(told, want) {
		t.Fatalf("told %v", told)
	}
	if got, want := fmt.Sprint(changes(t, e)), "[agent_disabled:a:ops agent_disabled:*:ops agent_enabled:*:ops agent_enabled:a:ops]"; got != want {
		t.Fatalf("audited %s", got)
	}
}

func changes(t *testing.T, e *store.Embedded) (list []string) {
	t.Helper()
	for st, err := range e.Journal().Entries(0) {
		if err != nil {
			t.Fatal(err)
		}
		if st.Kind == audit.KindChange {
			c, err := audit.DecodeChange(st.Fact)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, c.What+":"+c.Entity+":"+c.Who)
		}
	}
	return list
}

func TestEntries(t *testing.T) {
	c := newClock()
	opt := store.Options{Config: store.EmbeddedConfig{Dir: t.TempDir()}, Now: c.Now}
	e := open(t, opt)
	told := 0
	watch := func() { e.OnEntries(func() { told++ }) }
	watch()
	file := func(values ...string) (list []store.Entry) {
		for i, v := range values {
			if v != "" {
				list = append(list, store.Entry{Kind: store.PolicyEntry, Name: string(rune('a' + i)), Value: []byte(v)})
			}
		}
		return list
	}
	load := func(values ...string) {
		t.Helper()
		c.Advance(time.Second)
		if err := e.LoadFile(t.Context(), file(values...)); err != nil {
			t.Fatal(err)
		}
	}
	put := func(name, value string) {
		t.Helper()
		c.Advance(time.Second)
		if err := e.Put(t.Context(), store.Entry{Kind: store.PolicyEntry, Name: name, Value: []byte(value)}, "ops"); err != nil {
			t.Fatal(err)
		}
	}
	remove := func(name string) error {
		c.Advance(time.Second)
		return e.Delete(t.Context(), store.PolicyEntry, name, "ops")
	}
	holds := func(want ...string) {
		t.Helper()
		var got []string
		for _, entry := range e.Entries() {
			got = append(got, entry.Name+"="+string(entry.Value)+" "+entry.Source)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("entries are %v, want %v", got, want)
		}
	}
	restart := func() {
		t.Helper()
		if err := e.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		e = open(t, opt)
		watch()
	}
	load("1", "1")
	holds("a=1 file", "b=1 file")
	put("a", "2")
	put("c", "9")
	holds("a=2 api", "b=1 file", "c=9 api")
	before := told
	load("1", "1") // nothing in the file has changed since
	holds("a=2 api", "b=1 file", "c=9 api")
	if told != before {
		t.Fatal("told of no change")
	}
	restart()
	holds("a=2 api", "c=9 api") // the file is not loaded yet
	load("1", "1")
	holds("a=2 api", "b=1 file", "c=9 api")
	load("3", "1") // a newer word of the file
	holds("a=3 file", "b=1 file", "c=9 api")
	load("", "1") // gone from the file, which is its newest word
	holds("b=1 file", "c=9 api")
	load("4", "1")
	put("a", "5")
	load("", "1") // gone from the file later than the api's word
	holds("b=1 file", "c=9 api")
	load("6", "1")
	if err := remove("a"); err != nil {
		t.Fatal(err)
	}
	load("6", "1")
	restart()
	load("6", "1")
	holds("b=1 file", "c=9 api")
	load("7", "1")
	holds("a=7 file", "b=1 file", "c=9 api")
	if err := remove("c"); err != nil {
		t.Fatal(err)
	}
	if err := remove("c"); !errors.Is(err, store.ErrNoEntry) {
		t.Fatalf("removing what is not there: %v", err)
	}
	restart()
	load("7", "1")
	holds("a=7 file", "b=1 file")
	if n := len(changes(t, e)); n != 13 {
		t.Fatalf("%d changes are audited: %v", n, changes(t, e))
	}
}
