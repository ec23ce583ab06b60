package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/oo-sidecar/oo-sidecar/config"
)

func newDoctor(a *app) *cobra.Command {
	var out output
	var agent string
	var direct []string
	cmd := &cobra.Command{
		Use: "doctor [flags] [-- COMMAND [ARGUMENT...]]", DisableFlagsInUseLine: true, Args: afterDash,
		Short: "Find out whether calls are really governed; exits with 1 when something is wrong",
		Long: "Look at the running sidecar and at this machine from where an agent stands, and say what to mend: is the sidecar up,\n" +
			"is the store what the configuration promises, does each runtime found here (curl, Python, Node, Go, Java) go through\n" +
			"the sidecar and trust its CA, can this user go around it, is the clock sane, is the api closed to the agent.\n" +
			"A runtime that does not is a warning, and wrong only if it is the one that COMMAND, which is not run, would use.\n" +
			"Run it as the agent's user. It calls the sidecar itself, and to find a way around it opens a connection to at most\n" +
			"three hosts of the tools, or to those named with --direct, and closes it again without sending anything.",
		Example: "  oo-sidecar doctor\n  oo-sidecar doctor -- python agent.py",
		RunE: func(cmd *cobra.Command, argv []string) error {
			d := &doctor{app: a, direct: direct, agent: agent, argv: argv}
			d.examine(cmd.Context())
			return d.report(a.stdout, out)
		},
	}
	out.register(cmd)
	cmd.Flags().StringVar(&agent, "agent", "", "whose proxy user to go through with; default agent.id")
	cmd.Flags().StringArrayVar(&direct, "direct", nil, "host:port to look for a way around the sidecar with; may be repeated")
	return cmd
}

// afterDash takes arguments behind -- only.
func afterDash(cmd *cobra.Command, args []string) error {
	if cmd.ArgsLenAtDash() != 0 {
		return cobra.NoArgs(cmd, args)
	}
	return nil
}

// state is what a finding means.
type state string

const (
	fine state = "ok"
	note state = "note" // worth knowing, nothing is wrong
	warn state = "warn" // wrong if the agent is concerned, which cannot be told
	bad  state = "bad"
)

// finding is one thing that the doctor looked at.
type finding struct {
	Check  string `json:"check"`
	State  state  `json:"state"`
	Detail string `json:"detail"`
	Mend   string `json:"mend,omitempty"`
}

// doctor looks at one sidecar.
type doctor struct {
	app    *app
	agent  string
	direct []string
	argv   []string // the command that the agent is; none: whatever is here may be

	plan     *plan
	cfg      *config.Config // of the running sidecar, as far as it is known
	said     *readiness     // nil: it is not up
	host     *host          // nil: its operator key cannot be read here
	outlet   outlet
	own      bool // the sidecar runs as this user
	findings []finding
}

func (d *doctor) find(check string, s state, mend, format string, args ...any) {
	d.findings = append(d.findings, finding{check, s, printable(fmt.Sprintf(format, args...)), mend})
}

// examine looks at everything that can be looked at.
func (d *doctor) examine(ctx context.Context) {
	if !d.configuration() || !d.sidecar(ctx) {
		return
	}
	d.store()
	d.clock()
	d.user()
	d.operator(ctx)
	if d.host != nil {
		defer d.host.leave()
	}
	d.api(ctx)
	if d.way() {
		d.runtimes(ctx)
	}
	d.around(ctx)
	d.environment()
}

// configuration loads what this command and the sidecar should have in common.
func (d *doctor) configuration() bool {
	p, err := d.app.plan()
	if err != nil {
		d.find("configuration", bad, "mend the file; oo-sidecar check says where", "%v", err)
		return false
	}
	d.plan, d.cfg = p, p.asServe
	d.find("configuration", fine, "", "%s", d.cfg.String())
	return true
}

// sidecar asks the health listener.
func (d *doctor) sidecar(ctx context.Context) bool {
	said, err := verbose(ctx, d.cfg)
	if err != nil {
		d.find("sidecar", bad, "start it: oo-sidecar serve, or oo-sidecar run -- COMMAND", "%v", err)
		return false
	}
	d.said = said
	d.own = said.facts["user"] == fmt.Sprint(os.Getuid())
	if !said.ready {
		d.find("sidecar", bad, "its log says more; /readyz?verbose says when it is over", "it answers and is not ready: %s", failing(said.text))
		return true
	}
	d.find("sidecar", fine, "", "version %s is up and ready; proxy on %s", said.facts["version"], dialable(d.cfg.Proxy.Listen))
	return true
}

// operator finds the sidecar through the api, as far as this user may.
func (d *doctor) operator(ctx context.Context) {
	h, err := d.plan.find(ctx, d.agent)
	switch {
	case err == nil:
		d.host, d.cfg = h, h.cfg
	case d.own || !errors.Is(err, os.ErrPermission):
		d.find("operator", bad, "give this command the configuration that the sidecar was started with (--config)", "%v", err)
	}
}

