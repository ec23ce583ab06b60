package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/oo-sidecar/oo-sidecar/config"
	"github.com/oo-sidecar/oo-sidecar/internal/api"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

func newApply(a *app) *cobra.Command {
	var file string
	var o output
	cmd := &cobra.Command{
		Use: "apply -f FILE", Short: "Have the tools, policies and operators' keys of a file hold, on every sidecar of the store", Args: cobra.NoArgs,
		Long: "Have the tools, the policies and the operators' api.keys of FILE hold, which is written like a configuration file; the rest\n" +
			"of it is not looked at. Of a key only the digest is kept; other roles' keys stand in each sidecar's own file.\n" +
			"The running sidecar judges all of them together first. What FILE does not name stays as it is.\n" +
			"With store.kind redis every sidecar of the store takes them; secrets that are not in the sidecars' own files are sealed with store.seal_key.\n" +
			"An entry that somebody else changes at the same time is an error, and the command can be repeated.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := definitions(file)
			if err != nil {
				return err
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			applied := []api.Applied{}
			if err := c.call(cmd.Context(), "POST", "/v1/apply", d, &applied); err != nil {
				return err
			}
			t := &table{head: []string{"KIND", "NAME", "SCOPE", "CHANGE"}}
			for _, e := range applied {
				t.add(string(e.Kind), e.Name, e.Scope, e.Change)
			}
			return o.write(a.stdout, applied, t, file+" names no tools, policies or operators' keys")
		},
	}
	cmd.Flags().StringVarP(&file, "filename", "f", "", "file with tools, policies and operators' keys (required)")
	cmd.MarkFlagRequired("filename")
	o.register(cmd)
	return cmd
}

// definitions reads what a file says of tools, policies and operators' keys.
func definitions(file string) (*api.Definitions, error) {
	if file == "-" {
		return nil, exit{2, errors.New("-f -: apply reads a file, whose name and lines its errors give; write -f FILE, or -f /dev/stdin")}
	}
	cfg, _, err := config.Load(file, os.Environ(), nil)
	if err != nil {
		return nil, exit{2, err}
	}
	d := &api.Definitions{}
	for _, t := range cfg.Tools {
		one, err := definition(t)
		if err != nil {
			return nil, fmt.Errorf("tool %s: %w", t.Name, err)
		}
		d.Tools = append(d.Tools, one)
	}
	for _, k := range cfg.API.Keys {
		if !isOperator(k) {
			continue
		}
		spec, err := config.KeySpec(k)
		if err != nil {
			return nil, fmt.Errorf("key %s: %w", k.Name, err)
		}
		d.Keys = append(d.Keys, spec)
	}
	for _, p := range cfg.Policies {
		spec, err := config.PolicySpec(p)
		if err != nil {
			return nil, fmt.Errorf("policy %s: %w", p.AgentID, err)
		}
		d.Policies = append(d.Policies, spec)
	}
	return d, nil
}

func definition(t tool.Config) (api.ToolDefinition, error) {
	spec, err := config.ToolSpec(t)
	d := api.ToolDefinition{Spec: spec, Headers: t.Headers}
	if t.Auth != nil {
		d.Auth = &api.Auth{Type: t.Auth.Type, Scheme: t.Auth.Scheme, Secrets: t.Auth.Secrets}
	}
	return d, err
}
