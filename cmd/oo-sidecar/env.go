package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/oo-sidecar/oo-sidecar/config"
	"github.com/oo-sidecar/oo-sidecar/internal/pod"
)

func newEnv(a *app) *cobra.Command {
	shell, agent := shellName("sh"), ""
	cmd := &cobra.Command{
		Use: "env", Short: "Print the variables that send a program through the sidecar", Args: cobra.NoArgs,
		Long: "Print the proxy and CA variables that `run` sets, for a program that is started otherwise:\n\n" +
			"  eval \"$(oo-sidecar env)\"                       # sh, bash, zsh\n" +
			"  oo-sidecar env --shell fish | source\n" +
			"  oo-sidecar env --shell dotenv >> .env\n" +
			"  oo-sidecar env --shell k8s                     # the env: of a container\n\n" +
			"With proxy_users the variables hold the agent's token; for k8s it comes from a Secret.",
		RunE: func(*cobra.Command, []string) error { return a.printEnv(string(shell), agent) },
	}
	cmd.Flags().Var(&shell, "shell", "sh, fish, dotenv or k8s")
	cmd.Flags().StringVar(&agent, "agent", "", "whose proxy user (agent.proxy_users); default agent.id, or the only one")
	cmd.RegisterFlagCompletionFunc("shell", cobra.FixedCompletions(shells, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

var shells = []string{"sh", "fish", "dotenv", "k8s"}

// shellName is the flag --shell.
type shellName string

func (s *shellName) String() string { return string(*s) }
func (s *shellName) Type() string   { return "name" }

func (s *shellName) Set(name string) error {
	if !slices.Contains(shells, name) {
		return errors.New("write one of " + strings.Join(shells, ", "))
	}
	*s = shellName(name)
	return nil
}

// printEnv prints what the sidecar that `serve` runs with this configuration asks of its clients.
func (a *app) printEnv(shell, agent string) error {
	cfg, err := a.settings()
	if err != nil {
		return err
	}
	o := outlet{Proxy: dialable(cfg.Proxy.Listen)}
	if o.User, o.Token, err = proxyUser(cfg, agent); err != nil {
		return exit{2, err}
	}
	if cfg.Proxy.Intercept.Enabled {
		if o.Trust, err = findTrust(cfg, os.LookupEnv, shell == "k8s"); err != nil {
			return exit{1, err}
		}
	} else {
		fmt.Fprintln(a.stderr, "oo-sidecar: proxy.intercept.enabled is false: no CA variables; https is not governed")
	}
	if shell == "k8s" {
		return writeManifest(a.stdout, o)
	}
	list, notes := o.Variables(os.LookupEnv)
	for _, note := range notes {
		fmt.Fprintln(a.stderr, "oo-sidecar: "+note)
	}
	return write(a.stdout, shell, list)
}

// proxyUser is whose proxy user a client is; none when there are none.
func proxyUser(cfg *config.Config, agent string) (user, token string, err error) {
	users := cfg.Agent.ProxyUsers
	if len(users) == 0 {
		if agent != "" && agent != cfg.Agent.ID {
			return "", "", fmt.Errorf("every call of this sidecar is charged to agent %s: to have others, list them under agent.proxy_users", cfg.Agent.ID)
		}
		return "", "", nil
	}
	user = agent
	if user == "" {
		user = cfg.Agent.ID
		if _, is := users[user]; !is && len(users) == 1 {
			for user = range users {
			}
		}
	}
	token, is := users[user]
	if !is {
		return "", "", fmt.Errorf("agent.proxy_users has no %q: name one of them with --agent", user)
	}
	return user, token, nil
}

// outlet and its kin are the table of internal/pod: what sends a client through the sidecar.
type (
	outlet   = pod.Outlet
	trust    = pod.Trust
	variable = pod.Variable
)

// write prints the variables for a shell, or for what reads .env files.
func write(w io.Writer, shell string, list []variable) error {
	form := map[string]func(variable) string{
		"sh": func(v variable) string { return "export " + v.Name + "=" + quoted(v.Value, `'\''`) },
		"fish": func(v variable) string {
			return "set -gx " + v.Name + " " + quoted(strings.ReplaceAll(v.Value, `\`, `\\`), `\'`)
		},
		"dotenv": func(v variable) string { return v.Name + "=" + dotted(v.Value) },
	}[shell]
	for _, v := range list {
		if _, err := fmt.Fprintln(w, form(v)); err != nil {
			return err
		}
	}
	return nil
}

func quoted(s, quote string) string { return "'" + strings.ReplaceAll(s, "'", quote) + "'" }

// dotted writes a value as readers of .env files agree on it: single quotes are literal in all of them.
func dotted(s string) string {
	if !strings.Contains(s, "'") {
		return "'" + s + "'"
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "$", `\$`).Replace(s) + `"`
}

// secretVariable holds the token in a container's environment, so that no manifest does.
const secretVariable = "OO_PROXY_TOKEN"

// writeManifest prints the env of a container.
func writeManifest(w io.Writer, o outlet) error {
	var b strings.Builder
	b.WriteString("env:\n")
	if o.User != "" {
		fmt.Fprintf(&b, "  - name: %s\n    valueFrom: {secretKeyRef: {name: oo-sidecar-proxy, key: %q}}\n", secretVariable, o.User)
		o.Token = secretVariable
	}
	list, _ := o.Variables(func(string) (string, bool) { return "", false })
	for _, v := range list {
		value := strings.ReplaceAll(v.Value, secretVariable, "$("+secretVariable+")") // Kubernetes puts the token in
		fmt.Fprintf(&b, "  - name: %s\n    value: %q\n", v.Name, value)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
