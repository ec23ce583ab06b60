package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func newCompletion(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "completion bash|zsh|fish|powershell", Short: "Print a completion script for a shell",
		Long: "Print a completion script for a shell, for example:\n\n" +
			"  source <(oo-sidecar completion bash)\n" +
			"  oo-sidecar completion zsh > \"${fpath[1]}/_oo-sidecar\"\n" +
			"  oo-sidecar completion fish | source",
		Args:                  cobra.ExactArgs(1),
		ValidArgs:             []string{"bash", "zsh", "fish", "powershell"},
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(a.stdout, true)
			case "zsh":
				return root.GenZshCompletion(a.stdout)
			case "fish":
				return root.GenFishCompletion(a.stdout, true)
			case "powershell":
				return root.GenPowerShellCompletionWithDesc(a.stdout)
			}
			return exit{2, fmt.Errorf("%q is not a shell it knows; write bash, zsh, fish or powershell", args[0])}
		},
	}
}
