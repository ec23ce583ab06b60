package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// secretFileBytes bounds a file that is read into a string.
const secretFileBytes = 1 << 20

// expand replaces ${env:NAME} and ${file:/path} in text and hides what they stood for. $${ stands for ${ itself.
func (r *reader) expand(text string) (out string, expanded bool, err error) {
	var b strings.Builder
	for {
		i := strings.Index(text, "${")
		if i < 0 {
			b.WriteString(text)
			return b.String(), expanded, nil
		}
		if i > 0 && text[i-1] == '$' {
			b.WriteString(text[:i-1] + "${")
			text = text[i+2:]
			continue
		}
		end := strings.IndexByte(text[i:], '}')
		if end < 0 {
			return "", false, errors.New("${ without }; write $${ for ${ itself")
		}
		reference := text[i : i+end+1]
		value, err := r.reference(reference)
		if err != nil {
			return "", false, err
		}
		r.origin.hide(value, reference)
		b.WriteString(text[:i] + value)
		text, expanded = text[i+end+1:], true
	}
}

// reference is the value of ${env:NAME} or ${file:/path}.
func (r *reader) reference(ref string) (string, error) {
	kind, name, ok := strings.Cut(ref[2:len(ref)-1], ":")
	switch {
	case !ok:
		return "", fmt.Errorf("%s is not understood; write ${env:%s}, ${file:/path}, or $${ for ${ itself", ref, kind)
	case kind == "env":
		value, ok := lookupEnv(r.environ, name)
		if !ok {
			return "", fmt.Errorf("%s: the environment variable %s is not set; set it, or give the value another way", ref, name)
		}
		return value, nil
	case kind == "file":
		return readSecret(ref, name)
	}
	return "", fmt.Errorf("%s is not understood; %q is neither env nor file", ref, kind)
}

// readSecret reads a file of a secret; its trailing newline is no part of it.
func readSecret(ref, path string) (string, error) {
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("%s: the path is not absolute; write ${file:/…}", ref)
	}
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("%s cannot be read: %w", ref, errors.Unwrap(err))
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, secretFileBytes+1))
	if err != nil {
		return "", fmt.Errorf("%s cannot be read: %w", ref, errors.Unwrap(err))
	}
	if len(data) > secretFileBytes {
		return "", fmt.Errorf("%s is larger than 1 MiB; is it the right file?", ref)
	}
	return strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r"), nil
}

// lookupEnv finds a variable; of several the last counts, as in a shell.
func lookupEnv(environ []string, name string) (value string, ok bool) {
	for _, kv := range environ {
		if k, v, found := strings.Cut(kv, "="); found && k == name {
			value, ok = v, true
		}
	}
	return value, ok
}

func lookup(environ []string, name string) string {
	value, _ := lookupEnv(environ, name)
	return value
}
