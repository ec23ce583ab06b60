//go:build !linux

package journal

// Without fallocate a segment grows as it is written.
func (f osFile) Allocate(int64) error { return nil }
