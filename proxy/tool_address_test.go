package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"

	"github.com/oo-sidecar/oo-sidecar/internal/govern"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// TestAliases: a call that names no tool reaches none by its address or under another name, and everything else that it
// could reach before.
func TestAliases(t *testing.T) {
	noLeaks(t)
	x, other := newRawTool(t, serving(okAnswer)), newRawTool(t, serving(okAnswer))
	_, port, _ := net.SplitHostPort(x.addr)
	_, otherPort, _ := net.SplitHostPort(other.addr)
	config := loopback
	config.Resolve = map[string]string{"pay.test": "127.0.0.1", "alias.test": "127.0.0.1", "named.test": "127.0.0.1"}
	u := newUpstream(t, config)
	registry := func(configs ...tool.Config) *tool.Registry {
		var tools []*tool.Tool
		for _, c := range configs {
			made, err := tool.New(c)
			if err != nil {
				t.Fatal(err)
			}
			tools = append(tools, made)
		}
		r, err := tool.NewRegistry(tools)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	passthrough := func(host string) bool { return host == "named.test" }
	none := &govern.Snapshot{Registry: registry(), Passthrough: passthrough}
	one := &govern.Snapshot{Registry: registry(tool.Config{Name: "pay", URL: "http://pay.test:" + port + "/charge"}), Passthrough: passthrough}
	pay, _ := one.Registry.ByName("pay", "agent")
	standIn := &tool.Tool{Unregistered: true}
	for _, c := range []struct {
		about     string
		snapshot  *govern.Snapshot
		tool      *tool.Tool
		authority string
		refused   bool
	}{
		{"no tools, by address", none, nil, x.addr, false},
		{"no tools, by name", none, nil, "alias.test:" + port, false},
		{"by address", one, nil, x.addr, true},
		{"by address, governed lightly", one, standIn, x.addr, true},
		{"by another name", one, nil, "alias.test:" + port, true},
		{"by another name, on a port that is no tool's", one, nil, "alias.test:" + otherPort, false},
		{"by its own name", one, nil, "pay.test:" + port, false},
		{"by a name in passthrough", one, nil, "named.test:" + port, false},
		{"the tool itself", one, pay, "pay.test:" + port, false},
	} {
		u.Snapshot = func() *govern.Snapshot { return c.snapshot }
		before := len(x.requests())
		a := attemptTo(c.authority)
		a.Tool = c.tool
		got := send(t, u, a)
		if !c.refused {
			got.wantWhole(t, 200, "ok")
			continue
		}
		if !errors.Is(got.err, govern.ErrDestination) || got.phase != govern.Queued || len(x.requests()) != before {
			t.Errorf("%s: %v, %d; the tool got %d requests", c.about, got.err, got.phase, len(x.requests())-before)
		}
	}
}

func TestSamePlace(t *testing.T) {
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"203.0.113.7", "203.0.113.7", true}, {"203.0.113.7", "203.0.113.8", false}, {"127.0.0.1", "127.0.0.2", true}, {"127.0.0.1", "::1", true},
		{"0.0.0.0", "127.0.0.1", true}, {"127.0.0.1", "203.0.113.7", false}, {"203.0.113.7", "127.0.0.1", false},
	} {
		if got := samePlace(netip.MustParseAddr(c.a), netip.MustParseAddr(c.b)); got != c.same {
			t.Errorf("%s and %s: %t", c.a, c.b, got)
		}
	}
}

// TestToolsThatCannotBeLookedUp count by the addresses that they had.
func TestToolsThatCannotBeLookedUp(t *testing.T) {
	made, err := tool.New(tool.Config{Name: "pay", URL: "https://pay.test/charge"})
	if err != nil {
		t.Fatal(err)
	}
	r, err := tool.NewRegistry([]*tool.Tool{made})
	if err != nil {
		t.Fatal(err)
	}
	d := &Dialer{lookup: func(context.Context, string) ([]netip.Addr, error) { return nil, errors.New("no answer") }}
	had := []netip.Addr{netip.MustParseAddr("203.0.113.7")}
	if got := lookUpTools(t.Context(), r, d, 443, had); len(got) != 1 || got[0] != had[0] {
		t.Errorf("they count as at %v", got)
	}
	if got := lookUpTools(t.Context(), r, d, 80, had); len(got) != 0 {
		t.Errorf("on another port they count as at %v", got)
	}
}
