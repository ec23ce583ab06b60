package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/oo-sidecar/oo-sidecar/hmac"
)

// signatureCheck is one command line of verify-signature.
type signatureCheck struct {
	app        *app
	secretFile string
	bodyFile   string
	headers    []string
	method     string
	url        string
	keyHeader  string
	at         string
}

func newVerifySignature(a *app) *cobra.Command {
	v := &signatureCheck{app: a}
	cmd := &cobra.Command{
		Use:   "verify-signature --secret-file FILE --body FILE -H 'Name: value' …",
		Short: "Check the signature of a call as a tool received it",
		Long: `Check the signature of a call as a tool received it: for people who write the receiving end.

The headers tell the scheme: X-OnceOnly-Signature and X-OnceOnly-Signature-V2, or Webhook-Signature. V2 covers method,
host and path too: give the method and the URL as the tool was called, and the Host header if the URL lacks its port.
Exit code 0: valid. 1: not valid, with the reason. 2: it could not be checked.`,
		Example: `  oo-sidecar verify-signature --secret-file secret --body body.json --url https://tool.example/hook \
    -H 'X-OnceOnly-Timestamp: 1767225600' -H 'X-OnceOnly-Fence: 7' -H 'X-OnceOnly-Tool: mail.send' \
    -H 'X-OnceOnly-Agent-Id: default' -H 'Idempotency-Key: oo_…' -H 'X-OnceOnly-Signature-V2: t=…,kid=…,v2=…'`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return v.run() },
	}
	f := cmd.Flags()
	f.StringVar(&v.secretFile, "secret-file", "", "file with the shared secret; with several lines, each is an active secret")
	f.StringVar(&v.bodyFile, "body", "", "file with the body's bytes as received; - is standard input")
	f.StringArrayVarP(&v.headers, "header", "H", nil, "a header as received, 'Name: value'; repeat it")
	f.StringVar(&v.method, "method", "POST", "the call's method")
	f.StringVar(&v.url, "url", "", "the URL that was called, or its path with -H Host")
	f.StringVar(&v.keyHeader, "key-header", "Idempotency-Key", "the header in which the tool gets its idempotency key (upstream_key)")
	f.StringVar(&v.at, "at", "", "when the call was received, RFC 3339 or unix seconds (default now)")
	return cmd
}

func (v *signatureCheck) run() error {
	secrets, err := v.secrets()
	if err != nil {
		return err
	}
	body, err := v.body()
	if err != nil {
		return err
	}
	header, err := parseHeaders(v.headers)
	if err != nil {
		return err
	}
	now, err := parseMoment(v.at)
	if err != nil {
		return err
	}
	r := &hmac.Received{Method: v.method, Body: body, KeyHeader: v.keyHeader, Get: header.Get}
	if header.Get(hmac.WebhookSignature) != "" {
		return v.webhook(secrets, r, now)
	}
	return v.onceOnly(secrets, r, header, now)
}

func (v *signatureCheck) webhook(secrets []string, r *hmac.Received, now time.Time) error {
	keys, err := hmac.NewKeys(hmac.StandardWebhooks, secrets)
	if err != nil {
		return fmt.Errorf("--secret-file %s: %w", v.secretFile, err)
	}
	return v.verdict(keys.VerifyWebhook(r, now), "webhook-signature covers id, time and body")
}

// onceOnly checks whichever of the two signatures is there; each that is must hold.
func (v *signatureCheck) onceOnly(secrets []string, r *hmac.Received, header http.Header, now time.Time) error {
	keys, err := hmac.NewKeys(hmac.OnceOnly, secrets)
	if err != nil {
		return fmt.Errorf("--secret-file %s: %w", v.secretFile, err)
	}
	if header.Get(hmac.SignatureV2Header) == "" {
		return v.verdict(keys.VerifyBody(r, now), "the plain signature covers the body only; require "+hmac.SignatureV2Header+" to be safe from replays")
	}
	if r.Authority, r.Path, err = v.address(header.Get("Host")); err != nil {
		return err
	}
	if header.Get(hmac.SignatureHeader) != "" {
		if err := keys.VerifyBody(r, now); err != nil {
			return v.verdict(fmt.Errorf("%s: %w", hmac.SignatureHeader, err), "")
		}
	}
	return v.verdict(keys.VerifyV2(r, now), "V2 covers method, address, body, key, fence, tool, agent and time")
}

func (v *signatureCheck) verdict(err error, covers string) error {
	if err != nil {
		return exit{1, fmt.Errorf("not valid: %w", err)}
	}
	_, err = fmt.Fprintf(v.app.stdout, "valid: %s\n", covers)
	return err
}

// address splits --url as it is spelled: it was signed as it was sent.
func (v *signatureCheck) address(host string) (authority, path string, err error) {
	if v.url == "" {
		return "", "", errors.New("--url is missing: " + hmac.SignatureV2Header + " covers the address; give the URL that was called")
	}
	rest := v.url
	if _, after, ok := strings.Cut(v.url, "://"); ok {
		end := strings.IndexAny(after, "/?")
		if end < 0 {
			end = len(after)
		}
		authority, rest = after[:end], after[end:]
	}
	if !strings.HasPrefix(rest, "/") {
		rest = "/" + rest
	}
	if host != "" {
		authority = host
	}
	if authority == "" {
		return "", "", errors.New("--url has no host: give the whole URL, or the Host header with -H")
	}
	return authority, rest, nil
}

func (v *signatureCheck) secrets() ([]string, error) {
	if v.secretFile == "" {
		return nil, errors.New("--secret-file is missing: name the file that holds the tool's secret")
	}
	text, err := os.ReadFile(v.secretFile)
	if err != nil {
		return nil, fmt.Errorf("--secret-file: %w", err)
	}
	var secrets []string
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimRight(line, "\r\n"); line != "" {
			secrets = append(secrets, line)
		}
	}
	return secrets, nil
}

func (v *signatureCheck) body() ([]byte, error) {
	switch v.bodyFile {
	case "":
		return nil, errors.New("--body is missing: name the file that holds the body, or - for standard input")
	case "-":
		return io.ReadAll(v.app.stdin)
	}
	body, err := os.ReadFile(v.bodyFile)
	if err != nil {
		return nil, fmt.Errorf("--body: %w", err)
	}
	return body, nil
}

func parseHeaders(lines []string) (http.Header, error) {
	h := http.Header{}
	for _, line := range lines {
		name, value, ok := strings.Cut(line, ":")
		if name = strings.TrimSpace(name); !ok || name == "" {
			return nil, fmt.Errorf("-H %q is no header: write 'Name: value'", line)
		}
		if h.Get(name) != "" {
			return nil, fmt.Errorf("-H %s is there twice: which one was signed cannot be told", name)
		}
		h.Set(name, strings.TrimSpace(value))
	}
	return h, nil
}

func parseMoment(s string) (time.Time, error) {
	if s == "" {
		return time.Now(), nil
	}
	if unix, err := strconv.ParseInt(s, 10, 64); err == nil {
		return time.Unix(unix, 0), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, fmt.Errorf("--at %q is no time: write RFC 3339 or unix seconds", s)
	}
	return t, nil
}
