package e2e

import (
	"bufio"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"
)

// shape is a certificate of the matrix; what is not said is as it should be.
type shape struct {
	host     string // default: the tool's
	from, to time.Duration
	weak     bool       // RSA of 1024 bits
	by       *authority // default: the one that the sidecar trusts
	self     bool       // signed by itself
	beneath  bool       // an intermediate between authority and leaf
	withheld bool       // and not sent
}

// forge makes the chain that a tool of this shape shows.
func (p shape) forge(t *testing.T, trusted *authority, host string) tls.Certificate {
	t.Helper()
	by := p.by
	if by == nil {
		by = trusted
	}
	if p.host != "" {
		host = p.host
	}
	if p.to == 0 {
		p.from, p.to = -time.Hour, time.Hour
	}
	parent, signer, chain := by.cert, crypto.Signer(by.key), [][]byte(nil)
	if p.beneath {
		middle := &x509.Certificate{SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: "A test's intermediate"}, NotBefore: time.Now().Add(-time.Hour),
			NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
		key := ec(t)
		der := sign(t, middle, parent, key, signer)
		if !p.withheld {
			chain = append(chain, der)
		}
		parent, _ = x509.ParseCertificate(der)
		signer = key
	}
	var key crypto.Signer = ec(t)
	if p.weak {
		weak, err := rsa.GenerateKey(rand.Reader, 1024)
		if err != nil {
			t.Fatal(err)
		}
		key = weak
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(4), DNSNames: []string{host}, NotBefore: time.Now().Add(p.from), NotAfter: time.Now().Add(p.to),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	if p.self {
		parent, signer = leaf, key
	}
	return tls.Certificate{Certificate: append([][]byte{sign(t, leaf, parent, key, signer)}, chain...), PrivateKey: key}
}

func ec(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func sign(t *testing.T, template, parent *x509.Certificate, key, signer crypto.Signer) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// secured is a tool over TLS under a name that the sidecar resolves.
func secured(t *testing.T, name string, cert tls.Certificate, script func(*scene)) *actor {
	t.Helper()
	a := actOn(t, tls.NewListener(loopback(t), &tls.Config{Certificates: []tls.Certificate{cert}}), "https", script)
	a.URL = "https://" + name + ":" + port(a.URL)
	return a
}

// browser is a client that knows the sidecar by its environment alone: a proxy and a CA.
func (s *sidecar) browser() *http.Client {
	s.t.Helper()
	transport := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: s.proxy}), TLSClientConfig: &tls.Config{RootCAs: s.roots()}}
	s.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

func ask(t *testing.T, c *http.Client, url, body string) answer {
	t.Helper()
	resp, err := c.Post(url, "application/json", strings.NewReader(body))
	if err != nil {
		t.Errorf("%s: %v", url, err)
		return answer{}
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Errorf("%s: %v", url, err)
	}
	return answer{resp.StatusCode, resp.Header, string(data)}
}

// TestCertificateMatrix: the client sees a good certificate of the sidecar's; interception never makes a bad upstream look
// good behind it.
func TestCertificateMatrix(t *testing.T) {
	t.Parallel()
	trusted, stranger := newAuthority(t), newAuthority(t)
	matrix := map[string]struct {
		shape
		why string // in the refusal's detail; "" for a certificate that holds
	}{
		"good":                 {},
		"with-intermediate":    {shape: shape{beneath: true}},
		"expired":              {shape{from: -2 * time.Hour, to: -time.Hour}, "expired on"},
		"not-yet-valid":        {shape{from: time.Hour, to: 2 * time.Hour}, "is not valid before"},
		"wrong-host":           {shape{host: "good.test"}, "is for good.test, not for wrong-host.test"},
		"self-signed":          {shape{self: true}, "an authority that is not known"},
		"unknown-root":         {shape{by: stranger}, "an authority that is not known"},
		"missing-intermediate": {shape{beneath: true, withheld: true}, "an authority that is not known"},
		"weak-key":             {shape{weak: true}, "a key that is too short: RSA of 1024 bits"},
	}
	var tools []settings
	actors, resolve := map[string]*actor{}, settings{}
	for name, c := range matrix {
		a := secured(t, name+".test", c.forge(t, trusted, name+".test"), ok)
		actors[name], resolve[name+".test"] = a, "127.0.0.1"
		tools = append(tools, a.tool(name, settings{"headers": settings{"Authorization": "Bearer secret-of-the-tool"}}))
	}
	for _, more := range []settings{{"hosts": "registered"}, {"hosts": "all", "ca_key": "memory"}} {
		more["enabled"] = true
		s := start(t, tools, settings{"proxy": settings{"upstream_ca": trusted.file, "resolve": resolve, "intercept": more}})
		client := s.browser()
		for name, c := range matrix {
			r, a := ask(t, client, actors[name].URL+"/"+name, `{"n":1}`), actors[name]
			if c.why == "" {
				if r.status != 200 || a.ran("") == 0 {
					t.Errorf("%s: %d %s", name, r.status, r.body)
				}
				continue
			}
			r.is(t, name, 502, "upstream_untrusted", "executed", "not_sent")
			if !strings.Contains(r.body, c.why) || a.words() != "" {
				t.Errorf("%s: %s; the tool was told %q", name, r.body, a.words())
			}
		}
	}
}

