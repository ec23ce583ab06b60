package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// machine is what figures of another machine must not be compared without.
type machine struct {
	cpu, kernel, fileSystem, dir string
	cores                        int
	sync                         time.Duration // fdatasync of 4 KiB written over, median
}

// describeMachine refuses a directory that is not on a disk: its sync would cost nothing, and the figures would lie.
func describeMachine(dir string) (*machine, error) {
	m := &machine{cores: runtime.NumCPU(), cpu: cpuModel(), kernel: kernel(), dir: dir}
	var err error
	if m.fileSystem, err = fileSystem(dir); err != nil {
		return nil, err
	}
	if m.fileSystem == "tmpfs" || m.fileSystem == "ramfs" {
		return nil, fmt.Errorf("%s is on %s, which is no disk; give a directory on one: OO_BENCH_DIR or -dir", dir, m.fileSystem)
	}
	m.sync, err = syncTime(filepath.Join(dir, "sync"))
	return m, err
}

func (m *machine) print(out io.Writer) {
	fmt.Fprintf(out, "machine   %d cores (%s), Linux %s, %s, %s\n", m.cores, m.cpu, m.kernel, runtime.GOARCH, runtime.Version())
	fmt.Fprintf(out, "journal   %s in %s; fdatasync of 4 KiB takes %d µs (median)\n", m.fileSystem, filepath.Dir(m.dir), m.sync.Microseconds())
	fmt.Fprintf(out, "load      averages %s before the run; everything else that runs bends the figures\n", loadAverage())
	fmt.Fprintln(out)
}

func cpuModel() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

func kernel() string {
	text, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return strings.TrimSpace(string(text))
}

func loadAverage() string {
	text, _ := os.ReadFile("/proc/loadavg")
	return strings.Join(strings.Fields(string(text))[:3], " ")
}

// fileSystem names the kind of the one that dir is on: the longest mount point that holds it.
func fileSystem(dir string) (string, error) {
	path, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", err
	}
	if path, err = filepath.Abs(path); err != nil {
		return "", err
	}
	text, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return "", err
	}
	return fileSystemOf(string(text), path), nil
}

// fileSystemOf reads the lines of /proc/self/mounts: device, mount point, kind. A later mount hides an earlier one.
func fileSystemOf(mounts, path string) string {
	kind, longest := "unknown", -1
	for line := range strings.Lines(mounts) {
		f := strings.Fields(line)
		if len(f) < 3 {
			continue
		}
		point := strings.TrimSuffix(strings.ReplaceAll(f[1], `\040`, " "), "/")
		if (path == point || strings.HasPrefix(path, point+"/")) && len(point) >= longest {
			kind, longest = f[2], len(point)
		}
	}
	return kind
}

// syncTime is what one durable write costs this disk at least.
func syncTime(file string) (time.Duration, error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	page := make([]byte, 4<<10)
	var took []float64
	for range 51 {
		if _, err := f.WriteAt(page, 0); err != nil {
			return 0, err
		}
		began := time.Now()
		if err := syscall.Fdatasync(int(f.Fd())); err != nil {
			return 0, fmt.Errorf("fdatasync in %s: %w", filepath.Dir(file), err)
		}
		took = append(took, float64(time.Since(began)))
	}
	return time.Duration(median(took)), nil
}

func isTerminal(fd uintptr) bool {
	var termios [256]byte // more than any kernel's struct termios
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TCGETS, uintptr(unsafe.Pointer(&termios[0])))
	return errno == 0
}
