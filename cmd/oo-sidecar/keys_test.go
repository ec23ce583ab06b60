package main

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/oo-sidecar/oo-sidecar/internal/store/redistest"
)

const rotated, second = "once_live_ops_rotated_01234", "once_live_second_operator_01234"

// enters says whether the key is an operator's here.
func (g *governed) enters(key string) bool {
	g.t.Helper()
	status, text := g.ask(key, "GET", "/v1/status", "")
	if status != http.StatusOK && status != http.StatusForbidden {
		g.t.Fatal(status, text)
	}
	return status == http.StatusOK
}

// TestOperatorsKeys: on both stores an operator's key is shared, rotated and revoked at run time, and stands nowhere.
func TestOperatorsKeys(t *testing.T) {
	for _, kind := range []string{"embedded", "redis"} {
		t.Run(kind, func(t *testing.T) {
			words := ""
			if kind == "redis" {
				words = onRedis(redistest.Start(t))
			}
			g := governedOn(t, t.TempDir(), words, "")
			share := func(key, spec string) (int, string) { return g.ask(key, "POST", "/v1/entries/keys", spec) }
			if status, text := share(opsKey, `{"name":"second","role":"operator","key":"`+second+`"}`); status != 200 || strings.Contains(text, second) || !g.enters(second) {
				t.Fatal(status, text)
			}
			if status, text := share(second, `{"name":"ops","role":"operator","key":"`+rotated+`"}`); status != 200 || g.enters(opsKey) || !g.enters(rotated) {
				t.Fatal("the file's key holds beside the one that was shared", status, text)
			}
			_, list := g.ask(second, "GET", "/v1/entries/keys", "")
			if strings.Contains(list, rotated) || strings.Contains(list, "digest") || strings.Count(list, `"name":"ops"`) != 2 || !strings.Contains(list, `"source":"file"`) {
				t.Error(list)
			}
			for _, e := range g.store.Entries() {
				if strings.Contains(string(e.Value), rotated) {
					t.Errorf("the key itself is kept: %s", e.Value)
				}
			}
			for name, spec := range map[string]string{
				"an agent's": `{"name":"x","role":"agent","key":"` + second + `"}`, "a short one": `{"name":"x","role":"operator","key":"short"}`,
				"no name": `{"role":"operator","key":"` + second + `"}`, "a reference": `{"name":"x","role":"operator","key":"${env:HOME}0123456789"}`,
				"another field": `{"name":"x","role":"operator","key":"` + second + `","admin":true}`, "an agent": `{"name":"x","role":"operator","agent_id":"a","key":"` + second + `"}`,
			} {
				if status, text := share(second, spec); status != http.StatusUnprocessableEntity || strings.Contains(text, second) {
					t.Error(name, status, text)
				}
			}
			if status, text := share(botKey, `{"name":"x","role":"operator","key":"`+second+`"}`); status != http.StatusForbidden {
				t.Error(status, text)
			}
			if status, text := g.ask(second, "DELETE", "/v1/entries/keys/nobody", ""); status != http.StatusNotFound {
				t.Error(status, text)
			}
			for _, name := range []string{"free", "other", "ops"} {
				if status, text := g.ask(second, "DELETE", "/v1/entries/keys/"+name, ""); status != http.StatusOK {
					t.Fatal(status, text)
				}
			}
			if g.enters(rotated) || g.enters(opsKey) || g.enters(otherKey) {
				t.Error("a revoked key lets somebody in")
			}
			if status, text := g.ask(second, "DELETE", "/v1/entries/keys/second", ""); status != http.StatusUnprocessableEntity || !g.enters(second) {
				t.Error("the last operator's key went", status, text)
			}
			if status, text := g.ask(second, "GET", "/v1/audit?changes=true&limit=50", ""); status != 200 || !strings.Contains(text, `key_changed`) || strings.Contains(text, second) {
				t.Error(status, text)
			}
			if kind == "embedded" { // and in the next process
				dir := g.dir
				g.stop()
				if g = governedOn(t, dir, words, ""); !g.enters(second) || g.enters(opsKey) {
					t.Error("forgotten by the next process")
				}
			}
		})
	}
}