// TestOpenedTunnels: one execution for two identical calls, refusals that the client can read, streams in pieces, and one
// record for each request.
func TestOpenedTunnels(t *testing.T) {
	t.Parallel()
	trusted := newAuthority(t)
	next := make(chan bool)
	a := secured(t, "pay.test", trusted.issue("pay.test", time.Now().Add(time.Hour)), func(x *scene) {
		if x.name() != "stream" {
			ok(x)
			return
		}
		x.say(sseHead)
		for i := range 3 {
			<-next
			x.say(chunk(fmt.Sprintf("data: %d\n\n", i)))
		}
		x.say("0\r\n\r\n")
	})
	users := settings{"one": "token-of-agent-one", "two": "token-of-agent-two"}
	s := start(t, []settings{a.tool("pay", nil), a.tool("stream", nil), a.tool("blocked", nil)}, settings{
		"agent":    settings{"id": "e2e-agent", "proxy_users": users},
		"policies": []settings{{"agent_id": "*", "blocked_tools": []string{"blocked"}}},
		"proxy":    settings{"upstream_ca": trusted.file, "resolve": settings{"pay.test": "127.0.0.1"}, "intercept": settings{"enabled": true}},
	})
	client := s.browser()
	as := func(agent string) *http.Client {
		transport := client.Transport.(*http.Transport).Clone()
		transport.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: s.proxy, User: url.UserPassword(agent, users[agent].(string))})
		t.Cleanup(transport.CloseIdleConnections)
		return &http.Client{Transport: transport, Timeout: 20 * time.Second}
	}
	one, two := as("one"), as("two")

	first, second, other := ask(t, one, a.URL+"/pay", `{"n":1}`), ask(t, one, a.URL+"/pay", `{"n":1}`), ask(t, two, a.URL+"/pay", `{"n":1}`)
	if first.status != 200 || !second.replayed() || first.body != second.body || other.replayed() || a.ran("pay") != 2 {
		t.Errorf("%d %s, %d %s, of another agent %d %s; ran %d times", first.status, first.body, second.status, second.body, other.status, other.body, a.ran("pay"))
	}
	refused := ask(t, one, a.URL+"/blocked", `{}`)
	refused.is(t, "a blocked tool", 403, "tool_explicitly_blocked", "blocked", "not_sent")
	unknown := ask(t, one, a.URL+"/elsewhere", `{}`)
	unknown.is(t, "another path", 403, "tool_not_registered", "blocked", "not_sent")
	if _, err := client.Post(a.URL+"/pay", "application/json", strings.NewReader(`{}`)); err == nil || !strings.Contains(err.Error(), "proxy_auth_required") {
		t.Errorf("nobody: %v", err)
	}

	resp, err := one.Post(a.URL+"/stream", "application/json", strings.NewReader(`{}`))
	if err == nil {
		events := bufio.NewReader(resp.Body)
		for i := range 3 {
			next <- true // the next piece is not made before the last one was read
			line, err := events.ReadString('\n')
			if blank, _ := events.ReadString('\n'); err != nil || line+blank != fmt.Sprintf("data: %d\n\n", i) {
				t.Fatalf("%q %v", line, err)
			}
		}
		_, err = io.Copy(io.Discard, events)
		resp.Body.Close()
	}
	if err != nil {
		t.Errorf("stream: %v", err)
	}

	if opaque := metric(s, "oo_sidecar_opaque_tunnels_total"); opaque != "oo_sidecar_opaque_tunnels_total 0\n" {
		t.Errorf("opened tunnels count as opaque: %s", opaque)
	}
	agents := map[string]int{}
	records := s.records()
	for _, r := range records {
		agents[r.Agent+" "+r.Tool+" "+r.Decision]++
	}
	for what, n := range map[string]int{"one pay executed": 1, "one pay dedup": 1, "two pay executed": 1, "one blocked blocked": 1, "one stream executed": 1} {
		if agents[what] != n {
			t.Errorf("%s: %d records, want %d", what, agents[what], n)
		}
	}
	if len(records) != 7 {
		t.Errorf("%d records of seven requests: %v", len(records), agents)
	}
}