// user says whether the agent could read the sidecar's keys.
func (d *doctor) user() {
	if d.own {
		d.find("user", note, "for more than that run the sidecar as a user or container of its own (examples/k8s)",
			"agent and sidecar are the same user: this guards against accidents, not against the agent")
		return
	}
	d.find("user", fine, "", "the sidecar runs as user %s, this is user %d", d.said.facts["user"], os.Getuid())
}

// clock compares the two clocks. Signatures carry the time, and budgets end at midnight.
func (d *doctor) clock() {
	const most = 3 * time.Second // an answer's Date has whole seconds
	now := time.Now()
	switch off := now.Sub(d.said.date).Abs(); {
	case now.Year() < 2025:
		d.find("clock", bad, "set the clock, by NTP", "it says %s", now.UTC().Format(time.RFC3339))
	case off > most:
		d.find("clock", bad, "set both clocks, by NTP", "this machine and the sidecar differ by %s", off.Round(time.Second))
	case d.said.facts["clock"] != "":
		d.find("clock", note, "let NTP slew the clock, not step it", "the sidecar's %s", d.said.facts["clock"])
	default:
		d.find("clock", fine, "", "%s", now.UTC().Format(time.RFC3339))
	}
}

// way finds the proxy user and the files of trust that a client would be given.
func (d *doctor) way() bool {
	d.outlet = outlet{Proxy: dialable(d.cfg.Proxy.Listen)}
	var err error
	if d.host != nil {
		d.outlet.User, d.outlet.Token = d.host.user, d.host.token
	} else if d.outlet.User, d.outlet.Token, err = proxyUser(d.cfg, d.agent); err != nil {
		d.find("proxy user", bad, "name one of agent.proxy_users with --agent", "%v", err)
		return false
	}
	if !d.cfg.Proxy.Intercept.Enabled {
		d.find("interception", note, "set proxy.intercept.enabled, or call https tools by http:// URLs, which are sent over TLS", "off: https is not governed, and refused where a tool has the host")
		return true
	}
	if d.outlet.Trust, err = findTrust(d.cfg, os.LookupEnv, false); err != nil {
		d.find("interception", bad, "let proxy.intercept.ca_out be a directory that this user can read", "the local CA's certificate cannot be read: %v", err)
		return true
	}
	d.find("interception", fine, "", "on; clients trust %s", d.outlet.Trust.Bundle)
	return true
}

// around looks for a way to the network that does not lead through the sidecar.
func (d *doctor) around(ctx context.Context) {
	targets := d.targets()
	if len(targets) == 0 {
		d.find("way around", note, "name a host on the network: oo-sidecar doctor --direct HOST:PORT", "not tried: no tool has a host that is not on loopback")
		return
	}
	reached, failed := dialAll(ctx, targets)
	switch {
	case reached == "":
		d.find("way around", fine, "", "enforced: no direct connection (%v); where there is no network at all this says nothing", failed)
	case d.own:
		d.find("way around", note, "run the sidecar as another user, and let only that one reach the network (examples/k8s/components/egress-lock)", "bypassable: %s can be reached without the sidecar", reached)
	default:
		d.find("way around", bad, "let only the sidecar's user reach the network: owner-matched nftables rules (examples/k8s/components/egress-lock)", "bypassable: %s can be reached without the sidecar", reached)
	}
}

// targets are where a connection is tried: three at most, on loopback only where they were named.
func (d *doctor) targets() []string {
	if len(d.direct) > 0 {
		return d.direct
	}
	var all []string
	for _, t := range d.cfg.Tools {
		target, ok := toolAddress(t.URL, d.cfg.Proxy.Resolve)
		if ok && len(all) < 3 {
			all = append(all, target)
		}
	}
	return all
}

// dialAll opens a connection to each target and closes it. It names the first that was reached, or why none was.
func dialAll(ctx context.Context, targets []string) (reached string, failed error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	errs := make([]error, len(targets))
	var all sync.WaitGroup
	for i, target := range targets {
		all.Go(func() {
			conn, err := new(net.Dialer).DialContext(ctx, "tcp", target)
			if errs[i] = err; err == nil {
				conn.Close()
			}
		})
	}
	all.Wait()
	for i, err := range errs {
		if err == nil {
			return targets[i], nil
		}
	}
	return "", errs[0]
}

// report prints the findings. It fails when one is bad.
func (d *doctor) report(w io.Writer, out output) error {
	var err error
	if out == "json" {
		err = writeJSON(w, d.findings)
	} else {
		err = writeFindings(w, d.findings)
	}
	for _, f := range d.findings {
		if f.State == bad && err == nil {
			return exit{1, nil}
		}
	}
	return err
}

func writeFindings(w io.Writer, findings []finding) error {
	for _, f := range findings {
		text := fmt.Sprintf("%-5s %s: %s\n", f.State, f.Check, f.Detail)
		if f.Mend != "" {
			text += fmt.Sprintf("      → %s\n", f.Mend)
		}
		if _, err := io.WriteString(w, text); err != nil {
			return err
		}
	}
	return nil
}
