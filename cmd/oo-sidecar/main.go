// Command oo-sidecar stands beside an AI agent and governs its tool calls.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// app is what every command shares.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	config         string // --config; empty: look where serve looks
	builtin        bool   // a sidecar was looked for by the built-in configuration, no file being there
}

// exit is an error that chooses the process's exit code; its message has been printed already when err is nil.
type exit struct {
	code int
	err  error
}

func (e exit) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}
func (e exit) Unwrap() error { return e.err }

// wayOn adds to what the command line's parser says of wrong arguments how the command is written.
func wayOn(cmd *cobra.Command, said string) string {
	said = strings.TrimSpace(said)
	switch {
	case strings.HasPrefix(said, "required flag(s) "):
		return said + "; see " + cmd.CommandPath() + " --help"
	case strings.HasPrefix(said, "unknown command ") && cmd.HasParent():
		word, _, _ := strings.Cut(strings.TrimPrefix(said, "unknown command "), " for ")
		return word + " is not an argument of " + cmd.CommandPath() + "; write: " + cmd.UseLine()
	case strings.HasPrefix(said, "accepts "):
		return "these are not the arguments of " + cmd.CommandPath() + "; write: " + cmd.UseLine()
	case strings.HasPrefix(said, "unknown command "):
		return said + "\nsee " + cmd.CommandPath() + " --help"
	}
	return said
}

// run executes one command line. Exit codes: 0 fine, 1 the answer is bad news, 2 usage or configuration.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr}
	root := newRoot(a)
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	code := 2
	if e, ok := errors.AsType[exit](err); ok {
		code = e.code
	}
	if msg := wayOn(cmd, err.Error()); msg != "" {
		fmt.Fprintln(stderr, "oo-sidecar: "+msg)
	}
	if _, nobody := errors.AsType[silence](err); nobody && a.builtin {
		fmt.Fprintln(stderr, "note: this is by the built-in configuration, as there is no oo-sidecar.yaml here; --config FILE names the one of the sidecar that runs")
	}
	return code
}
