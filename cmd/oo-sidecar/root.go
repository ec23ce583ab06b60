package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

// newRoot puts the commands together.
func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:           "oo-sidecar",
		Short:         "Governs an agent's tool calls: at most once, within budget, signed, audited",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.Version = buildVersion() // its line is cobra's own: a template for it would make the binary 10 MB larger
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return exit{2, fmt.Errorf("%w; see %s --help", err, cmd.CommandPath())}
	})
	root.PersistentFlags().StringVar(&a.config, "config", "", "configuration file (default ./oo-sidecar.yaml, then /etc/oo-sidecar/config.yaml, then built-in)")
	root.AddCommand(newServe(a), newDemo(a), newExplain(a))
	root.AddCommand(newInit(a), newCheck(a), newCompletion(a), newVersion(a))
	root.AddCommand(newVerifySignature(a))
	root.AddCommand(newAgent(a), newUnknown(a), newAudit(a), newApply(a), newHealth(a))
	root.AddCommand(newRun(a), newEnv(a), newDoctor(a), newFetch(a), newCA(a))
	root.AddCommand(newInject(a), newInjector(a))
	return root
}
