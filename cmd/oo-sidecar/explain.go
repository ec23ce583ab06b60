package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/oo-sidecar/oo-sidecar/config"
	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/hmac"
	"github.com/oo-sidecar/oo-sidecar/internal/govern"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
	"github.com/oo-sidecar/oo-sidecar/proxy"
)

// asked is a request as the command line states it.
type asked struct {
	method, url, agent, data string
	headers                  []string
	file                     bool // by the configuration file alone, whether a sidecar runs or not
}

func newExplain(a *app) *cobra.Command {
	var q asked
	cmd := &cobra.Command{
		Use: "explain METHOD URL", Short: "Say what would happen to a call; send nothing",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 2 {
				return fmt.Errorf("explain takes a method and a URL: %s explain METHOD URL [flags]", cmd.Root().Name())
			}
			return nil
		},
		Long: "Walk a request through gate, tool, policy and key exactly as serve would, and print what each says.\n" +
			"URL is a tool's address, or /tools/NAME. Nothing is sent and nothing is recorded. A sidecar that runs with this\n" +
			"configuration is asked, and knows the tools, policies and kill switches that hold now, wherever they were changed;\n" +
			"without one, or with --file, the configuration file alone decides. The first line says which. Limits that are used\n" +
			"up and calls that were made before are not seen: what needs a claim is not tried. The key is that of a call with\n" +
			"just these headers: for that of a call as it was made give what its client sent, curl's Accept and Content-Type too.",
		RunE: func(cmd *cobra.Command, args []string) error {
			q.method, q.url = args[0], args[1]
			return a.explain(cmd.Context(), q)
		},
	}
	cmd.Flags().StringVar(&q.agent, "agent", "", "the agent that asks (default: agent.id)")
	cmd.Flags().StringArrayVarP(&q.headers, "header", "H", nil, "a header, as `Name: value`; may be given several times")
	cmd.Flags().BoolVar(&q.file, "file", false, "judge by the configuration file alone")
	cmd.Flags().StringVarP(&q.data, "data", "d", "", "the body, or @FILE")
	return cmd
}

// wrong says what of the command line is no request at all. What a client could send is for the gate to refuse.
func (q *asked) wrong() error {
	if strings.ContainsAny(q.method, " \t\r\n") || q.method == "" {
		return fmt.Errorf("%q is no method; write one such as POST", q.method)
	}
	if !strings.HasPrefix(q.url, "/") && !strings.Contains(q.url, "://") || strings.ContainsAny(q.url, " \t\r\n") {
		return fmt.Errorf("%q is no URL; write http://host/path, https://host/path or /tools/NAME", q.url)
	}
	for _, h := range q.headers {
		if name, _, ok := strings.Cut(h, ":"); !ok || name == "" || strings.ContainsAny(h, "\r\n") {
			return fmt.Errorf("-H %q is no header; write it as 'Name: value'", h)
		}
	}
	return nil
}

func (a *app) explain(ctx context.Context, q asked) error {
	if err := q.wrong(); err != nil {
		return err
	}
	cfg, err := a.settings()
	if err != nil {
		return err
	}
	body, err := a.body(q.data)
	if err != nil {
		return err
	}
	text, by, err := a.askRunning(ctx, cfg, &q, body)
	if err != nil {
		return err
	}
	if text == "" {
		judge, err := fileJudge(cfg)
		if err != nil {
			return err
		}
		if text, err = judge.explain(ctx, &q, body); err != nil {
			return err
		}
		if cfg.Control.BaseURL != "" {
			fmt.Fprintln(a.stderr, "note: judged by the configuration file alone; the control plane's tools, policies and switches are not seen here")
		}
	}
	_, err = fmt.Fprintf(a.stdout, "%-11s %s\n%s", "judged by", by, text)
	return err
}

// judge is by what a call is explained.
type judge struct {
	cfg      *config.Config
	snapshot *govern.Snapshot
	mask     *hmac.Mask
	note     string // on the key
	disabled func(agent string) bool
}

