package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/spf13/cobra"
)

// agentState is what the api says of an agent.
type agentState struct {
	AgentID        string  `json:"agent_id"`
	IsEnabled      bool    `json:"is_enabled"`
	DisabledReason *string `json:"disabled_reason"`
	DisabledAt     *string `json:"disabled_at"`
	Pending        string  `json:"pending,omitempty"`
}

func newAgent(a *app) *cobra.Command {
	return group("agent", "List agents, switch one off and on again", newAgentList(a), newAgentDisable(a), newAgentEnable(a))
}

func newAgentList(a *app) *cobra.Command {
	var o output
	cmd := &cobra.Command{
		Use: "ls", Short: "List the agents that have a policy, a call or a switch", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			agents := []agentState{}
			if err := c.call(cmd.Context(), "GET", "/v1/agents", nil, &agents); err != nil {
				return err
			}
			t := &table{head: []string{"AGENT", "STATE", "SINCE", "REASON"}}
			for _, s := range agents {
				t.add(s.AgentID, s.word(), text(s.DisabledAt), text(s.DisabledReason))
			}
			return o.write(a.stdout, agents, t, "no agents yet")
		},
	}
	o.register(cmd)
	return cmd
}

func newAgentDisable(a *app) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: "disable ID", Short: "Refuse every further call of an agent, or of all with '*'", Args: cobra.ExactArgs(1),
		Long: "Refuse every further call of an agent, or of all with '*'. It binds at once and survives restarts. Calls that run go on to their end and are recorded; the agent's tunnels are closed.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if strings.TrimSpace(reason) == "" {
				return errors.New("--reason is empty; say why, it stands in the audit")
			}
			return a.turn(cmd, args[0], "disable", reason)
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why; it stands in the audit (required)")
	cmd.MarkFlagRequired("reason")
	return cmd
}

func newAgentEnable(a *app) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: "enable ID", Short: "Let an agent call again", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.turn(cmd, args[0], "enable", reason) },
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why; it stands in the audit")
	return cmd
}

func (a *app) turn(cmd *cobra.Command, id, verb, reason string) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	a.doubt(cmd.Context(), c, id)
	var s agentState
	path := "/v1/agents/" + url.PathEscape(id) + "/" + verb
	if err := c.call(cmd.Context(), "POST", path, map[string]string{"reason": reason}, &s); err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.stdout, "agent %s is %s\n", printable(s.AgentID), s.word())
	switch {
	case s.Pending != "":
		fmt.Fprintf(a.stderr, "note: %s\n", printable(s.Pending))
	case verb == "enable" && !s.IsEnabled:
		fmt.Fprintf(a.stderr, "note: its own switch here is on again; it stays off: %s\n", printable(text(s.DisabledReason)))
	case verb == "enable" && id != "*":
		a.overruled(cmd.Context(), c)
	}
	return err
}

// overruled says on stderr when the switch of all agents still stops the one that was just enabled.
func (a *app) overruled(ctx context.Context, c *client) {
	var agents []agentState
	if c.call(ctx, "GET", "/v1/agents", nil, &agents) != nil {
		return
	}
	for _, s := range agents {
		if s.AgentID == "*" && !s.IsEnabled {
			fmt.Fprintf(a.stderr, "note: all agents are switched off still (%s); oo-sidecar agent enable '*' lets them call again\n", printable(text(s.DisabledReason)))
		}
	}
}

// doubt says on stderr when nobody is known by the id: a switch for a misspelt agent stops nobody.
func (a *app) doubt(ctx context.Context, c *client, id string) {
	var agents []agentState
	if id == "*" || c.call(ctx, "GET", "/v1/agents", nil, &agents) != nil {
		return
	}
	known := make([]string, 0, len(agents))
	for _, s := range agents {
		if s.AgentID == id {
			return
		}
		known = append(known, printable(s.AgentID))
	}
	fmt.Fprintf(a.stderr, "note: no agent of this configuration is called %s; known are %s. The switch is kept for when one is.\n", printable(id), strings.Join(known, ", "))
}

func (s *agentState) word() string {
	if s.IsEnabled {
		return "enabled"
	}
	return "disabled"
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
