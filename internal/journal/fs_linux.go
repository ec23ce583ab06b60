package journal

import (
	"errors"

	"golang.org/x/sys/unix"
)

func (f osFile) Sync() error { return retry(func() error { return unix.Fdatasync(int(f.Fd())) }) }

func (f osFile) Allocate(size int64) error {
	return retry(func() error { return unix.Fallocate(int(f.Fd()), 0, 0, size) })
}

func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
