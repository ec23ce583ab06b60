package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// child is the program of a `run`.
type child struct {
	program        string // path
	argv           []string
	env            []string
	stdin          io.Reader
	stdout, stderr io.Writer
}

// Exit codes of a command that did not run, as shells have them.
const (
	notExecutable = 126
	notFound      = 127
)

// find is the program that name stands for, looked for as a shell does.
func find(name string) (string, error) {
	path, err := exec.LookPath(name)
	switch {
	case err == nil || errors.Is(err, exec.ErrDot):
		return path, nil
	case errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist):
		return "", exit{notFound, fmt.Errorf("run: %s: no such command", name)}
	}
	return "", exit{notExecutable, fmt.Errorf("run: %s: cannot be run: %w", name, reason(err))}
}

func reason(err error) error {
	if inner := errors.Unwrap(err); inner != nil {
		return inner
	}
	return err
}

// passed are the signals that a child gets when its `run` gets them.
var passed = []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2}

// run starts the child, passes signals on and waits. The code is the child's, or 128+n when signal n ended it.
func (c *child) run() (code int, err error) {
	cmd := exec.Command(c.program, c.argv[1:]...)
	cmd.Args[0] = c.argv[0]
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = c.env, c.stdin, c.stdout, c.stderr
	signals := make(chan os.Signal, 16)
	for _, s := range passed {
		if !signal.Ignored(s) { // nohup's child stays deaf
			signal.Notify(signals, s)
		}
	}
	defer signal.Stop(signals)
	defer tie(cmd)()
	if err := cmd.Start(); err != nil {
		return 0, exit{notExecutable, fmt.Errorf("run: %s: cannot be run: %w", c.program, reason(err))}
	}
	done := make(chan struct{})
	go pass(cmd.Process, signals, done)
	err = cmd.Wait()
	close(done)
	if _, ended := errors.AsType[*exec.ExitError](err); err != nil && !ended {
		return 0, exit{1, fmt.Errorf("run: %w", err)}
	}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return cmd.ProcessState.ExitCode(), nil
}

func pass(p *os.Process, signals <-chan os.Signal, done <-chan struct{}) {
	for {
		select {
		case s := <-signals:
			if !typed(s) {
				_ = p.Signal(s)
			}
		case <-done:
			return
		}
	}
}

// typed says whether a signal is one that the terminal has sent to the child already: Ctrl-C and Ctrl-\ go to every
// process in the foreground.
func typed(s os.Signal) bool {
	if s != syscall.SIGINT && s != syscall.SIGQUIT {
		return false
	}
	for fd := range 3 {
		if group, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP); err == nil {
			return group == unix.Getpgrp()
		}
	}
	return false
}

// cutVariable cuts NAME=value.
func cutVariable(entry string) (name, value string, ok bool) { return strings.Cut(entry, "=") }
