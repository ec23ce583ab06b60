package tool

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// line is a tool in one line: name, then METHOD,METHOD URL patterns; a name@agent is scoped, a trailing + allows %2f.
func line(t testing.TB, s string) *Tool {
	t.Helper()
	fields := strings.Fields(s)
	name, agent, scoped := strings.Cut(fields[0], "@")
	name, slash := strings.CutSuffix(name, "+")
	c := Config{Name: name, URL: "https://elsewhere.example/" + name, AllowEncodedSlash: slash}
	if scoped {
		c.Scope = "agent:" + agent
	}
	for i := 1; i < len(fields); i += 2 {
		c.Match = append(c.Match, MatchConfig{Methods: strings.Split(fields[i], ","), URL: fields[i+1]})
	}
	return build(t, c)
}

func registry(t testing.TB, lines ...string) *Registry {
	t.Helper()
	var tools []*Tool
	for _, s := range lines {
		tools = append(tools, line(t, s))
	}
	r, err := NewRegistry(tools)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// target reads a URL of a request without judging its path.
func target(t testing.TB, url string) Target {
	t.Helper()
	scheme, rest, _ := strings.Cut(url, "://")
	host, path, _ := strings.Cut(rest, "/")
	authority, err := ParseAuthority(scheme, host)
	if err != nil {
		t.Fatal(err)
	}
	path, query, _ := strings.Cut("/"+path, "?")
	return Target{Scheme: scheme, Authority: authority, Path: path, Query: query}
}

func TestMatch(t *testing.T) {
	r := registry(t,
		"charge POST https://api.example/v1/charges",
		"charge.get GET https://api.example/v1/charges/{id}",
		"charge.search GET,HEAD https://api.example/v1/charges/search",
		"charge.sub GET https://api.example/v1/charges/{id}/{sub}",
		"charge.refunds GET https://api.example/v1/charges/{id}/refunds",
		"v1 POST,GET https://api.example/v1/{rest...}",
		"v1@vip POST https://api.example/v1/{all...}",
		"charge@vip POST https://api.example/v1/charges",
		"root GET https://api.example/",
		"other GET https://api.example:8443/v1/{x}",
		"plain GET http://plain.example/{x}",
		"both.http GET http://both.example/{x}",
		"both.https GET https://both.example/a",
		"same.http GET http://same.example:81/a",
		"same.https GET https://same.example:81/a",
		"six GET https://[2001:db8::1]/x",
		"backtrack GET https://tree.example/a/b/c",
		"backtrack.x GET https://tree.example/{x}/b/d",
		"backtrack.rest GET https://tree.example/a/{r...}",
		"slash POST https://slash.example/a/",
		"noslash PUT https://slash.example/a",
	)
	for _, v := range []struct{ agent, method, url, want string }{
		{"", "POST", "https://api.example/v1/charges", "charge https://api.example:443/v1/charges"},
		{"", "POST", "https://api.example/v1/charges?x=1", "charge https://api.example:443/v1/charges?x=1"},
		{"vip", "POST", "https://api.example/v1/charges", "charge@vip https://api.example:443/v1/charges"},
		{"vip2", "POST", "https://api.example/v1/charges", "charge https://api.example:443/v1/charges"},
		{"", "GET", "https://api.example/v1/charges/ch_1", "charge.get https://api.example:443/v1/charges/ch_1 id=ch_1"},
		{"", "GET", "https://api.example/v1/charges/search", "charge.search https://api.example:443/v1/charges/search"},
		{"", "HEAD", "https://api.example/v1/charges/search", "charge.search https://api.example:443/v1/charges/search"},
		{"", "HEAD", "https://api.example/v1/charges/ch_1", ""},
		{"", "GET", "https://api.example/v1/charges/ch_1/refunds", "charge.refunds https://api.example:443/v1/charges/ch_1/refunds id=ch_1"},
		{"", "GET", "https://api.example/v1/charges/ch_1/disputes", "charge.sub https://api.example:443/v1/charges/ch_1/disputes id=ch_1 sub=disputes"},
		{"", "POST", "https://api.example/v1/charges/ch_1", "v1 https://api.example:443/v1/charges/ch_1 rest=charges/ch_1"},
		{"vip", "POST", "https://api.example/v1/charges/ch_1", "v1@vip https://api.example:443/v1/charges/ch_1 all=charges/ch_1"},
		{"vip", "GET", "https://api.example/v1/a/b/c/", "v1 https://api.example:443/v1/a/b/c/ rest=a/b/c/"},
		{"", "GET", "https://api.example/v1/", "v1 https://api.example:443/v1/ rest="},
		{"", "GET", "https://api.example/v1", ""},
		{"", "GET", "https://api.example/", "root https://api.example:443/"},
		{"", "GET", "https://api.example/v1/charges/", "v1 https://api.example:443/v1/charges/ rest=charges/"},
		{"", "GET", "https://api.example/V1/charges/ch_1", ""},
		{"", "DELETE", "https://api.example/v1/charges", ""},
		{"", "GET", "https://api.example:8443/v1/a", "other https://api.example:8443/v1/a x=a"},
		{"", "GET", "https://api.example:8443/v1/", ""},
		{"", "GET", "https://api.example:9/v1/a", ""},
		{"", "GET", "https://other.example/v1/a", ""},

		{"", "POST", "http://api.example/v1/charges?x=1", "charge https://api.example:443/v1/charges?x=1"},
		{"", "POST", "http://api.example:80/v1/charges", "charge https://api.example:443/v1/charges"},
		{"", "GET", "http://api.example:8443/v1/a", "other https://api.example:8443/v1/a x=a"},
		{"", "POST", "http://api.example:443/v1/charges", "charge https://api.example:443/v1/charges"},
		{"", "POST", "http://api.example:81/v1/charges", ""},
		{"", "GET", "http://[2001:db8::1]/x", "six https://[2001:db8::1]:443/x"},
		{"", "GET", "http://plain.example/a", "plain http://plain.example:80/a x=a"},
		{"", "GET", "https://plain.example/a", ""},
		{"", "GET", "https://plain.example:80/a", ""},
		{"", "GET", "http://both.example/a", "both.https https://both.example:443/a"},
		{"", "GET", "http://both.example/b", "both.http http://both.example:80/b x=b"},
		{"", "GET", "http://same.example:81/a", "same.http http://same.example:81/a"},
		{"", "GET", "https://same.example:81/a", "same.https https://same.example:81/a"},

		{"", "GET", "https://tree.example/a/b/c", "backtrack https://tree.example:443/a/b/c"},
		{"", "GET", "https://tree.example/a/b/d", "backtrack.rest https://tree.example:443/a/b/d r=b/d"},
		{"", "GET", "https://tree.example/z/b/d", "backtrack.x https://tree.example:443/z/b/d x=z"},
		{"", "GET", "https://tree.example/z/b/c", ""},
		{"", "GET", "https://tree.example//b/d", ""},
		{"", "POST", "https://slash.example/a/", "slash https://slash.example:443/a/"},
		{"", "PUT", "https://slash.example/a", "noslash https://slash.example:443/a"},
		{"", "POST", "https://slash.example/a", ""},
	} {
		got := ""
		if m, ok := r.Match(v.agent, v.method, target(t, v.url)); ok {
			got = m.Tool.Name
			if _, id, ok := strings.Cut(m.Tool.Scope, ":"); ok {
				got += "@" + id
			}
			got += " " + m.Target.String()
			for _, p := range m.Params {
				got += " " + p.Name + "=" + p.Value
			}
		}
		if got != v.want {
			t.Errorf("%s %s for %q is %q, want %q", v.method, v.url, v.agent, got, v.want)
		}
	}
	for _, path := range []string{"", "*", "v1/charges"} {
		if m, ok := r.Match("", "GET", Target{Scheme: "https", Authority: "api.example:443", Path: path}); ok {
			t.Errorf("the path %q matches %s", path, m.Tool.Name)
		}
	}
}

func TestRegistryRefuses(t *testing.T) {
	shared := func(name, body, secret string) *Tool {
		return build(t, Config{Name: name, URL: "https://h/" + name, Body: body, Auth: &AuthConfig{Type: "hmac_sha256", Secrets: []string{secret, name}}})
	}
	for _, v := range []struct {
		name  string
		tools []*Tool
		want  []string // parts of the error; none when it passes
	}{
		{"nothing", nil, nil},
		{"name twice", []*Tool{line(t, "a GET https://h/1"), line(t, "a GET https://h/2")}, []string{"tool a: name", "twice", "global"}},
		{"name twice for an agent", []*Tool{line(t, "a@x GET https://h/1"), line(t, "a@x GET https://h/2")}, []string{"tool a: name", "agent:x"}},
		{"name in three scopes", []*Tool{line(t, "a GET https://h/1"), line(t, "a@x GET https://h/1"), line(t, "a@y GET https://h/1")}, nil},
		{"literals", []*Tool{line(t, "a GET,POST https://h/1"), line(t, "b PUT,POST https://h/1")}, []string{"tool b: match", "POST https://h:443/1", "tool a"}},
		{"other methods", []*Tool{line(t, "a GET https://h/1"), line(t, "b POST https://h/1")}, nil},
		{"other schemes", []*Tool{line(t, "a GET https://h:1/1"), line(t, "b GET http://h:1/1")}, nil},
		{"other ports", []*Tool{line(t, "a GET https://h:1/1"), line(t, "b GET https://h:2/1")}, nil},
		{"parameters under two names", []*Tool{line(t, "a GET https://h/{x}/1"), line(t, "b GET https://h/{y}/1")}, []string{"tool b: match", "/{y}/1", "tool a", "/{x}/1"}},
		{"rests", []*Tool{line(t, "a GET https://h/{x...}"), line(t, "b GET https://h/{y...}")}, []string{"tool a", "tool b"}},
		{"rests of an agent", []*Tool{line(t, "a@x GET https://h/{x...}"), line(t, "b@x GET https://h/{y...}")}, []string{"tool a", "tool b"}},
		{"of two agents", []*Tool{line(t, "a@x GET https://h/1"), line(t, "b@y GET https://h/1")}, nil},
		{"literal, parameter, rest", []*Tool{line(t, "a GET https://h/1"), line(t, "b GET https://h/{x}"), line(t, "c GET https://h/{x...}")}, nil},
		{"crossing parameters", []*Tool{line(t, "a GET https://h/{x}/1"), line(t, "b GET https://h/1/{x}")}, nil},
		{"in one tool", []*Tool{line(t, "a GET https://h/1 GET https://h/1")}, []string{"tool a: match", "tool a"}},
		{"upgrade", []*Tool{line(t, "a GET https://h/1"), line(t, "b GET http://h/1")}, nil},

		{"one secret", []*Tool{shared("a", "", "HUSH"), shared("b", "", "HUSH")}, []string{"tool b: auth.secrets", "tool a"}},
		{"one secret, the later an envelope", []*Tool{shared("a", "", "HUSH"), shared("b", "envelope", "HUSH")}, []string{"tool b: auth.secrets", "tool a"}},
		{"one secret, the first an envelope", []*Tool{shared("a", "envelope", "HUSH"), shared("b", "as_is", "HUSH")}, []string{"tool b: auth.secrets", "tool a"}},
		{"one secret, all envelopes", []*Tool{shared("a", "envelope", "HUSH"), shared("b", "envelope", "HUSH")}, nil},
		{"a secret each", []*Tool{shared("a", "", "HUSH"), shared("b", "", "HUSH2")}, nil},
	} {
		_, err := NewRegistry(v.tools)
		switch {
		case v.want == nil && err != nil:
			t.Errorf("%s: %v", v.name, err)
		case v.want != nil && err == nil:
			t.Errorf("%s: passed", v.name)
		case err != nil && strings.Contains(err.Error(), "HUSH"):
			t.Errorf("%s: %v shows the secret", v.name, err)
		}
		for _, part := range v.want {
			if err != nil && !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %v lacks %q", v.name, err, part)
			}
		}
	}
}

