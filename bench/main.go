// Command bench measures oo-sidecar beside what it could be compared with: its cold start, memory and size, and, in
// one interleaved run, its throughput and CPU time beside a direct call, a bare fasthttp reverse proxy and nginx, and its
// /v1 beside a bare net/http handler.
//
// The load generator is this process; the tool, each proxy and the sidecar are processes of their own, so that CPU
// time is of the one under test. All share the machine, so only ratios within one run mean anything. Linux only.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The kernel ends our children when the thread that started them ends, so all are started from the main thread.
func init() { runtime.LockOSThread() }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout)
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

// settings are the flags of one run.
type settings struct {
	binary  string        // of oo-sidecar, stripped
	nginx   string        // command; empty: left out
	dir     string        // where journals and logs are written, on a disk
	starts  int           // cold starts per kind of store
	rounds  int           // of the interleaved run
	measure time.Duration // per contender, number of callers and round
	warm    time.Duration // before each measurement, not counted
	only    string        // one part; empty: all
	who     []string      // contenders of the interleaved run, by name; empty: all
	levels  []int         // how many callers at a time
	assert  bool          // exit 1 when start-up or size miss their figure
}

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) == 1 && args[0] == "tool" {
		return serveTool(ctx, out)
	}
	if len(args) == 1 && args[0] == "bare-api" {
		return serveBareAPI(ctx, out)
	}
	if len(args) == 2 && args[0] == "bare" {
		return serveBare(ctx, out, args[1])
	}
	if len(args) == 2 && args[0] == "secured-tool" {
		return serveSecuredTool(ctx, out, args[1])
	}
	if len(args) == 3 && args[0] == "hop" {
		return serveHop(ctx, out, args[1], args[2])
	}
	var s settings
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&s.binary, "binary", "bin/oo-sidecar", "the `file` of oo-sidecar to measure, built stripped")
	f.StringVar(&s.nginx, "nginx", "nginx", "the nginx `command`; empty leaves it out")
	f.StringVar(&s.dir, "dir", "", "`directory` for journals and logs, on a disk (default: a new one in the temporary directory)")
	f.IntVar(&s.starts, "starts", 9, "cold starts per kind of store")
	f.IntVar(&s.rounds, "rounds", 5, "rounds of the interleaved run; figures are their medians")
	f.DurationVar(&s.measure, "measure", time.Second, "length of one measurement")
	f.DurationVar(&s.warm, "warm", 150*time.Millisecond, "uncounted calls before each measurement")
	f.StringVar(&s.only, "only", "", "measure one `part` only: footprint, throughput, or api")
	who := f.String("contenders", "", "`names`, with commas, of who is in the interleaved run (default: everyone)")
	callers := f.String("callers", "1,16,64,256", "`numbers`, with commas, of callers at a time in the interleaved run")
	f.BoolVar(&s.assert, "assert", false, "exit 1 when start-up or size miss what is wanted; nothing else is ever asserted")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() > 0 || s.starts < 1 || s.rounds < 1 {
		return fmt.Errorf("unknown argument, or starts or rounds below 1; see -h")
	}
	if *who != "" {
		s.who = strings.Split(*who, ",")
	}
	for text := range strings.SplitSeq(*callers, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > 4096 {
			return fmt.Errorf("-callers: %q is not a number from 1 to 4096", text)
		}
		s.levels = append(s.levels, n)
	}
	return bench(ctx, s, out)
}

// bench measures everything and prints as it goes. What it starts and writes is gone when it returns.
func bench(ctx context.Context, s settings, out io.Writer) error {
	dir, err := os.MkdirTemp(s.dir, "oo-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	m, err := describeMachine(dir)
	if err != nil {
		return err
	}
	m.print(out)

	tool, toolAddress, err := startRole(ctx, dir, "tool")
	if err != nil {
		return err
	}
	defer tool.stop()
	if s.only == "api" {
		return measureAPI(ctx, s, dir, toolAddress, out)
	}
	if s.only == "throughput" {
		return measureThroughput(ctx, s, dir, toolAddress, out)
	}
	foot, err := measureFootprint(ctx, s, dir, toolAddress)
	if err != nil {
		return err
	}
	foot.print(out)
	if s.only == "footprint" {
		return nil
	}
	if err := measureThroughput(ctx, s, dir, toolAddress, out); err != nil {
		return err
	}
	if err := measureSecured(ctx, s, dir, out); err != nil {
		return err
	}
	if err := measureAPI(ctx, s, dir, toolAddress, out); err != nil {
		return err
	}
	if s.assert && !foot.met() {
		return errors.New("start-up or size is not what is wanted")
	}
	return nil
}

// measureThroughput is the interleaved run, and the restart on the journal that it left.
func measureThroughput(ctx context.Context, s settings, dir, toolAddress string, out io.Writer) error {
	field, err := startField(ctx, s, dir, toolAddress)
	defer field.stop()
	if err != nil {
		return err
	}
	chosen, err := field.chosen(s.who)
	if err != nil {
		return err
	}
	results, err := interleave(ctx, s, chosen, s.levels, progressTo(os.Stderr))
	if err != nil {
		return err
	}
	results.print(out)
	results.printWanted(out)
	return printRestart(ctx, out, field.sidecar, results.calls(nameFirst))
}
