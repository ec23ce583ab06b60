//go:build !linux

package journal

// Without fallocate a segment grows as it is written.
func (f osFile) Allocate(int64) error { return nil }

// Punch overwrites, which gives no space back but leaves nothing to read.
func (f osFile) Punch(off, n int64) error {
	zeros := make([]byte, min(n, 1<<20))
	for n > 0 {
		part := min(n, int64(len(zeros)))
		if _, err := f.WriteAt(zeros[:part], off); err != nil {
			return err
		}
		off, n = off+part, n-part
	}
	return nil
}
