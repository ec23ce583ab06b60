// Package whole writes the small files of the program's state: each is there whole or not at all, is durable on return,
// and can be read by its owner only.
package whole

import (
	"errors"
	"os"
	"path/filepath"
)

// Replace writes a file in place of what has the name.
func Replace(path string, data []byte) error { return write(path, data, os.Rename) }

// Create writes a file that nobody has made before; the error is fs.ErrExist where somebody has, and theirs stays.
func Create(path string, data []byte) error { return write(path, data, os.Link) }

// write gives the file its name, by name, once what it holds is durable.
func write(path string, data []byte, name func(from, to string) error) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := name(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
