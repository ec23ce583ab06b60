package journal

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"io"
	"path/filepath"
	"strings"
	"time"
)

// identity names a journal for as long as its directory lives.
type identity struct {
	ID   [16]byte
	Made time.Time // to the second
}

const identityName = "journal.id"

func newIdentity(now time.Time) (id identity) {
	rand.Read(id.ID[:])
	id.Made = now.UTC().Truncate(time.Second)
	return id
}

func (id identity) String() string { return hex.EncodeToString(id.ID[:]) }

func (id identity) encode() string {
	line := fmt.Sprintf("oolog 1 %s %s", id, id.Made.Format(time.RFC3339))
	return fmt.Sprintf("%s %08x\n", line, crc32.Checksum([]byte(line), castagnoli))
}

func parseIdentity(text string) (id identity, err error) {
	words := strings.Split(text, " ")
	if len(words) == 5 {
		raw, _ := hex.DecodeString(words[2])
		copy(id.ID[:], raw)
		id.Made, err = time.Parse(time.RFC3339, words[3])
	}
	if err != nil || id.encode() != text {
		return id, fmt.Errorf("%w: %s does not hold", ErrCorrupt, identityName)
	}
	return id, nil
}

func readIdentity(fs FS, dir string) (id identity, err error) {
	f, err := fs.Open(filepath.Join(dir, identityName), false)
	if err != nil {
		return id, err
	}
	defer f.Close()
	p := make([]byte, 256)
	n, err := f.ReadAt(p, 0)
	if err != nil && err != io.EOF {
		return id, err
	}
	return parseIdentity(string(p[:n]))
}

// writeIdentity makes the file durable, whole or not at all.
func writeIdentity(fs FS, dir string, id identity) error {
	name := filepath.Join(dir, identityName)
	f, err := fs.Create(name + ".new")
	if isExist(err) {
		if err = fs.Remove(name + ".new"); err == nil {
			f, err = fs.Create(name + ".new")
		}
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err = f.WriteAt([]byte(id.encode()), 0); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = fs.Rename(name+".new", name); err != nil {
		return err
	}
	return fs.SyncDir(dir)
}
