package main

import (
	"os"
	"strings"
	"testing"
)

// TestExplainDoesNotPromise: what the proxy would refuse explain refuses, and what it cannot know it does not say.
func TestExplainDoesNotPromise(t *testing.T) {
	alone(t)
	const file = `version: 1
store: {embedded: {dir: store}}
proxy: {unregistered: govern, resolve: {meta.test: 169.254.169.254, here.test: 127.0.0.1}}
tools: [{name: pay, url: "https://10.1.2.3/pay"}, {name: inward, url: "http://here.test:1/in"}]
`
	if err := os.WriteFile("oo-sidecar.yaml", []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	const refused, maybe = "403 destination_denied", "if its address may be reached"
	for _, c := range []struct {
		args      []string
		has, lack string
	}{
		{[]string{"GET", "http://169.254.169.254/"}, refused, "would send"},
		{[]string{"POST", "http://[::ffff:10.0.0.1]/", "-d", "{}"}, refused, "would send"},
		{[]string{"GET", "http://meta.test/"}, refused, "would send"},
		{[]string{"GET", "http://127.0.0.1:4780/"}, refused, "would send"},
		{[]string{"GET", "http://203.0.114.1/"}, "would send", maybe},
		{[]string{"GET", "http://example.com/"}, maybe, refused},
		{[]string{"POST", "http://example.com/", "-d", "{}"}, maybe, refused},
		{[]string{"POST", "http://here.test:1/in", "-d", "{}"}, "would send", maybe},
		{[]string{"POST", "/tools/pay", "-d", "{}"}, "would send", maybe},
		{[]string{"POST", "http://example.com/", "-d", "{"}, "it is sent each time", "\narguments "},
		{[]string{"POST", "/tools/pay", "-d", "{"}, "400 arguments_unparseable", "\narguments "},
	} {
		code, out, errs := line(t, append([]string{"explain"}, c.args...)...)
		if code != 0 || !strings.Contains(out, c.has) || strings.Contains(out, c.lack) {
			t.Errorf("%v: %d %s%s\nwanted %q, without %q", c.args, code, out, errs, c.has, c.lack)
		}
	}
	for _, wrong := range [][]string{{"PO ST", "http://x/"}, {"POST", "notaurl"}, {"POST", "http://x/", "-H", "bad"}} {
		if code, out, errs := line(t, append([]string{"explain"}, wrong...)...); code != 2 || out != "" || !strings.Contains(errs, "; write ") {
			t.Errorf("%v: %d %s%s", wrong, code, out, errs)
		}
	}
	if err := os.WriteFile("oo-sidecar.yaml", []byte(file+"control: {base_url: \"https://control.test\", api_key: \"${env:PATH}\"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, errs := line(t, "explain", "POST", "/tools/elsewhere"); code != 0 || !strings.Contains(errs, "control plane's tools") {
		t.Error(code, errs)
	}
	if code, _, errs := line(t, "explain", "POST"); code != 2 || !strings.Contains(errs, "explain METHOD URL") {
		t.Error(code, errs)
	}
}
