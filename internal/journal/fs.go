package journal

import "io"

// FS is the file system below the journal, so that tests can lose power at any write.
// Names are paths; files are made with mode 0600.
type FS interface {
	MkdirAll(dir string) error // mode 0700
	// Create makes a file that must not exist.
	Create(name string) (File, error)
	Open(name string, write bool) (File, error)
	Rename(from, to string) error
	Remove(name string) error
	ReadDir(dir string) ([]string, error)
	// SyncDir makes the names in dir durable.
	SyncDir(dir string) error
	// Free is how many bytes an unprivileged writer could still use in dir.
	Free(dir string) (int64, error)
	// Lock takes the directory for this process. Where another has it, owner says which, if that is known.
	Lock(dir string) (unlock func(), owner string, err error)
	// Locked reports whether some process has the directory, without disturbing it for longer than a moment.
	Locked(dir string) bool
}

// File is an open file of an FS.
type File interface {
	io.ReaderAt
	io.WriterAt
	// Sync makes the file's data durable (fdatasync).
	Sync() error
	// Allocate reserves the file's space up to size and makes it that long. Errors but a full disk may be ignored.
	Allocate(size int64) error
	Truncate(size int64) error
	Size() (int64, error)
	Close() error
}
