package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/oo-sidecar/oo-sidecar/internal/inject"
)

func newInject(a *app) *cobra.Command {
	var file string
	var o injection
	cmd := &cobra.Command{
		Use: "inject -f FILE", Short: "Print a Kubernetes manifest with the sidecar added", Args: cobra.NoArgs,
		Long: "Print the manifests of FILE (YAML or JSON, many documents; - is standard input) with the sidecar in every pod, and the\n" +
			"proxy and CA variables and the CA's volume in every other container. Comments and order are kept; documents that hold\n" +
			"no pods pass as they are; what was injected before is brought up to date, and its own output comes out unchanged.\n" +
			"A pod in which the sidecar's rules would not hold is refused, with line, field and mend.\n\n" +
			"  oo-sidecar inject -f deployment.yaml --image registry.example/oo-sidecar:1.0 | kubectl apply -f -\n" +
			"  kustomize build . | oo-sidecar inject -f -\n\n" +
			"Annotations of the pod win over the options:\n" +
			"  " + inject.Enable + ": \"false\"            leave the pod alone\n" +
			"  " + inject.Skip + ": a,b      containers that are not governed\n" +
			"  " + inject.ConfigMap + ", " + inject.Secret + ", " + inject.State + ", " + inject.Mode + ", " + inject.EgressLock,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.inject(file, o.options(cmd)) },
	}
	cmd.Flags().StringVarP(&file, "filename", "f", "", "the manifest; - for standard input")
	_ = cmd.MarkFlagRequired("filename")
	_ = cmd.MarkFlagFilename("filename", "yaml", "yml", "json")
	o.register(cmd)
	return cmd
}

// injection are the flags that inject and injector have in common.
type injection struct {
	inject.Options
	lock bool
}

func (i *injection) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&i.Image, "image", "", "the sidecar's image; default what the pod has, else oo-sidecar:0.0.0 for kustomize to name")
	f.StringVar(&i.LockImage, "lock-image", "", "the egress lock's image")
	f.StringVar(&i.ConfigMap, "config-map", "", "ConfigMap with config.yaml; default oo-sidecar")
	f.StringVar(&i.Secret, "secret", "", "Secret mounted at /run/secrets/oo-sidecar; default oo-sidecar")
	f.StringVar(&i.State, "state", "", "the journal's volume: emptydir (the default; it goes with the pod) or pvc:NAME; a volume oo-sidecar-state that the pod has stays")
	f.StringVar(&i.Mode, "mode", "", "native (the default; Kubernetes 1.29 and later) or classic")
	f.BoolVar(&i.lock, "egress-lock", false, "let only the sidecar leave the pod (an init container with NET_ADMIN)")
	_ = cmd.RegisterFlagCompletionFunc("mode", cobra.FixedCompletions([]string{inject.Native, inject.Classic}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("state", cobra.FixedCompletions([]string{"emptydir", "pvc:"}, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveNoSpace))
}

// options are what was said on the command line.
func (i *injection) options(cmd *cobra.Command) inject.Options {
	if cmd.Flags().Changed("egress-lock") {
		i.EgressLock = &i.lock
	}
	return i.Options
}

// inject prints the file with the sidecar in it, or nothing.
func (a *app) inject(file string, o inject.Options) error {
	if err := o.Check(); err != nil {
		return exit{2, err}
	}
	name, in := file, a.stdin
	if file == "-" {
		name = "standard input"
	} else {
		f, err := os.Open(file)
		if err != nil {
			return exit{2, err}
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(in)
	if err != nil {
		return exit{2, err}
	}
	out, notes, err := inject.File(name, text, o)
	for _, n := range notes {
		fmt.Fprintln(a.stderr, "oo-sidecar: "+n)
	}
	if err != nil {
		return exit{2, err}
	}
	_, err = a.stdout.Write(out)
	return err
}