// TestWaysAroundInterception: names that do not agree, the tool's address, other ports and other protocols.
func TestWaysAroundInterception(t *testing.T) {
	t.Parallel()
	trusted := newAuthority(t)
	pay, mail := secured(t, "pay.test", trusted.issue("pay.test", time.Now().Add(time.Hour)), ok), secured(t, "mail.test", trusted.issue("mail.test", time.Now().Add(time.Hour)), ok)
	far := echo(t)
	s := start(t, []settings{pay.tool("pay", nil), mail.tool("mail", nil)}, settings{"proxy": settings{
		"upstream_ca": trusted.file, "unregistered": "pass", "intercept": settings{"enabled": true},
		"resolve": settings{"pay.test": "127.0.0.1", "mail.test": "127.0.0.1", "alias.test": "127.0.0.1", "far.test": "127.0.0.1"},
	}})
	conf := func(server string) *tls.Config {
		return &tls.Config{RootCAs: s.roots(), ServerName: server, InsecureSkipVerify: true}
	}
	host := "pay.test:" + port(pay.URL)
	for name, c := range map[string]struct {
		target, server, inner string
		want                  string // of the CONNECT, the handshake or the request inside
	}{
		"as it should be":                   {host, "pay.test", host, "200"},
		"another Host inside":               {host, "pay.test", "mail.test:" + port(mail.URL), "400"},
		"another server name":               {host, "mail.test", host, "handshake"},
		"the tool's address":                {"127.0.0.1:" + port(pay.URL), "pay.test", host, "destination_denied"},
		"another name of its address":       {"alias.test:" + port(pay.URL), "pay.test", host, "destination_denied"},
		"another port":                      {"pay.test:" + port(far), "pay.test", "pay.test:" + port(far), "handshake"},
		"another host, the tool's name":     {"far.test:" + port(far), "pay.test", host, "handshake"},
		"the sidecar's own listener":        {s.api, "", s.api, "destination_denied"},
		"another tool's through this one's": {host, "pay.test", "pay.test:" + port(mail.URL), "400"},
	} {
		if got := s.around(c.target, conf(c.server), c.inner); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
	if pay.ran("") != 1 || mail.ran("") != 0 {
		t.Errorf("ran %d and %d times", pay.ran(""), mail.ran(""))
	}

	before := metric(s, "oo_sidecar_opaque_tunnels_total")
	if c, _ := s.tunnel("far.test:" + port(far)); c == nil || !speaks(c) {
		t.Error("another protocol to a host that is no tool is a tunnel by policy")
	}
	if after := metric(s, "oo_sidecar_opaque_tunnels_total"); after == before {
		t.Error("it was not counted")
	}
	c, r := s.tunnel(host)
	if c == nil {
		t.Fatal(r)
	}
	if speaks(c) {
		t.Error("another protocol to a tool's host")
	}
}

// around tries to reach a tool and says how far it came.
func (s *sidecar) around(target string, conf *tls.Config, inner string) string {
	s.t.Helper()
	c, r := s.tunnel(target)
	if c == nil {
		return r.code()
	}
	over := tls.Client(c, conf)
	if over.Handshake() != nil {
		return "handshake"
	}
	_, _ = io.WriteString(over, plain("POST", "/pay", inner, `{"n":1}`))
	return fmt.Sprint(listen(bufio.NewReader(over), "POST").status)
}

// TestSilentTunnelsEnd: an opaque one by tunnel_idle.
func TestSilentTunnelsEnd(t *testing.T) {
	t.Parallel()
	s := start(t, nil, settings{"proxy": settings{"unregistered": "pass", "tunnel_idle": "200ms"}})
	c, r := s.tunnel(echo(t))
	if c == nil || !speaks(c) {
		t.Fatal(r)
	}
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("a silent tunnel: %v", err)
	}
}

// TestInterceptionFollowsReload: the file switches it on, narrows it and switches it off while the sidecar runs.
func TestInterceptionFollowsReload(t *testing.T) {
	t.Parallel()
	trusted := newAuthority(t)
	a := secured(t, "pay.test", trusted.issue("pay.test", time.Now().Add(time.Hour)), ok)
	s := start(t, []settings{a.tool("pay", nil)}, settings{"proxy": settings{"upstream_ca": trusted.file, "resolve": settings{"pay.test": "127.0.0.1"}}})
	host := "pay.test:" + port(a.URL)
	change := func(section settings) {
		conf := settings{}
		data, err := os.ReadFile(s.config)
		if err = errors.Join(err, json.Unmarshal(data, &conf)); err != nil {
			t.Fatal(err)
		}
		conf["proxy"].(map[string]any)["intercept"] = section
		s.write(conf)
	}
	reaches := func() string {
		return s.around(host, &tls.Config{RootCAs: s.roots(), ServerName: "pay.test"}, host)
	}
	if got := s.around(host, &tls.Config{}, host); got != "destination_denied" {
		t.Errorf("off: %s", got)
	}
	change(settings{"enabled": true})
	eventually(t, "on", func() bool { return reaches() == "200" })
	change(settings{"enabled": true, "hosts": []string{"other.test"}})
	eventually(t, "narrowed to another", func() bool { return reaches() == "destination_denied" })
	change(settings{"enabled": true, "hosts": []string{"pay.test"}})
	eventually(t, "narrowed to it", func() bool { return reaches() == "200" })
	change(settings{"enabled": false})
	eventually(t, "off again", func() bool { return reaches() == "destination_denied" })
}
