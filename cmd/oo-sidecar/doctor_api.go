package main

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/oo-sidecar/oo-sidecar/config"
	"github.com/oo-sidecar/oo-sidecar/internal/pod"
)

// failing are the checks of /readyz?verbose that fail.
func failing(text string) string {
	var all []string
	for line := range strings.Lines(text) {
		if rest, failed := strings.CutPrefix(line, "[-] "); failed {
			all = append(all, strings.TrimSpace(rest))
		}
	}
	return strings.Join(all, "; ")
}

// api tries what an agent could try, and looks for the operator's key where an agent could find it.
func (d *doctor) api(ctx context.Context) {
	key, _, keyErr := config.OperatorKey(d.cfg)
	for _, try := range d.tries() {
		status, err := d.ask(ctx, try.key)
		if err != nil {
			d.find("api", bad, "let this user reach "+dialable(d.cfg.API.Listen)+", or expect no answers about agents and unknown outcomes here", "%v", err)
			return
		}
		if status != try.want {
			d.find("api", bad, "end what listens there, and take operator keys from agents", "with %s the operator's api answers %d, not %d", try.what, status, try.want)
			return
		}
	}
	if keyErr == nil {
		if name := holder(os.Environ(), key); name != "" {
			d.find("api", bad, "take it out of the environment of agents; ${file:…} reads it from a file", "the variable %s holds the operator's key, and every program started here has it", name)
			return
		}
		if !d.own {
			d.find("api", bad, "give this user a configuration without it, and let only the sidecar's user read the key's file", "this user can read the operator's key")
			return
		}
	}
	d.find("api", fine, "", "closed without the operator's key")
}

type try struct {
	what, key string
	want      int
}

// tries are the keys that an agent has.
func (d *doctor) tries() []try {
	all := []try{{"no key", "", http.StatusUnauthorized}, {"a wrong key", "oo_doctor_wrong_key", http.StatusForbidden}}
	for _, k := range d.cfg.API.Keys {
		if k.Role != "operator" {
			all = append(all, try{"the agent key " + k.Name, k.Key, http.StatusForbidden})
		}
	}
	return all
}

// ask is the status of an operator's question.
func (d *doctor) ask(ctx context.Context, key string) (int, error) {
	address := dialable(d.cfg.API.Listen)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/v1/status", nil)
	if err != nil {
		return 0, err
	}
	if key != "" {
		r.Header.Set("Authorization", "Bearer "+key)
	}
	resp, err := direct(5 * time.Second).Do(r)
	if err != nil {
		return 0, unreachable(address, err)
	}
	resp.Body.Close()
	return resp.StatusCode, nil
}

// holder is the variable that holds the key; "" for none.
func holder(environ []string, key string) string {
	for _, entry := range environ {
		if name, value, _ := cutVariable(entry); key != "" && strings.Contains(value, key) {
			return name
		}
	}
	return ""
}

// environment looks at what would keep calls of this shell's programs from the sidecar.
func (d *doctor) environment() {
	names, _ := pod.NoProxy(os.LookupEnv)
	skipped := strings.Split(names, ",")[3:]
	for _, t := range d.cfg.Tools {
		u, err := url.Parse(t.URL)
		if err != nil {
			continue
		}
		host := u.Hostname()
		switch {
		case isLoopback(host):
			d.find("tool "+t.Name, note, "give it a name: proxy.resolve: {NAME: "+host+"}, or call POST /tools/"+t.Name, "is on loopback, where clients never use a proxy")
		case slices.ContainsFunc(skipped, func(name string) bool { return covers(name, host) }):
			d.find("tool "+t.Name, bad, "take it out of NO_PROXY", "NO_PROXY names %s: its calls go around the sidecar", host)
		}
	}
}

// covers says whether an entry of NO_PROXY means the host, as most clients read it.
func covers(entry, host string) bool {
	entry = strings.TrimPrefix(strings.TrimPrefix(strings.ToLower(entry), "*"), ".")
	if name, _, err := net.SplitHostPort(entry); err == nil {
		entry = name
	}
	host = strings.ToLower(host)
	return entry != "" && (host == entry || strings.HasSuffix(host, "."+entry))
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

// toolAddress is where a tool is, as host:port; false for one on loopback.
func toolAddress(toolURL string, resolve map[string]string) (string, bool) {
	u, err := url.Parse(toolURL)
	if err != nil || u.Host == "" {
		return "", false
	}
	port, host := u.Port(), u.Hostname()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	if address := resolve[host]; address != "" {
		host = address
	}
	return net.JoinHostPort(host, port), !isLoopback(host)
}

// store compares the store with its promise.
func (d *doctor) store() {
	promise := d.said.facts["guarantee"]
	dir := d.cfg.Store.Embedded.Dir
	switch place := volatilePlace(dir); {
	case promise == "":
		d.find("store", bad, "ask the sidecar's log", "it promises nothing")
	case d.cfg.Store.Kind == "embedded" && place != "" && d.cfg.Store.Embedded.Lifetime == "volume":
		d.find("store", bad, "put store.embedded.dir on a volume, or say lifetime: pod", "%q is promised, but %s is %s", promise, dir, place)
	case d.said.facts["store_created"] == "true":
		d.find("store", note, "if it is not the first start here, the former store is lost: look at the volume", "%s; the journal was made at this start", promise)
	default:
		d.find("store", fine, "", "%s", promise)
	}
}
