package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/oo-sidecar/oo-sidecar/config"
)

func newCheck(a *app) *cobra.Command {
	var schema bool
	cmd := &cobra.Command{
		Use: "check [FILE]", Short: "Validate a configuration", Args: cobra.MaximumNArgs(1),
		Long: "Validate a configuration: FILE, else --config, else where serve looks.\n" +
			"Every problem is printed as file:line:column: key: what is wrong; how to mend it.\n" +
			"Exit code 0 when it holds, also with warnings, and 2 when it does not.",
		RunE: func(_ *cobra.Command, args []string) error {
			if schema {
				_, err := fmt.Fprint(a.stdout, config.Schema())
				return err
			}
			named := a.config
			if len(args) == 1 {
				named = args[0]
			}
			return a.check(named)
		},
	}
	cmd.Flags().BoolVar(&schema, "schema", false, "print the JSON Schema of the configuration for editors, and check nothing")
	return cmd
}

// check loads what serve would load and says what it found.
func (a *app) check(named string) error {
	path, builtin, err := config.Locate(named)
	if err != nil {
		return exit{2, err}
	}
	c, warnings, err := config.Load(path, os.Environ(), nil)
	for _, w := range warnings {
		fmt.Fprintln(a.stderr, "warning: "+w.Error())
	}
	if err != nil {
		for _, p := range config.Problems(err) {
			fmt.Fprintln(a.stderr, p.Error())
		}
		return exit{code: 2}
	}
	if builtin {
		path = "no file; the built-in configuration"
	}
	_, err = fmt.Fprintf(a.stdout, "%s: ok (agent %s, %s, %s, unregistered: %s)\n", path, c.Agent.ID,
		count(len(c.Tools), "tool", "tools"), count(len(c.Policies), "policy", "policies"), c.Proxy.Unregistered)
	return err
}

// count is a number with its noun.
func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
