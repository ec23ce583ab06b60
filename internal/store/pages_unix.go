//go:build unix

package store

import "syscall"

// allocPages gives zeroed memory outside the Go heap. It panics where the system has none left, as make does.
func allocPages(n int) []byte {
	p, err := syscall.Mmap(-1, 0, n, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		panic("store: no memory for the index of keys: " + err.Error())
	}
	return p
}

func freePages(p []byte) {
	if p != nil {
		_ = syscall.Munmap(p)
	}
}