// TestOperatorsKeysAreShared: by apply and by the api, at every sidecar of the store.
func TestOperatorsKeysAreShared(t *testing.T) {
	server := redistest.Start(t)
	one, other := governedOn(t, t.TempDir(), onRedis(server), ""), governedOn(t, t.TempDir(), onRedis(server), "")
	keys := fmt.Sprintf("api: {keys: [{name: ops, role: operator, key: %s}, {name: second, role: operator, key: %s}, {name: bot2, role: agent, key: once_live_another_bot}]}\n", opsKey, second)
	code, out := one.cli("apply", "-f", file(t, keys))
	if want := "ops unchanged, second created"; code != 0 || applies(out) != want {
		t.Fatal(code, out)
	}
	if code, out = one.cli("apply", "-f", file(t, keys)); code != 0 || applies(out) != "ops unchanged, second unchanged" {
		t.Fatal(code, out)
	}
	eventually(t, "the key holds at the other", func() bool { return other.enters(second) })
	if status, text := other.ask(second, "DELETE", "/v1/entries/keys/ops", ""); status != http.StatusOK {
		t.Fatal(status, text)
	}
	eventually(t, "the key is revoked at the first", func() bool { return !one.enters(opsKey) })
	for _, name := range []string{"ops", "otherwise"} {
		if status, text := other.ask(second, "POST", "/v1/entries/keys", `{"name":"`+name+`","role":"operator","key":"`+opsKey+`"}`); status != 422 || !strings.Contains(text, "was revoked") {
			t.Errorf("a revoked key was shared again: %d %s", status, text)
		}
	}
	if status, text := other.ask(second, "POST", "/v1/apply", `{"keys":[{"name":"ops","role":"operator","key":"`+opsKey+`"}]}`); status != 422 || !strings.Contains(text, "was revoked") || other.enters(opsKey) {
		t.Errorf("a revoked key was applied again: %d %s", status, text)
	}
	if all := fmt.Sprint(server.Do("HGETALL", "t:{t}:entries")); !strings.Contains(all, "key second") || strings.Contains(all, second) {
		t.Error(all)
	}
}

// TestARevokedKeyStaysRevoked: Redis is set back to before a revocation while no sidecar runs; those that start afterwards
// know better.
func TestARevokedKeyStaysRevoked(t *testing.T) {
	server := redistest.Start(t)
	g := governedOn(t, t.TempDir(), onRedis(server), "")
	if status, text := g.ask(opsKey, "POST", "/v1/entries/keys", `{"name":"second","role":"operator","key":"`+second+`"}`); status != 200 {
		t.Fatal(status, text)
	}
	before := fmt.Sprint(server.Do("HGET", "t:{t}:entries", "key second"))
	if status, text := g.ask(opsKey, "DELETE", "/v1/entries/keys/second", ""); status != 200 || g.enters(second) {
		t.Fatal(status, text)
	}
	dir := g.dir
	g.stop()
	server.Do("HSET", "t:{t}:entries", "key second", before)
	server.Do("DEL", "t:{t}:entries-revision")
	if g = governedOn(t, dir, onRedis(server), ""); g.enters(second) {
		t.Error("the key that was revoked lets somebody in again")
	}
	eventually(t, "the store has the revocation again", func() bool {
		return strings.Contains(fmt.Sprint(server.Do("HGET", "t:{t}:entries", "key second")), `"revoked":true`)
	})
}

// TestAKeyThatCouldNotBeRevoked: none is shared under a name that no path can hold.
func TestAKeyThatCouldNotBeRevoked(t *testing.T) {
	g := governedOn(t, t.TempDir(), "", "")
	for _, name := range []string{".", "..", "a\\nb", strings.Repeat("x", 129)} {
		if status, text := g.ask(opsKey, "POST", "/v1/entries/keys", `{"name":"`+name+`","role":"operator","key":"`+second+`"}`); status != 422 {
			t.Errorf("%q: %d %s", name, status, text)
		}
	}
	for i, path := range []string{"a%2Fb", "a%20b", "%C3%A9", "%2A", "a%25b"} {
		name, err := url.PathUnescape(path)
		if err != nil {
			t.Fatal(err)
		}
		key := fmt.Sprint(second, i)
		if status, text := g.ask(opsKey, "POST", "/v1/entries/keys", `{"name":"`+name+`","role":"operator","key":"`+key+`"}`); status != 200 || !g.enters(key) {
			t.Fatalf("%q: %d %s", name, status, text)
		}
		if status, text := g.ask(opsKey, "DELETE", "/v1/entries/keys/"+path, ""); status != 200 || g.enters(key) {
			t.Errorf("%q: %d %s", name, status, text)
		}
	}
}
