package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/oo-sidecar/oo-sidecar/config"
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
	o := outlet{proxy: dialable(cfg.Proxy.Listen)}
	if o.user, o.token, err = proxyUser(cfg, agent); err != nil {
		return exit{2, err}
	}
	if cfg.Proxy.Intercept.Enabled {
		if o.trust, err = findTrust(cfg, os.LookupEnv, shell == "k8s"); err != nil {
			return exit{1, err}
		}
	} else {
		fmt.Fprintln(a.stderr, "oo-sidecar: proxy.intercept.enabled is false: no CA variables; https is not governed")
	}
	if shell == "k8s" {
		return o.writeManifest(a.stdout)
	}
	list, notes := o.variables(os.LookupEnv)
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

// outlet is what a client must know of a sidecar.
type outlet struct {
	proxy       string // host:port
	user, token string // proxy user; empty: none
	trust       trust  // empty without interception
}

// trust are the files by which a client trusts the local CA.
type trust struct {
	bundle string // replaces the roots: system's, those that were named before, and the CA
	extra  string // adds to the roots: the CA, and what was named before
	store  string // the bundle as PKCS #12; empty: none
}

// variable is one variable of a client's environment.
type variable struct{ name, value string }

// url is the proxy's, with its credentials.
func (o outlet) url() string {
	u := url.URL{Scheme: "http", Host: o.proxy}
	if o.user != "" {
		u.User = url.UserPassword(o.user, o.token)
	}
	return u.String()
}

// proxyNames take the proxy's url, caNames the bundle, in both cases where programs read both.
var (
	proxyNames = []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"}
	caNames    = []string{
		"SSL_CERT_FILE",                    // OpenSSL, Go, Python's ssl, httpx, curl
		"REQUESTS_CA_BUNDLE",               // requests
		"CURL_CA_BUNDLE",                   // curl, requests
		"AWS_CA_BUNDLE",                    // AWS's SDKs and command line, which prefer it
		"PIP_CERT",                         // pip
		"GIT_SSL_CAINFO",                   // git
		"CARGO_HTTP_CAINFO",                // cargo
		"DENO_CERT",                        // Deno
		"NIX_SSL_CERT_FILE",                // Nix
		"HTTPLIB2_CA_CERTS",                // httplib2
		"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", // gRPC
		"CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
	}
)

// variables is the table: what sends a client through the sidecar and makes it trust the local CA. had looks up what
// the environment holds now. The notes are for a person.
func (o outlet) variables(had func(string) (string, bool)) (list []variable, notes []string) {
	for _, name := range proxyNames {
		list = append(list, variable{name, o.url()})
	}
	direct, notes := noProxy(had)
	list = append(list, variable{"NO_PROXY", direct}, variable{"no_proxy", direct}, variable{"NODE_USE_ENV_PROXY", "1"})
	if o.trust.bundle != "" {
		for _, name := range caNames {
			list = append(list, variable{name, o.trust.bundle})
		}
		list = append(list, variable{"NODE_EXTRA_CA_CERTS", o.trust.extra})
	}
	former, _ := had("JAVA_TOOL_OPTIONS")
	return append(list, variable{"JAVA_TOOL_OPTIONS", o.java(former)}), notes
}

// noProxy names who is called directly: loopback, which the sidecar's own tools are on, and what the user had. An
// asterisk would send everything around the sidecar.
func noProxy(had func(string) (string, bool)) (list string, notes []string) {
	names := []string{"127.0.0.1", "localhost", "::1"}
	for _, variable := range []string{"NO_PROXY", "no_proxy"} {
		text, _ := had(variable)
		for name := range strings.SplitSeq(text, ",") {
			name = strings.TrimSpace(name)
			switch {
			case name == "" || slices.Contains(names, name):
			case name == "*":
				notes = append(notes, variable+"=* is left out: it would send every call around the sidecar")
			default:
				names = append(names, name)
			}
		}
	}
	if more := names[3:]; len(more) > 0 {
		notes = append(notes, "calls to "+strings.Join(more, ", ")+" go around the sidecar: NO_PROXY names them")
	}
	return strings.Join(names, ","), slices.Compact(notes)
}

// java are the options of a Java virtual machine, which reads no proxy variable. The credentials are read by Apache's
// client; Java's own has no property for them.
func (o outlet) java(former string) string {
	host, port, _ := net.SplitHostPort(o.proxy)
	var options []string
	for _, option := range strings.Fields(former) {
		if !slices.ContainsFunc(javaOptions, func(name string) bool { return strings.HasPrefix(option, "-D"+name+"=") }) {
			options = append(options, option)
		}
	}
	add := func(name, value string) { options = append(options, "-D"+name+"="+value) }
	// Not the proxy user: the JDK's own clients do not read one, and every java prints these options to its log.
	for _, scheme := range []string{"http", "https"} {
		add(scheme+".proxyHost", host)
		add(scheme+".proxyPort", port)
	}
	add("http.nonProxyHosts", "localhost|127.*|[::1]")
	if o.trust.store != "" && !strings.ContainsAny(o.trust.store, " \t\"'") {
		add("javax.net.ssl.trustStore", o.trust.store)
		add("javax.net.ssl.trustStoreType", "PKCS12")
	}
	return strings.Join(options, " ")
}

// javaOptions are those that java sets.
var javaOptions = []string{"http.proxyHost", "http.proxyPort", "http.proxyUser", "http.proxyPassword", "https.proxyHost", "https.proxyPort",
	"https.proxyUser", "https.proxyPassword", "http.nonProxyHosts", "javax.net.ssl.trustStore", "javax.net.ssl.trustStoreType"}

// write prints the variables for a shell, or for what reads .env files.
func write(w io.Writer, shell string, list []variable) error {
	form := map[string]func(variable) string{
		"sh": func(v variable) string { return "export " + v.name + "=" + quoted(v.value, `'\''`) },
		"fish": func(v variable) string {
			return "set -gx " + v.name + " " + quoted(strings.ReplaceAll(v.value, `\`, `\\`), `\'`)
		},
		"dotenv": func(v variable) string { return v.name + "=" + dotted(v.value) },
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
func (o outlet) writeManifest(w io.Writer) error {
	var b strings.Builder
	b.WriteString("env:\n")
	if o.user != "" {
		fmt.Fprintf(&b, "  - name: %s\n    valueFrom: {secretKeyRef: {name: oo-sidecar-proxy, key: %q}}\n", secretVariable, o.user)
		o.token = secretVariable
	}
	list, _ := o.variables(func(string) (string, bool) { return "", false })
	for _, v := range list {
		value := strings.ReplaceAll(v.value, secretVariable, "$("+secretVariable+")") // Kubernetes puts the token in
		fmt.Fprintf(&b, "  - name: %s\n    value: %q\n", v.name, value)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
