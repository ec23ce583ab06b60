package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/oo-sidecar/oo-sidecar/config"
	"github.com/oo-sidecar/oo-sidecar/internal/intercept"
	"github.com/oo-sidecar/oo-sidecar/proxy"
)

// caOptions says where the local CA of a configuration lives and for whom it signs.
func caOptions(cfg *config.Config) intercept.Options {
	in := cfg.Proxy.Intercept
	o := intercept.Options{Dir: in.CADir, Out: in.CAOut, Memory: in.CAKey == "memory", Environ: os.Environ()}
	if o.Dir == "" {
		o.Dir = filepath.Join(cfg.Store.Embedded.Dir, "ca")
	}
	if len(in.Hosts) > 0 && in.Hosts[0] != "all" && in.Hosts[0] != "registered" {
		o.Hosts = append(slices.Clone([]string(in.Hosts)), proxy.ProbeHost) // a name that leads nowhere but here
	}
	return o
}

// useCA opens the CA that a configuration asks for.
func (s *sidecar) useCA(cfg *config.Config) error {
	if !cfg.Proxy.Intercept.Enabled {
		return nil
	}
	o := caOptions(cfg)
	ca, err := intercept.Open(o)
	if err != nil {
		return fmt.Errorf("proxy.intercept: %w", err)
	}
	if _, err := trustStore(o.BundlePath()); err != nil {
		s.log.Warn("Java's clients cannot be made to trust the local CA", "error", err.Error())
	}
	s.ca.Store(ca)
	return nil
}

func newCA(a *app) *cobra.Command {
	var bundle bool
	path := &cobra.Command{
		Use: "path", Short: "Print the path of the CA's certificate", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return a.showCA(bundle, false) },
	}
	show := &cobra.Command{
		Use: "print", Short: "Print the CA's certificate as PEM", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return a.showCA(bundle, true) },
	}
	for _, cmd := range []*cobra.Command{path, show} {
		cmd.Flags().BoolVar(&bundle, "bundle", false, "the merged bundle instead of the CA's certificate alone")
	}
	ca := group("ca", "Show the local CA by which https is governed", path, show)
	ca.Long = "The local CA signs for the hosts whose tunnels proxy.intercept opens. Clients trust it by a file:\n" +
		"the bundle holds it together with the system's roots, for variables that replace those (SSL_CERT_FILE).\n" +
		"It is made when it is not there. Never add it to a system's or a browser's trust store."
	return ca
}

// showCA prints path or contents of what clients need, made when it is not there.
func (a *app) showCA(bundle, contents bool) error {
	file, _, err := config.Locate(a.config)
	if err != nil {
		return err
	}
	cfg, _, err := config.Load(file, os.Environ(), nil)
	if err != nil {
		return err
	}
	o := caOptions(cfg)
	switch {
	case o.Published():
	case o.Memory:
		return exit{1, errors.New(o.CertificatePath() + " is not there; with ca_key: memory a running sidecar writes it, so start serve first")}
	default:
		if _, err := intercept.Open(o); err != nil {
			return exit{1, err}
		}
	}
	path := o.CertificatePath()
	if bundle {
		path = o.BundlePath()
	}
	if !cfg.Proxy.Intercept.Enabled {
		fmt.Fprintln(a.stderr, "proxy.intercept.enabled is false: a sidecar with this configuration opens no tunnels")
	}
	if !contents {
		_, err := fmt.Fprintln(a.stdout, path)
		return err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return exit{1, err}
	}
	_, err = a.stdout.Write(data)
	return err
}
