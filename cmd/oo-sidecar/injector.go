package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/oo-sidecar/oo-sidecar/config"
	"github.com/oo-sidecar/oo-sidecar/internal/injector"
)

func newInjector(a *app) *cobra.Command {
	var c injector.Config
	var o injection
	cmd := &cobra.Command{
		Use: "injector", Short: "Run the Kubernetes admission webhook that adds the sidecar to pods", Args: cobra.NoArgs,
		Long: "Answer the API server's reviews of new pods with the patch that `inject` would make; a pod that it would refuse is\n" +
			"denied. examples/k8s/injector has the manifests: it asks for the namespaces with the label oo-sidecar/inject: enabled\n" +
			"and never for kube-system. Annotations of a pod are those of inject.\n\n" +
			"Without --tls-cert it makes and renews its certificates itself: their authority lies in a Secret that all replicas\n" +
			"share, and the webhook configuration is told to trust it.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c.Options, c.Log = o.options(cmd), newLogger(config.LogConfig{Level: "info"}, a.stderr)
			i, err := injector.New(c)
			if err != nil {
				return exit{2, err}
			}
			reviews, probes := i.Addresses()
			fmt.Fprintf(a.stdout, "reviews https://%s%s\nhealth  http://%s   /livez /readyz?verbose\n", reviews, injector.Path, probes)
			if err := i.Serve(cmd.Context()); err != nil {
				return exit{1, err}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&c.Listen, "listen", "[::]:8443", "where reviews are heard, with TLS")
	f.StringVar(&c.Health, "health", "[::]:4782", "where probes are heard")
	f.StringVar(&c.CertFile, "tls-cert", "", "certificate that somebody else renews, such as cert-manager")
	f.StringVar(&c.KeyFile, "tls-key", "", "its key")
	f.StringVar(&c.Namespace, "namespace", "", "the injector's own; default that of its service account")
	f.StringVar(&c.Service, "service", "oo-sidecar-injector", "the Service by which the API server calls")
	f.StringVar(&c.Secret, "authority-secret", "oo-sidecar-injector", "the Secret for the injector's own authority; it must exist")
	f.StringVar(&c.Webhook, "webhook", "oo-sidecar-injector", "the MutatingWebhookConfiguration that is to trust it")
	f.StringVar(&c.ServiceAccount, "service-account", injector.ServiceAccount, "directory of the service account's token and ca.crt")
	f.BoolVar(&o.Enforce, "enforce", false, "deny pods whose annotations opt out")
	o.register(cmd)
	return cmd
}