func TestByName(t *testing.T) {
	r := registry(t, "a GET https://h/1", "a@x GET https://h/2", "b@x GET https://h/3")
	for _, v := range []struct{ name, agent, want string }{
		{"a", "x", "agent:x"}, {"a", "y", "global"}, {"a", "", "global"}, {"b", "x", "agent:x"}, {"b", "y", ""}, {"c", "x", ""}, {"A", "x", ""},
	} {
		got := ""
		if found, ok := r.ByName(v.name, v.agent); ok {
			got = found.Scope
		} else if found != nil {
			t.Errorf("%s for %s is not there and not nil", v.name, v.agent)
		}
		if got != v.want {
			t.Errorf("%s for %s has scope %q, want %q", v.name, v.agent, got, v.want)
		}
	}
	var names []string
	for _, x := range r.Tools() {
		names = append(names, x.Name+" "+x.Scope)
	}
	if want := []string{"a agent:x", "a global", "b agent:x"}; !slices.Equal(names, want) {
		t.Errorf("tools are %q, want %q", names, want)
	}
}

func TestToolHosts(t *testing.T) {
	r := registry(t, "a GET https://api.example/1 GET http://plain.example/1 GET https://both.example:81/1 GET http://both.example:81/1", "b GET https://[::1]:8443/ GET https://odd.example:80/")
	for _, v := range []struct {
		scheme, authority string
		host, only        bool
	}{
		{"https", "api.example:443", true, true},
		{"http", "api.example:80", true, true},
		{"http", "api.example:443", true, true}, // in the clear to the port of a host that is registered as https
		{"https", "api.example:80", false, false},
		{"http", "plain.example:80", true, false},
		{"https", "plain.example:80", true, false},
		{"https", "plain.example:443", false, false},
		{"http", "both.example:81", true, true},
		{"https", "both.example:81", true, true},
		{"https", "elsewhere.example:443", true, true},
		{"http", "elsewhere.example:80", true, true},
		{"http", "[::1]:8443", true, true},
		{"http", "odd.example:80", true, true},
		{"https", "odd.example:80", true, true},
		{"https", "other.example:443", false, false},
		{"http", "api.example:8080", false, false},
	} {
		if host, only := r.ToolHost(v.scheme, v.authority); host != v.host || only != v.only {
			t.Errorf("%s://%s: %t, %t; want %t, %t", v.scheme, v.authority, host, only, v.host, v.only)
		}
	}
	if got, want := r.HostNames(), []string{"[::1]", "api.example", "both.example", "elsewhere.example", "odd.example", "plain.example"}; !slices.Equal(got, want) {
		t.Errorf("hosts are %q, want %q", got, want)
	}
}

