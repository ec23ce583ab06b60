package journal

import (
	"errors"

	"golang.org/x/sys/unix"
)

func (f osFile) Sync() error { return retry(func() error { return unix.Fdatasync(int(f.Fd())) }) }

func (f osFile) Allocate(size int64) error {
	return retry(func() error { return unix.Fallocate(int(f.Fd()), 0, 0, size) })
}

func (f osFile) Punch(off, n int64) error {
	return retry(func() error {
		return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	})
}

func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
