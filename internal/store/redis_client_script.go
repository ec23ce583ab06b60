package store

import (
	"crypto/sha1"
	"encoding/hex"
)

// script is one Lua script. Every key it touches stands under the store's hash tag.
type script struct{ name, source, sha string }

func newScript(name, source string) *script {
	sum := sha1.Sum([]byte(source)) // what EVALSHA names a script by
	return &script{name: name, source: source, sha: hex.EncodeToString(sum[:])}
}

// command is the script as a command; whole sends its source, which also makes the server know it.
func (s *script) command(whole bool, keys []string, args []any) []any {
	cmd := make([]any, 0, 3+len(keys)+len(args))
	if whole {
		cmd = append(cmd, "eval", s.source)
	} else {
		cmd = append(cmd, "evalsha", s.sha)
	}
	cmd = append(cmd, len(keys))
	for _, k := range keys {
		cmd = append(cmd, k)
	}
	return append(cmd, args...)
}