// fileJudge knows the configuration file and nothing else.
func fileJudge(cfg *config.Config) (*judge, error) {
	tools, err := cfg.Registered()
	if err != nil {
		return nil, err
	}
	snapshot, err := newSnapshot(cfg, tools, cfg.Policies)
	if err != nil {
		return nil, err
	}
	j := &judge{cfg: cfg, snapshot: snapshot, disabled: func(string) bool { return false }}
	j.mask, j.note = explainMask(cfg)
	return j, nil
}

// explain is what would happen to the request, a line for each thing that counts.
func (j *judge) explain(ctx context.Context, q *asked, body []byte) (string, error) {
	r, refusal, err := throughGate(ctx, j.cfg, j.snapshot, q, body)
	if err != nil {
		return "", err
	}
	if refusal != nil {
		return fmt.Sprintf("refused     %d %s: %s\nhint        %s\n", refusal.Status, refusal.Code, refusal.Detail, refusal.Hint), nil
	}
	e := j.snapshot.Explain(r, func(k dedup.Key) string { return j.mask.Shown(k) }, j.disabled)
	unsure, err := judgeDestination(j.cfg, &e)
	if err != nil {
		return "", err
	}
	return explanation(&e, j.note, unsure), nil
}

// judgeDestination refuses what the proxy would not dial. unsure says that only a look-up of the name could tell.
func judgeDestination(cfg *config.Config, e *govern.Explanation) (unsure string, err error) {
	if e.Refusal != nil {
		return "", nil
	}
	var own []netip.AddrPort
	for _, listen := range []string{cfg.Proxy.Listen, cfg.API.Listen, cfg.Health.Listen} {
		if a, err := netip.ParseAddrPort(listen); err == nil {
			own = append(own, a)
		}
	}
	dialer, err := proxy.NewDialer(cfg.Proxy, own...)
	if err != nil {
		return "", err
	}
	known, denied := dialer.Judge(e.Target, e.Tool)
	switch {
	case denied != nil:
		e.Refusal = govern.NewRefusal("destination_denied", denied.Error())
	case !known:
		return ", if its address may be reached", nil
	}
	return "", nil
}

// body is the text of -d, or the content of the file that it names.
func (a *app) body(data string) ([]byte, error) {
	file, ok := strings.CutPrefix(data, "@")
	switch {
	case !ok:
		return []byte(data), nil
	case file == "-":
		return io.ReadAll(a.stdin)
	}
	return os.ReadFile(file)
}

// explainMask is the mask under which the store shows keys, or a passing one where there is no store yet.
func explainMask(cfg *config.Config) (*hmac.Mask, string) {
	text, err := os.ReadFile(filepath.Join(cfg.Store.Embedded.Dir, "shown.key"))
	if errors.Is(err, fs.ErrNotExist) {
		return hmac.NewMask([]byte("no store yet")), "; there is no store yet, so it will be shown differently"
	}
	secret, bad := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || bad != nil {
		return hmac.NewMask([]byte("unreadable store")), "; the store's secret cannot be read, so it is shown differently there"
	}
	return hmac.NewMask(secret), ""
}

