package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/oo-sidecar/oo-sidecar/config"
)

func newServe(a *app) *cobra.Command {
	forRuns := false
	cmd := &cobra.Command{
		Use: "serve", Short: "Run the sidecar", Args: cobra.NoArgs,
		Long: "Run the sidecar until SIGTERM or SIGINT, then let running calls finish (proxy.drain).\n" +
			"A change of the configuration file, or SIGHUP, reloads it; an invalid one changes nothing.",
		RunE: func(cmd *cobra.Command, _ []string) error { return a.serve(cmd.Context(), forRuns) },
	}
	cmd.Flags().BoolVar(&forRuns, forRunsFlag, false, "as `run` starts it: interception on, and an end with the last run")
	_ = cmd.Flags().MarkHidden(forRunsFlag)
	return cmd
}

// forRunsFlag is the flag of serve by which `run` starts it.
const forRunsFlag = "for-runs"

// serve runs a sidecar until ctx ends or, if it is for the children of `run`, until the last of them has.
func (a *app) serve(ctx context.Context, forRuns bool) error {
	path, builtin, err := config.Locate(a.config)
	if err != nil {
		return err
	}
	var flags map[string]string
	if forRuns {
		flags = runFlags(builtin)
	}
	load := func() (*config.Config, []config.Problem, error) { return config.Load(path, os.Environ(), flags) }
	cfg, warnings, err := load()
	if err != nil {
		return err
	}
	oneMore()
	tending, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	go tend(tending)
	s, err := newSidecar(cfg, newLogger(cfg.Log, a.stderr))
	if err != nil {
		return exit{1, err}
	}
	debug.FreeOSMemory() // what reading the journal left behind
	for _, w := range warnings {
		s.log.Warn("configuration: " + w.Error())
	}
	var over <-chan struct{}
	if forRuns {
		s.members = newMembers(cfg.Agent.ID)
		defer s.members.await(firstRun).Stop()
		over = s.members.Done()
	}
	if err := s.listen(); err != nil {
		s.close(context.Background())
		return exit{1, err}
	}
	fmt.Fprint(a.stdout, s.welcome())

	changed := make(chan string, 1)
	notify := func(why string) {
		select {
		case changed <- why:
		default:
		}
	}
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	if path != "" {
		if err := config.Watch(ctx, path, func() { notify("file changed") }); err != nil {
			s.log.Warn("the configuration file is not watched; SIGHUP reloads it", "error", err.Error())
		}
	}
	failed := s.start()
	for {
		select {
		case <-ctx.Done():
			return s.shutdown()
		case <-over:
			return s.shutdown()
		case err := <-failed:
			s.shutdown()
			return exit{1, err}
		case <-hup:
			s.reload(load, "SIGHUP")
		case why := <-changed:
			s.reload(load, why)
		}
	}
}
