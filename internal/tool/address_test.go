package tool

import (
	"strings"
	"testing"
)

func TestParseAuthority(t *testing.T) {
	for _, v := range []struct{ scheme, text, want string }{
		{"https", "API.Stripe.com", "api.stripe.com:443"},
		{"http", "api.stripe.com", "api.stripe.com:80"},
		{"https", "api.stripe.com.", "api.stripe.com:443"},
		{"https", "api.stripe.com.:8443", "api.stripe.com:8443"},
		{"http", "api.stripe.com:443", "api.stripe.com:443"},
		{"http", "127.0.0.1:12111", "127.0.0.1:12111"},
		{"https", "[::1]", "[::1]:443"},
		{"http", "[0:0:0:0:0:0:0:1]:80", "[::1]:80"},
		{"http", "[FE80::1]:8080", "[fe80::1]:8080"},
		{"http", "[::ffff:127.0.0.1]", "[::ffff:127.0.0.1]:80"},
		{"http", "my_service.ns.svc", "my_service.ns.svc:80"},
		{"http", "localhost:65535", "localhost:65535"},
		{"https", "xn--mnchen-3ya.de", "xn--mnchen-3ya.de:443"},
		{"https", "1password.com", "1password.com:443"},
	} {
		if got, err := ParseAuthority(v.scheme, v.text); err != nil || got != v.want {
			t.Errorf("%s %q is %q, %v; want %q", v.scheme, v.text, got, err, v.want)
		}
	}
	for _, text := range []string{"", ".", ":80", "host:", "host:0", "host:080", "host:65536", "host:+80", "host:http", "a..b", ".a", "a..", "münchen.de",
		"api.stripe\u3002com", "a b", "a\tb", "user@host", "a/b", "a%41", "127.1", "127.0.0.01", "0x7f.0.0.1", "0x7f000001", "2130706433", "1.2.3.4.5",
		"a.1", "256.1.1.1", "::1", "[::1", "::1]", "[::1]x", "[::1]x:80", "[fe80::1%eth0]", "[127.0.0.1]", "[v1.x]", "[]", "a:b:80", "~a", strings.Repeat("a", 64),
		strings.Repeat("a.", 127) + "aa", "\u212a.com"} {
		if got, err := ParseAuthority("https", text); err == nil {
			t.Errorf("%q passed as %q", text, got)
		}
	}
}

func TestParseTarget(t *testing.T) {
	for text, want := range map[string]Target{
		"https://API.stripe.com":              {"https", "api.stripe.com:443", "/", ""},
		"HTTP://api.stripe.com/v1/Charges":    {"http", "api.stripe.com:80", "/v1/Charges", ""},
		"https://h:8443/a%20b?x=1&x=/?y":      {"https", "h:8443", "/a%20b", "x=1&x=/?y"},
		"https://h?x=1":                       {"https", "h:443", "/", "x=1"},
		"http://[::1]:8080/v1/{id}/{rest...}": {"http", "[::1]:8080", "/v1/{id}/{rest...}", ""},
	} {
		got, err := ParseTarget(text)
		if err != nil || got != want {
			t.Errorf("%q is %+v, %v; want %+v", text, got, err, want)
		}
		if again, err := ParseTarget(got.String()); err != nil || again != got {
			t.Errorf("%q is written as %q, which is %+v, %v", text, got, again, err)
		}
	}
	for text, want := range map[string]string{
		"":                    "not an absolute http or https URL",
		"/v1":                 "not an absolute",
		"api.stripe.com/v1":   "not an absolute",
		"ftp://h/":            "not an absolute",
		"https:h":             "not an absolute",
		"https:///v1":         "has no host",
		"https://u:p@h/":      "user information",
		"https://h/#top":      "fragment",
		"https://h/#":         "fragment",
		"https://h/?":         "empty query",
		"https://h/a b":       "cannot hold",
		"https://h/é":         "cannot hold",
		"https://h/\x7f":      "cannot hold",
		"https://h/?q=\"":     "cannot hold",
		"https://münchen.de/": "ASCII",
		`https://h/a\b`:       "cannot hold",
		"https://h:99999/":    "port",
		"https://{tenant}.h/": "no host name",
	} {
		if got, err := ParseTarget(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is %+v, %v; want an error about %s", text, got, err, want)
		}
	}
}

func TestHost(t *testing.T) {
	for authority, want := range map[string]string{"h:443": "h", "[::1]:80": "[::1]", "127.0.0.1:1": "127.0.0.1"} {
		if got := (Target{Authority: authority}).Host(); got != want {
			t.Errorf("%q: %q, want %q", authority, got, want)
		}
	}
	for host, want := range map[string]bool{"localhost": true, "a.localhost": true, "127.9.9.9": true, "[::1]": true, "notlocalhost": false,
		"10.0.0.1": false, "[::2]": false, "127.0.0.1.nip.io": false, "localhost.evil.example": false} {
		if got := isLoopback(host); got != want {
			t.Errorf("%q is loopback: %t", host, got)
		}
	}
}