// throughGate sends the request to a listener of its own that hands over what gate and adapter made of it.
func throughGate(ctx context.Context, cfg *config.Config, snapshot *govern.Snapshot, q *asked, body []byte) (*govern.Request, *govern.Refusal, error) {
	var got *govern.Request
	var refused *govern.Refusal
	agent := q.agent
	if agent == "" {
		agent = cfg.Agent.ID
	}
	end := &govern.Reply{Status: 204}
	own := cfg.Proxy
	own.Hosts = append([]string{hostOnly(cfg.Proxy.Listen)}, own.Hosts...)
	server, err := proxy.New(own, int(cfg.Limits.HeaderBytes), proxy.Backend{
		Govern: func(_ context.Context, r *govern.Request) *govern.Reply { got = r; return end },
		Refuse: func(_ *govern.Request, code, detail string) *govern.Reply {
			refused = govern.NewRefusal(code, detail)
			return end
		},
		Snapshot: func() *govern.Snapshot { return snapshot },
		Identity: func() *proxy.Identity { return &proxy.Identity{Default: agent} },
		Disabled: func(string) bool { return false },
		Log:      func(slog.Level, string, ...any) {},
	})
	if err != nil {
		return nil, nil, err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	go server.Serve(ctx, ln)
	defer server.Close(ctx)
	if err := exchange(ln.Addr().String(), rawRequest(q, ln.Addr().String(), body)); err != nil {
		return nil, nil, err
	}
	if got == nil && refused == nil {
		return nil, nil, errors.New("the request was neither taken nor refused; is it a CONNECT? explain knows calls only")
	}
	return got, refused, nil
}

func hostOnly(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	return host
}

// rawRequest is the request as a client would write it: absolute-form through the proxy, or a path of the listener.
func rawRequest(q *asked, listener string, body []byte) []byte {
	var b bytes.Buffer
	host := listener
	if _, rest, ok := strings.Cut(q.url, "://"); ok {
		host, _, _ = strings.Cut(rest, "/")
		host, _, _ = strings.Cut(host, "?")
	}
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n", q.method, q.url, host)
	typed := false
	for _, h := range q.headers {
		fmt.Fprintf(&b, "%s\r\n", h)
		typed = typed || strings.HasPrefix(strings.ToLower(h), "content-type:")
	}
	if len(body) > 0 {
		if !typed {
			b.WriteString("Content-Type: application/json\r\n")
		}
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(body))
	}
	b.WriteString("Connection: close\r\n\r\n")
	b.Write(body)
	return b.Bytes()
}

func exchange(address string, raw []byte) error {
	conn, err := net.DialTimeout("tcp", address, time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := conn.Write(raw); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return fmt.Errorf("the gate gave no answer: %w", err)
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return errors.Join(err, resp.Body.Close())
}

// explanation is one line for each thing that counted.
func explanation(e *govern.Explanation, note, unsure string) string {
	var w strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&w, "%-11s %s\n", name, printable(fmt.Sprintf(format, args...)))
	}
	line("agent", "%s", e.Agent)
	explainTool(line, e)
	for _, r := range e.Rules {
		line("rule", "%s: %s (%s)", r.Rule, r.Verdict, r.Source)
	}
	if len(e.Rules) == 0 {
		line("rule", "none: no policy holds for this agent")
	}
	if e.Tool != nil {
		explainKey(line, e, note)
	}
	switch {
	case e.Refusal != nil:
		line("refused", "%d %s: %s", e.Refusal.Status, e.Refusal.Code, e.Refusal.Detail)
		line("hint", "%s", e.Refusal.Hint)
	case e.Tool != nil:
		explainRequest(line, e, unsure)
	default:
		line("would send", "%s %s as it is%s: no tool, so no lists, caps, key or signature", e.Method, e.Target, unsure)
	}
	return w.String()
}

type printer func(name, format string, args ...any)

func explainTool(line printer, e *govern.Explanation) {
	if e.Tool == nil {
		line("tool", "none matches")
		return
	}
	line("tool", "%s (%s, scope %s, effect %s)", e.Tool.Name, e.Tool.Source, e.Tool.Scope, e.Tool.Effect)
}

func explainKey(line printer, e *govern.Explanation, note string) {
	if e.Call.Form != "" {
		line("arguments", "%s: %s", e.Call.Form, e.Call.Canonical)
	}
	for _, h := range e.Call.Headers {
		verb := "does not count"
		if h.Counts {
			verb = "counts"
		}
		line("header", "%s %s: %s", h.Name, verb, h.How)
	}
	if e.Call.Why != "" {
		line("key", "none: %s", e.Call.Why)
	} else {
		line("key", "%s%s", e.Key, note)
		line("shared by", "%s", e.Call.Scope)
	}
	line("price", "$%s", e.Cost)
}

func explainRequest(line printer, e *govern.Explanation, unsure string) {
	line("would send", "%s %s%s", e.Method, e.Target, unsure)
	for _, h := range e.Header {
		line("", "%s: %s", h.Name, secretly(h))
	}
	if e.Tool.Auth != nil {
		line("", "signed by %s with %d secret(s)", e.Tool.Auth.Scheme, len(e.Tool.Auth.Secrets))
	}
}

// secretly hides credentials of the agent's own.
func secretly(h tool.Header) string {
	switch strings.ToLower(h.Name) {
	case "authorization", "cookie", "proxy-authorization":
		return "***"
	}
	return h.Value
}
