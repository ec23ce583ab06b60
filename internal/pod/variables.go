package pod

import (
	"net"
	"net/url"
	"slices"
	"strings"
)

// Outlet is what a client must know of a sidecar.
type Outlet struct {
	Proxy       string // host:port
	User, Token string // proxy user; empty: none
	Trust       Trust  // empty without interception
}

// Trust are the files by which a client trusts the local CA.
type Trust struct {
	Bundle string // replaces the roots: system's, those that were named before, and the CA
	Extra  string // adds to the roots: the CA, and what was named before
	Store  string // the bundle as PKCS #12; empty: none
}

// Variable is one variable of a client's environment.
type Variable struct{ Name, Value string }

// url is the proxy's, with its credentials.
func (o Outlet) url() string {
	u := url.URL{Scheme: "http", Host: o.Proxy}
	if o.User != "" {
		u.User = url.UserPassword(o.User, o.Token)
	}
	return u.String()
}

// proxyNames take the proxy's url, in both cases, since some programs read only the lower one.
var proxyNames = []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"}

// CANames are the variables that take the bundle, by who reads them.
var CANames = []string{
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

// Variables is the table: what sends a client through the sidecar and makes it trust the local CA. had looks up what
// the environment holds now. The notes are for a person.
func (o Outlet) Variables(had func(string) (string, bool)) (list []Variable, notes []string) {
	for _, name := range proxyNames {
		list = append(list, Variable{name, o.url()})
	}
	direct, notes := NoProxy(had)
	list = append(list, Variable{"NO_PROXY", direct}, Variable{"no_proxy", direct}, Variable{"NODE_USE_ENV_PROXY", "1"})
	if o.Trust.Bundle != "" {
		for _, name := range CANames {
			list = append(list, Variable{name, o.Trust.Bundle})
		}
		list = append(list, Variable{"NODE_EXTRA_CA_CERTS", o.Trust.Extra})
	}
	former, _ := had("JAVA_TOOL_OPTIONS")
	return append(list, Variable{"JAVA_TOOL_OPTIONS", o.Java(former)}), notes
}

// NoProxy names who is called directly: loopback, which the sidecar's own tools are on, and what the user had. An
// asterisk would send everything around the sidecar.
func NoProxy(had func(string) (string, bool)) (list string, notes []string) {
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

// Java are the options of a Java virtual machine, which reads no proxy variable. Those of former stay that are not set
// here.
func (o Outlet) Java(former string) string {
	host, port, _ := net.SplitHostPort(o.Proxy)
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
	if o.Trust.Store != "" && !strings.ContainsAny(o.Trust.Store, " \t\"'") {
		add("javax.net.ssl.trustStore", o.Trust.Store)
		add("javax.net.ssl.trustStoreType", "PKCS12")
	}
	return strings.Join(options, " ")
}

// javaOptions are those that Java sets, and those of a former proxy's credentials, which are not for this one.
var javaOptions = []string{"http.proxyHost", "http.proxyPort", "http.proxyUser", "http.proxyPassword", "https.proxyHost", "https.proxyPort",
	"https.proxyUser", "https.proxyPassword", "http.nonProxyHosts", "javax.net.ssl.trustStore", "javax.net.ssl.trustStoreType"}