func TestNearMiss(t *testing.T) {
	r := registry(t,
		"refunds POST https://api.example/v1/refunds",
		"capture POST https://api.example/v1/charges:capture",
		"slash GET https://api.example/list/",
		"item GET https://api.example/items/{id}",
		"files GET https://api.example/files/{path...}",
		"any GET https://api.example/v1/{x}",
		"both GET https://api.example/both",
		"both.slash PUT https://api.example/both/",
		"Cased GET https://api.example/Cased",
		"cased GET https://api.example/cased",
		"utf GET https://api.example/caf%C3%A9",
		"index GET https://index.example/dir",
		"below GET https://index.example/dir/{p...}",
		"root GET https://root.example/",
		"all GET https://all.example/{p...}",
		"http GET http://mixed.example/x",
		"https GET https://mixed.example/X",
	)
	for url, want := range map[string]bool{
		"https://api.example/v1/refunds":           false,
		"https://api.example/v1/Refunds":           true, // any matches it, servers may not
		"https://api.example/V1/refunds":           true,
		"https://api.example/v1/refunds/":          true,
		"https://api.example/v1/REFUNDS/":          true,
		"http://api.example/v1/Refunds":            true,
		"http://api.example/v1/refunds":            false,
		"https://api.example/v1/charges%3Acapture": true,
		"https://api.example/v1/charges%3acapture": true,
		"https://api.example/v1/charges:capture":   false,
		"https://api.example/v1/other":             false,
		"https://api.example/v1/Other":             false,
		"https://api.example/v1/other/":            true,
		"https://api.example/v1/other/more":        false,
		"https://api.example/list":                 true,
		"https://api.example/list/":                false,
		"https://api.example/List/":                true,
		"https://api.example/items/ABC":            false,
		"https://api.example/Items/ABC":            true,
		"https://api.example/items/a/":             true,
		"https://api.example/items/":               false,
		"https://api.example/items":                false,
		"https://api.example/files/A/b/":           false,
		"https://api.example/files/":               false,
		"https://api.example/files":                true,
		"https://api.example/Files/a":              true,
		"https://api.example/both":                 false,
		"https://api.example/both/":                false,
		"https://api.example/Both":                 true,
		"https://api.example/Cased":                false,
		"https://api.example/cased":                false,
		"https://api.example/caseD":                true,
		"https://api.example/caf%C3%A9":            false,
		"https://api.example/caf%c3%a9":            true,
		"https://api.example/CAF%C3%89":            true,
		"https://api.example/nothing":              false,
		"https://api.example/":                     false,
		"https://api.example:8443/v1/Refunds":      false,
		"https://other.example/v1/Refunds":         false,
		"https://index.example/dir":                false,
		"https://index.example/dir/":               true, // below matches it with nothing left; servers may take it for index
		"https://index.example/dir/a":              false,
		"https://root.example/":                    false,
		"https://root.example/x":                   false,
		"https://all.example/Any/Thing/":           false,
		"http://mixed.example/x":                   false,
		"http://mixed.example/X":                   false,
		"https://mixed.example/X":                  false,
		"https://mixed.example/x":                  true,
	} {
		if got := r.NearMiss(target(t, url)); got != want {
			t.Errorf("%s: %t, want %t", url, got, want)
		}
	}
	for _, path := range []string{"", "*", "%", "/%", "/%4"} {
		if r.NearMiss(Target{Scheme: "https", Authority: "api.example:443", Path: path}) {
			t.Errorf("%q is a near miss", path)
		}
	}
}

