package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/oo-sidecar/oo-sidecar/config"
)

func newRun(a *app) *cobra.Command {
	var agent string
	cmd := &cobra.Command{
		Use: "run [--agent ID] -- COMMAND [ARGUMENT...]", DisableFlagsInUseLine: true, Short: "Run a program whose tool calls are governed", Args: cobra.ArbitraryArgs,
		Long: "Run a program with the proxy and CA variables set, and exit with its code (128+n when signal n ended it). Where no\n" +
			"sidecar answers one is started, with interception on: for the hosts of the tools, or for all but passthrough\n" +
			"without a configuration. It serves every `run` with the same configuration, each with a proxy user of its own,\n" +
			"and ends with the last one; its log is run.log beside its store. A running sidecar with the same configuration\n" +
			"is used as it is, one with another is refused.\n\n" +
			"Calls to loopback are never sent through a proxy: give local tools a name by proxy.resolve.",
		Example: "  oo-sidecar run -- python agent.py\n  oo-sidecar run --agent billing-agent --config oo-sidecar.yaml -- node agent.js",
		RunE:    func(cmd *cobra.Command, argv []string) error { return a.runChild(cmd.Context(), agent, argv) },
	}
	cmd.Flags().StringVar(&agent, "agent", "", "whom the calls are charged to; default agent.id")
	cmd.Flags().SetInterspersed(false) // what follows COMMAND is its own
	return cmd
}

// runChild runs argv under a sidecar and ends as it ends.
func (a *app) runChild(ctx context.Context, agent string, argv []string) error {
	if len(argv) == 0 {
		return exit{2, errors.New("run needs a command: oo-sidecar run -- COMMAND [ARGUMENT...]")}
	}
	program, err := find(argv[0])
	if err != nil {
		return err
	}
	if agent != "" {
		if err := checkAgent(agent); err != nil {
			return exit{2, err}
		}
	}
	began := time.Now()
	h, err := a.host(ctx, agent)
	if err != nil {
		return err
	}
	defer h.leave()
	env, notes, err := h.environment()
	if err != nil {
		return exit{1, err}
	}
	fmt.Fprintln(a.stderr, "oo-sidecar: "+h.greeting(ctx))
	for _, note := range append(notes, h.warnings(program)...) {
		fmt.Fprintln(a.stderr, "oo-sidecar: "+note)
	}
	c := child{program: program, argv: argv, env: env, stdin: a.stdin, stdout: a.stdout, stderr: a.stderr}
	code, err := c.run()
	if err != nil {
		return err
	}
	fmt.Fprintln(a.stderr, "oo-sidecar: "+h.summary(context.WithoutCancel(ctx), began))
	return exit{code, nil}
}

// environment is that of the child: this process's, with the table's variables in the place of what they replace.
func (h *host) environment() (env, notes []string, err error) {
	o := outlet{Proxy: dialable(h.cfg.Proxy.Listen), User: h.user, Token: h.token}
	if h.cfg.Proxy.Intercept.Enabled {
		if o.Trust, err = findTrust(h.cfg, os.LookupEnv, false); err != nil {
			return nil, nil, fmt.Errorf("the local CA's certificate cannot be given to clients: %w", err)
		}
	} else {
		notes = append(notes, "the running sidecar does not intercept: https calls are not governed, and refused where a tool has the host; set proxy.intercept.enabled")
	}
	list, more := o.Variables(os.LookupEnv)
	return overlay(os.Environ(), list), append(notes, more...), nil
}

// overlay is env with the variables of list in the place of those of the same name.
func overlay(env []string, list []variable) []string {
	set := make(map[string]bool, len(list))
	for _, v := range list {
		set[v.Name] = true
	}
	out := make([]string, 0, len(env)+len(list))
	for _, entry := range env {
		if name, _, _ := cutVariable(entry); !set[name] {
			out = append(out, entry)
		}
	}
	for _, v := range list {
		out = append(out, v.Name+"="+v.Value)
	}
	return out
}

// warnings are what a program of this kind cannot do here.
func (h *host) warnings(program string) (list []string) {
	if local := localTools(h.cfg); len(local) > 0 {
		list = append(list, "on loopback, where programs use no proxy, so that calls by URL are not governed: "+strings.Join(local, ", ")+"; give their hosts names by proxy.resolve, or call POST /tools/NAME")
	}
	// The JDK's clients send proxy credentials only where the program's own code has an Authenticator: no option and no
	// variable makes them.
	if name, _ := runtimeOf(program); name == "Java" && h.user != "" {
		mend := "give it an Authenticator, or this agent a sidecar without agent.proxy_users"
		if h.started {
			mend = "start the sidecar beforehand (oo-sidecar serve, with proxy.intercept.enabled for https), which asks for none, or give it an Authenticator"
		}
		list = append(list, "Java's own clients send no proxy credentials, which this sidecar asks for, and their calls are refused with 407: "+mend)
	}
	return list
}

// localTools are the tools whose url clients never call through a proxy.
func localTools(cfg *config.Config) (names []string) {
	for _, t := range cfg.Tools {
		if u, err := url.Parse(t.URL); err == nil && isLoopback(u.Hostname()) {
			names = append(names, printable(t.Name))
		}
	}
	return names
}

// greeting says through which sidecar the child calls, and what that is worth.
func (h *host) greeting(ctx context.Context) string {
	text := fmt.Sprintf("agent %s calls through %s", h.agent, dialable(h.cfg.Proxy.Listen))
	if h.cfg.Path() == "" {
		text += " (no configuration: nothing is limited)"
	}
	if h.started {
		text += ", a sidecar that run started; state: " + h.cfg.Store.Embedded.Dir
	}
	if sameUser(ctx, h.cfg) {
		text += "\noo-sidecar: agent and sidecar are the same user: this guards against accidents, not against the agent"
	}
	return text
}

// runFlags is what `run` lays over the configuration of a sidecar that it starts.
func runFlags(builtin bool) map[string]string {
	flags := map[string]string{"proxy.intercept.enabled": "true"}
	if builtin {
		flags["proxy.intercept.hosts"] = "all"
	}
	return flags
}

// plan is the configuration in its two forms: as `serve` runs it, and as `run` would start it.
type plan struct {
	path           string
	asServe, asRun *config.Config
}

func (a *app) plan() (*plan, error) {
	path, builtin, err := config.Locate(a.config)
	if err != nil {
		return nil, err
	}
	p := &plan{path: path}
	if p.asServe, _, err = config.Load(path, os.Environ(), nil); err != nil {
		return nil, err
	}
	p.asRun, _, err = config.Load(path, os.Environ(), runFlags(builtin))
	return p, err
}
