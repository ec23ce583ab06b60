package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/oo-sidecar/oo-sidecar/config"
)

func newDemo(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "demo", Short: "Show the whole story on one screen", Args: cobra.NoArgs,
		Long: "Run a real sidecar and a small payment tool on free loopback ports with a store of their own in a temporary\n" +
			"directory, make some calls, and remove it all again. Nothing else is touched.",
		RunE: func(cmd *cobra.Command, _ []string) error { return a.demo(cmd.Context(), demoConfig) },
	}
}

const demoConfig = `version: 1
agent: {id: demo-agent}
proxy: {listen: "127.0.0.1:0", allow_private: ["127.0.0.0/8"], drain: 2s}
api: {listen: "127.0.0.1:0"}
health: {listen: "127.0.0.1:0"}
store: {embedded: {dir: %q}}
log: {level: error}
tools:
  - {name: payments.charge, url: "http://%s/charges", price_usd: "0.50"}
policies:
  - {agent_id: demo-agent, max_spend_usd_per_day: "1.00"}
`

// demo is the story: executed, replayed, over budget, switched off, verified.
func (a *app) demo(ctx context.Context, text string) error {
	dir, err := os.MkdirTemp("", "oo-sidecar-demo-")
	if err != nil {
		return exit{1, err}
	}
	defer os.RemoveAll(dir)
	tool, err := newTill()
	if err != nil {
		return exit{1, err}
	}
	defer tool.server.Close()
	file := filepath.Join(dir, "oo-sidecar.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, text, filepath.Join(dir, "store"), tool.address), 0o600); err != nil {
		return exit{1, err}
	}
	cfg, _, err := config.Load(file, nil, nil)
	if err != nil {
		return err
	}
	s, err := newSidecar(cfg, newLogger(cfg.Log, a.stderr))
	if err != nil {
		return exit{1, err}
	}
	if err := s.listen(); err != nil {
		return exit{1, err}
	}
	s.start()
	err = (&story{out: a.stdout, s: s, tool: tool, config: file}).tell(ctx)
	if end := s.shutdown(); err == nil {
		err = end
	}
	if err != nil {
		return exit{1, err}
	}
	return a.demoVerify(ctx, file)
}

// demoVerify runs `audit verify` on the store that the story left.
func (a *app) demoVerify(ctx context.Context, file string) error {
	var out, errs bytes.Buffer
	code := run(ctx, []string{"audit", "verify", "--config", file}, strings.NewReader(""), &out, &errs)
	first, _, _ := strings.Cut(strings.TrimSpace(out.String()+errs.String()), "\n")
	fmt.Fprintf(a.stdout, "5. audit verify                     exit %d: %s\n", code, first)
	if code != 0 {
		return exit{1, nil}
	}
	return nil
}

// till is the demo's tool: it takes a charge and counts it.
type till struct {
	server  *http.Server
	address string
	charges atomic.Int64
}

func newTill() (*till, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	t := &till{address: ln.Addr().String()}
	t.server = &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"charge":"ch_%d"}`, t.charges.Add(1))
	})}
	go t.server.Serve(ln)
	return t, nil
}

// story makes the calls and prints what came of them.
type story struct {
	out    io.Writer
	s      *sidecar
	tool   *till
	config string
	err    error
}

func (st *story) tell(ctx context.Context) error {
	st.call(ctx, "1. first call, $0.50", 9999, scene{200, "executed", `{"charge":"ch_1"}`, 1})
	st.call(ctx, "2. the same call again", 9999, scene{200, "dedup", `{"charge":"ch_1"}`, 1})
	st.call(ctx, "   another call, $0.50", 5000, scene{200, "executed", `{"charge":"ch_2"}`, 2})
	st.call(ctx, "3. a third one: budget is $1.00", 7000, scene{429, "blocked", "max_spend_usd_per_day_exceeded", 2})
	if st.err != nil {
		return st.err
	}
	if _, err := (switchboard{st.s}).Disable(ctx, "demo-agent", "demo", "demo"); err != nil {
		return err
	}
	st.call(ctx, "4. kill switch, then any call", 1, scene{403, "blocked", "agent_disabled", 2})
	return st.err
}

// scene is what a step of the story comes to.
type scene struct {
	status   int
	decision string
	gist     string
	charges  int64 // that the tool has taken until then
}

func (s scene) String() string {
	return fmt.Sprintf("%d %-8s %s (the tool ran %d times)", s.status, s.decision, s.gist, s.charges)
}

func (st *story) call(ctx context.Context, what string, amount int, want scene) {
	if st.err != nil {
		return
	}
	url := "http://" + st.s.listeners.proxy.Addr().String() + "/tools/payments.charge"
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(fmt.Sprintf(`{"amount":%d}`, amount)))
	if err != nil {
		st.err = err
		return
	}
	r.Header.Set("Content-Type", "application/json")
	resp, err := direct(10 * time.Second).Do(r)
	if err != nil {
		st.err = err
		return
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		st.err = err
		return
	}
	got := scene{resp.StatusCode, resp.Header.Get("X-OnceOnly-Decision"), gist(body), st.tool.charges.Load()}
	fmt.Fprintf(st.out, "%-35s %s\n", what, got)
	if got != want {
		st.err = fmt.Errorf("the demo went wrong: this step should have come to: %s", want)
	}
}

// gist is an answer in a few words: a refusal's code, or the body itself.
func gist(body []byte) string {
	var problem struct{ Code string }
	if json.Unmarshal(body, &problem) == nil && problem.Code != "" {
		return problem.Code
	}
	return string(body)
}
