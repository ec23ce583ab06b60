package e2e

import (
	"net"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

// TestTooManyOpenFilesEndNothing: when no connection can be accepted for want of file descriptors, those that wait are
// served as soon as there are some again.
func TestTooManyOpenFilesEndNothing(t *testing.T) {
	t.Parallel()
	a := act(t, ok)
	s := start(t, []settings{a.tool("ok", nil)}, nil)
	s.files(40)
	var idle []net.Conn
	for range 60 { // more than there can be; the kernel takes them all
		c, err := net.Dial("tcp", s.proxy)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		idle = append(idle, c)
	}
	waiting := make(chan answer, 1)
	go func() { waiting <- s.invoke("ok", "{}") }()
	select {
	case err := <-s.exited:
		t.Fatalf("serve ended: %v\n%s", err, s.log)
	case got := <-waiting:
		t.Fatalf("a call went on without a file for its connection: %+v", got)
	case <-time.After(300 * time.Millisecond): // nothing tells that nobody accepts
	}
	for _, c := range idle {
		c.Close()
	}
	if got := <-waiting; got.status != 200 {
		t.Errorf("the call that waited: %+v\n%s", got, s.log)
	}
}

// files sets how many open files the running process may have.
func (s *sidecar) files(n uint64) {
	s.t.Helper()
	limit := syscall.Rlimit{Cur: n, Max: n}
	_, _, errno := syscall.RawSyscall6(syscall.SYS_PRLIMIT64, uintptr(s.cmd.Process.Pid), syscall.RLIMIT_NOFILE, uintptr(unsafe.Pointer(&limit)), 0, 0, 0)
	if errno != 0 {
		s.t.Fatalf("the limit of open files of our own child cannot be set: %v", errno)
	}
}