func TestEncodedSlash(t *testing.T) {
	r := registry(t,
		"blob+ GET https://api.example/blobs/{name}",
		"blob.delete DELETE https://api.example/strict/{name}",
		"blob.get+ GET https://api.example/strict/{name}",
		"all+ GET https://api.example/{p...}",
		"special GET https://api.example/blobs/{name}/special",
		"fixed+ GET https://api.example/a%2Fb",
	)
	for url, want := range map[string]bool{
		"https://api.example/blobs/a%2Fb":         true,
		"http://api.example/blobs/a%2fb":          true,
		"https://api.example/blobs/a%2fb/special": false,
		"https://api.example/strict/a%2fb":        false, // one of the two that match does not allow it
		"https://api.example/x/a%2fb":             true,
		"https://api.example/a%2Fb":               true,
		"https://other.example/blobs/a%2fb":       false,
	} {
		if got := r.EncodedSlash(target(t, url)); got != want {
			t.Errorf("%s: %t, want %t", url, got, want)
		}
	}
	if m, ok := r.Match("", "GET", target(t, "https://api.example/blobs/a%2Fb")); !ok || m.Params[0].Value != "a%2Fb" {
		t.Errorf("an encoded slash was decoded: %+v", m)
	}
}

func TestLiteralMatchDoesNotAllocate(t *testing.T) {
	r := registry(t, "charge POST https://api.example/v1/charges", "any POST https://api.example/{p...}", "refund@vip POST https://api.example/v1/charges")
	for _, url := range []string{"https://api.example/v1/charges", "http://api.example/v1/charges"} {
		to := target(t, url)
		if n := testing.AllocsPerRun(100, func() {
			if m, ok := r.Match("a", "POST", to); !ok || m.Tool.Name != "charge" {
				t.Fatal("no match")
			}
			r.NearMiss(to)
			r.ToolHost(to.Scheme, to.Authority)
		}); n != 0 {
			t.Errorf("%s: %v allocations", url, n)
		}
	}
}

