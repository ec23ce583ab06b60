package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/oo-sidecar/oo-sidecar/internal/api"
)

func newUnknown(a *app) *cobra.Command {
	return group("unknown", "List and resolve calls of which nobody knows whether they ran", newUnknownList(a), newUnknownShow(a), newUnknownResolve(a))
}

func newUnknownList(a *app) *cobra.Command {
	var o output
	cmd := &cobra.Command{
		Use: "ls", Short: "List calls whose outcome is unknown, oldest first", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, calls, err := a.unknowns(cmd, "")
			if err != nil {
				return err
			}
			t := &table{head: []string{"KEY", "TOOL", "AGENT", "CLAIMED", "STATE", "ATTEMPT", "SPEND USD"}}
			for _, c := range calls {
				t.add(c.Key[:min(16, len(c.Key))], c.Tool, c.AgentID, c.Claimed.Format(time.RFC3339), stateWord(&c), fmt.Sprint(c.Attempt), c.SpendUSD)
			}
			return o.write(a.stdout, calls, t, "no outcome is unknown")
		},
	}
	o.register(cmd)
	return cmd
}

func newUnknownShow(a *app) *cobra.Command {
	var o output
	cmd := &cobra.Command{
		Use: "show KEY", Short: "Show one call; KEY may be a prefix that is unique", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, call, err := a.unknown(cmd, args[0])
			if err != nil {
				return err
			}
			if o == "json" {
				return writeJSON(a.stdout, []api.UnknownCall{*call})
			}
			return describe(a.stdout, call)
		},
	}
	o.register(cmd)
	return cmd
}

func newUnknownResolve(a *app) *cobra.Command {
	q := api.ResolveRequest{}
	var file string
	cmd := &cobra.Command{
		Use: "resolve KEY", Short: "Say how an unknown call ended", Args: cobra.ExactArgs(1),
		Long: `Say how an unknown call ended, after you have looked at the tool.

done: it ran. Duplicates get 410, or the answer in --answer, and it does not run again within its window.
not-executed: it did not run. Its key is free again and what it would have cost is given back.`,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if q.Answer, err = a.given(file); err != nil {
				return exit{2, err}
			}
			return a.resolve(cmd, args[0], &q)
		},
	}
	f := cmd.Flags()
	f.StringVar(&q.Outcome, "outcome", "", "done or not-executed (required)")
	f.StringVar(&q.Why, "why", "", "how you know; it stands in the audit (required)")
	f.StringVar(&file, "answer", "", "file with the answer's body that duplicates get from now on (- reads the input)")
	f.BoolVar(&q.Force, "force", false, "not-executed although its holder lives or the tool may still be at it")
	cmd.MarkFlagRequired("outcome")
	cmd.MarkFlagRequired("why")
	cmd.RegisterFlagCompletionFunc("outcome", cobra.FixedCompletions([]string{"done", "not-executed"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// resolve shows the call before it acts, and acts only on the call that it has shown.
func (a *app) resolve(cmd *cobra.Command, key string, q *api.ResolveRequest) error {
	if q.Outcome != "done" && q.Outcome != "not-executed" {
		return exit{2, fmt.Errorf("--outcome %q is neither done nor not-executed", q.Outcome)}
	}
	if strings.TrimSpace(q.Why) == "" {
		return exit{2, errors.New("--why is empty; say how you know, it stands in the audit")}
	}
	c, call, err := a.unknown(cmd, key)
	if err != nil {
		return err
	}
	if err := describe(a.stdout, call); err != nil {
		return err
	}
	q.Key, q.Fence = call.Key, call.Fence
	if err := c.call(cmd.Context(), "POST", "/v1/unknown/resolve", q, nil); err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.stdout, "resolved as %s\n", q.Outcome)
	return err
}

func (a *app) unknowns(cmd *cobra.Command, prefix string) (*client, []api.UnknownCall, error) {
	c, err := a.connect()
	if err != nil {
		return nil, nil, err
	}
	calls := []api.UnknownCall{}
	err = c.call(cmd.Context(), "GET", "/v1/unknown?key="+url.QueryEscape(prefix), nil, &calls)
	return c, calls, err
}

// unknown finds the one call whose key begins with prefix.
func (a *app) unknown(cmd *cobra.Command, prefix string) (*client, *api.UnknownCall, error) {
	if prefix == "" {
		return nil, nil, exit{2, fmt.Errorf("give a key; `oo-sidecar unknown ls` lists them")}
	}
	c, calls, err := a.unknowns(cmd, prefix)
	switch {
	case err != nil:
		return nil, nil, err
	case len(calls) == 0:
		return nil, nil, exit{1, fmt.Errorf("no unknown call has a key that begins with %q; `oo-sidecar unknown ls` lists them", prefix)}
	case len(calls) > 1:
		return nil, nil, exit{2, fmt.Errorf("%d unknown calls have keys that begin with %q; give more of the key", len(calls), prefix)}
	}
	return c, &calls[0], nil
}

// given reads the answer that duplicates shall get; no file is no answer.
func (a *app) given(file string) (*api.GivenAnswer, error) {
	if file == "" {
		return nil, nil
	}
	read := func() ([]byte, error) { return os.ReadFile(file) }
	if file == "-" {
		read = func() ([]byte, error) { return io.ReadAll(a.stdin) }
	}
	body, err := read()
	if err != nil {
		return nil, fmt.Errorf("--answer: %w", err)
	}
	kind := "application/octet-stream"
	if json.Valid(body) {
		kind = "application/json"
	} else if utf8.Valid(body) {
		kind = "text/plain; charset=utf-8"
	}
	return &api.GivenAnswer{Status: 200, ContentType: kind, Body: body}, nil
}

func describe(w io.Writer, c *api.UnknownCall) error {
	t := &table{head: []string{"key", c.Key}}
	t.add("tool", c.Tool+" ("+c.Effect+")")
	t.add("agent", c.AgentID)
	t.add("tenant", c.Tenant)
	t.add("claimed", c.Claimed.Format(time.RFC3339))
	if c.Ended != nil {
		t.add("unknown since", c.Ended.Format(time.RFC3339))
	}
	t.add("state", stateWord(c))
	t.add("attempts", fmt.Sprint(c.Attempt))
	t.add("tool's timeout", (time.Duration(c.TimeoutMS) * time.Millisecond).String())
	t.add("reserved", c.SpendUSD+" USD")
	t.add("request", c.RequestID)
	t.add("fence", fmt.Sprint(c.Fence))
	return t.write(w)
}

func stateWord(c *api.UnknownCall) string {
	if c.Ended == nil {
		return "running"
	}
	return "unknown"
}
