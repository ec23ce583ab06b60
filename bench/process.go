package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a child that ends with us, however we end.
type process struct {
	cmd  *exec.Cmd
	name string
	log  string // file of its standard output and error
	done chan struct{}
}

// start runs a command with its output in a log file in dir. Call it from the main goroutine only.
func start(dir, name string, command ...string) (*process, error) {
	p := &process{name: name, log: filepath.Join(dir, name+".log"), done: make(chan struct{})}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p.cmd = exec.Command(command[0], command[1:]...)
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.Env = log, log, environment()
	// TERM and not KILL: of nginx it must end the workers too. An own group, so that ^C reaches only us.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	go func() { _ = p.cmd.Wait(); close(p.done) }()
	return p, nil
}

// environment is ours without what would configure a sidecar.
func environment() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "OO_") })
}

// stop asks the process to end and kills it when it does not within ten seconds.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(10 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// failure tells that a process ended, with the end of its log.
func (p *process) failure() error {
	log, _ := os.ReadFile(p.log)
	return fmt.Errorf("%s ended: %s", p.name, bytes.TrimSpace(log[max(0, len(log)-600):]))
}

// startRole runs this program as a server, which prints its address first.
func startRole(ctx context.Context, dir string, role ...string) (*process, string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, "", err
	}
	p, err := start(dir, role[0], append([]string{self}, role...)...)
	if err != nil {
		return nil, "", err
	}
	for ctx.Err() == nil && !p.ended() {
		if line, whole := firstLine(p.log); whole {
			return p, line, nil
		}
		time.Sleep(time.Millisecond)
	}
	p.stop()
	return nil, "", errors.Join(ctx.Err(), p.failure())
}

func firstLine(file string) (line string, whole bool) {
	f, err := os.Open(file)
	if err != nil {
		return "", false
	}
	defer f.Close()
	line, err = bufio.NewReader(f).ReadString('\n')
	return strings.TrimSpace(line), err == nil
}

// awaitListener returns once address accepts connections.
func (p *process) awaitListener(ctx context.Context, address string) error {
	for ctx.Err() == nil && !p.ended() {
		if c, err := net.Dial("tcp", address); err == nil {
			return c.Close()
		}
		time.Sleep(time.Millisecond)
	}
	return errors.Join(ctx.Err(), p.failure())
}

// freeAddress is one on loopback that nothing listens on.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// cpu is the processor time of the process and its children so far, user and system. It counts in steps of 10 ms.
func (p *process) cpu() (time.Duration, error) {
	all, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, err
	}
	var sum time.Duration
	found := false
	for _, file := range all {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // ended meanwhile
		}
		s, err := parseStat(string(text))
		if err == nil && (s.pid == p.cmd.Process.Pid || s.parent == p.cmd.Process.Pid) {
			sum, found = sum+s.cpu, true
		}
	}
	if !found {
		return 0, p.failure()
	}
	return sum, nil
}

type stat struct {
	pid, parent int
	cpu         time.Duration
}

// clockTick is the unit of /proc/PID/stat on every Linux that Go runs on (USER_HZ is 100).
const clockTick = 10 * time.Millisecond

// parseStat reads /proc/PID/stat, proc(5). The command, in parentheses, may hold spaces and parentheses.
func parseStat(text string) (stat, error) {
	open, shut := strings.IndexByte(text, '('), strings.LastIndexByte(text, ')')
	if open < 0 || shut < open {
		return stat{}, errors.New("not a stat line")
	}
	fields := strings.Fields(text[shut+1:])
	if len(fields) < 13 {
		return stat{}, errors.New("short stat line")
	}
	pid, err1 := strconv.Atoi(strings.TrimSpace(text[:open]))
	parent, err2 := strconv.Atoi(fields[1])
	user, err3 := strconv.ParseInt(fields[11], 10, 64)
	system, err4 := strconv.ParseInt(fields[12], 10, 64)
	return stat{pid, parent, time.Duration(user+system) * clockTick}, errors.Join(err1, err2, err3, err4)
}

// residentBytes is the memory of the process that is in RAM (VmRSS).
func (p *process) residentBytes() (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if kb, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, err := strconv.ParseInt(strings.Fields(kb)[0], 10, 64)
			return n << 10, err
		}
	}
	return 0, p.failure()
}
