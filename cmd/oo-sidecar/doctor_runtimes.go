package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/oo-sidecar/oo-sidecar/proxy"
)

// clientRuntime is a kind of program that agents are written in, and how to make it fetch a URL and print the body.
type clientRuntime struct {
	name    string
	command []string // the URL is appended
	source  string   // of a file that is appended before the URL; "" for none
	suffix  string   // of that file's name
	mend    string   // where it does not go through the proxy
}

var clientRuntimes = []clientRuntime{
	{name: "curl", command: []string{"curl", "-sS", "-m", "10"}, mend: "look for a proxy or noproxy in ~/.curlrc"},
	{name: "Python", command: []string{"python3", "-c", "import sys,urllib.request as u\nsys.stdout.write(u.urlopen(sys.argv[1],timeout=10).read().decode())"},
		mend: "urllib, requests and httpx read the variables; aiohttp only with trust_env=True"},
	{name: "Node", command: []string{"node", "-e", "fetch(process.argv[1]).then(r=>r.text()).then(t=>process.stdout.write(t),e=>{console.error(String(e.cause||e));process.exit(1)})"},
		mend: "Node reads NODE_USE_ENV_PROXY from 22.21 and 24 on; with an older one: import {setGlobalDispatcher,EnvHttpProxyAgent} from 'undici'; setGlobalDispatcher(new EnvHttpProxyAgent())"},
	{name: "Java", command: []string{"java"}, source: javaProbe, suffix: ".java",
		mend: "Java's own clients send no proxy credentials by themselves: give agent.proxy_users up for this agent, set an Authenticator, or call POST /tools/{name}"},
}

const javaProbe = `import java.net.URL;
public class Probe {
  public static void main(String[] args) throws Exception {
    var c = new URL(args[0]).openConnection();
    c.setConnectTimeout(10000); c.setReadTimeout(10000);
    try (var in = c.getInputStream()) { in.transferTo(System.out); }
  }
}
`

// newFetch is Go's client as it is in every Go program: this one fetches a URL with it.
func newFetch(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "doctor-fetch URL", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := http.NewRequestWithContext(cmd.Context(), http.MethodGet, args[0], nil)
			if err != nil {
				return err
			}
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				return exit{1, err}
			}
			defer resp.Body.Close()
			_, err = io.Copy(a.stdout, io.LimitReader(resp.Body, 1<<20))
			return err
		},
	}
}

// runtimes lets each runtime fetch what only the sidecar can answer.
func (d *doctor) runtimes(ctx context.Context) {
	list, _ := d.outlet.Variables(os.LookupEnv)
	env := overlay(os.Environ(), list)
	all, used := d.used()
	if self, err := os.Executable(); err == nil {
		all = append([]clientRuntime{{name: "Go", command: []string{self, "doctor-fetch"}, mend: "http.Transport reads the variables where Proxy is http.ProxyFromEnvironment"}}, all...)
	}
	results := make([][]finding, len(all))
	var tried sync.WaitGroup
	for i := range all {
		tried.Go(func() { results[i] = d.try(ctx, &all[i], env) })
	}
	tried.Wait()
	for i, r := range results {
		for _, f := range r {
			if f.State == bad && all[i].name != "Go" && all[i].name != used { // Go's is this program's own: it shows that the way is there
				f.State = warn
			}
			d.findings = append(d.findings, f)
		}
	}
}

// used are the runtimes to be tried, and which of them the agent's command uses, by its own program.
func (d *doctor) used() (all []clientRuntime, used string) {
	all = slices.Clone(clientRuntimes)
	if len(d.argv) == 0 {
		return all, ""
	}
	used, program := runtimeOf(d.argv[0])
	if used == "" {
		d.find("command", note, "look at the runtimes below for the one it uses", "what %s is run by cannot be told", d.argv[0])
		return all, ""
	}
	for i := range all {
		if all[i].name == used && program != "" {
			all[i].command = append([]string{program}, all[i].command[1:]...)
		}
	}
	d.find("command", fine, "", "%s is run by %s", d.argv[0], used)
	return all, used
}

// try is what one runtime came to; nothing when it is not installed.
func (d *doctor) try(ctx context.Context, c *clientRuntime, env []string) []finding {
	command, clean, err := c.prepare()
	if err != nil {
		return nil
	}
	defer clean()
	want := "oo-sidecar " + d.said.facts["instance"]
	said, err := fetch(ctx, append(command, "http://"+proxy.ProbeHost+"/"), env)
	if said != want {
		return []finding{{c.name, bad, "its calls do not go through the sidecar: " + printable(explain(said, err)), c.mend}}
	}
	if d.outlet.Trust.Bundle == "" {
		return []finding{{c.name, fine, "goes through the sidecar over http", ""}}
	}
	said, err = fetch(ctx, append(command, "https://"+proxy.ProbeHost+"/"), env)
	switch text := explain(said, err); {
	case said == want:
		return []finding{{c.name, fine, "goes through the sidecar over http and https", ""}}
	case strings.Contains(strings.ToLower(text), "certif") || strings.Contains(text, "PKIX"):
		return []finding{{c.name, bad, "goes through the sidecar, but does not trust its CA: " + printable(text), "set the variables of oo-sidecar env, and look for a CA file that its own configuration names"}}
	default:
		return []finding{{c.name, bad, "its https calls do not go through the sidecar: " + printable(text), c.mend}}
	}
}

// prepare finds the runtime, and writes its source where it needs a file.
func (c *clientRuntime) prepare() (command []string, clean func(), err error) {
	path, err := exec.LookPath(c.command[0])
	if err != nil {
		return nil, nil, err
	}
	command = append([]string{path}, c.command[1:]...)
	if c.source == "" {
		return command, func() {}, nil
	}
	dir, err := os.MkdirTemp("", "oo-sidecar-doctor-")
	if err != nil {
		return nil, nil, err
	}
	file := filepath.Join(dir, "Probe"+c.suffix)
	if err := os.WriteFile(file, []byte(c.source), 0o600); err != nil {
		os.RemoveAll(dir)
		return nil, nil, err
	}
	return append(command, file), func() { os.RemoveAll(dir) }, nil
}

// fetch runs a client and returns what it printed.
func fetch(ctx context.Context, command, env []string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env = env
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, lastLine(errs.String()))
	}
	return strings.TrimSpace(out.String()), err
}

func explain(said string, err error) string {
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("it got %.80q", said)
}

// lastLine is the last line that says something: tracebacks end with what went wrong.
func lastLine(text string) string {
	last := "it said nothing"
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "at ") && !strings.HasPrefix(line, "Picked up ") {
			last = line
		}
	}
	return last
}