// FuzzMatch: what matches by the tree is what matches by comparing with every pattern, and the one chosen is beaten by none.
func FuzzMatch(f *testing.F) {
	patterns := []string{"/", "/a", "/a/", "/a/{x}", "/{x}", "/{x}/b", "/a/b", "/{r...}", "/a/{r...}", "/{x}/{y}/c", "/a/{x}/{r...}", "/A"}
	var lines []string
	for i, p := range patterns {
		lines = append(lines, fmt.Sprintf("t%d GET https://h%s", i, p))
	}
	r := registry(f, lines...)
	for _, s := range []string{"/", "/a", "/a/b/c", "//", "/A/b", "/a//c", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		m, ok := r.Match("", "GET", Target{Scheme: "https", Authority: "h:443", Path: path})
		var fits []*Tool
		for _, x := range r.Tools() {
			if matchesSlowly(x.Matches[0].Segments, path) {
				fits = append(fits, x)
			}
		}
		if ok != (len(fits) > 0) || ok && !slices.Contains(fits, m.Tool) {
			t.Fatalf("%q matches %v, but by hand %d tools", path, m.Tool, len(fits))
		}
		for _, x := range fits {
			if moreSpecific(newEntry(x, &x.Matches[0]).rank, newEntry(m.Tool, &m.Tool.Matches[0]).rank) {
				t.Fatalf("%q matches %s, which %s beats", path, m.Tool.Matches[0].String(), x.Matches[0].String())
			}
		}
	})
}

func matchesSlowly(pattern []string, path string) bool {
	if !strings.HasPrefix(path, "/") {
		return false
	}
	parts := strings.Split(path[1:], "/")
	for i, s := range pattern {
		_, rest, isParam := parameter(s)
		switch {
		case rest:
			return i < len(parts)
		case i >= len(parts), isParam && parts[i] == "", !isParam && parts[i] != s:
			return false
		}
	}
	return len(parts) == len(pattern)
}
