package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/go-viper/mapstructure/v2"
	"github.com/knadh/koanf/providers/file"
	"github.com/knadh/koanf/v2"
)

// Search is where a configuration is looked for when none is named, in this order.
var Search = []string{"oo-sidecar.yaml", "/etc/oo-sidecar/config.yaml"}

// Locate says which file is the configuration: the one named by the flag, else the first of Search that exists, else
// none, and the built-in one holds.
func Locate(flag string) (path string, builtin bool, err error) {
	if flag != "" {
		if _, err := os.Stat(flag); err != nil {
			return "", false, unreadable(flag, err)
		}
		return flag, false, nil
	}
	for _, path := range Search {
		if _, err := os.Stat(path); err == nil {
			return path, false, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", false, unreadable(path, err)
		}
	}
	return "", true, nil
}

// Load reads the configuration at path ("" for the built-in one), lays the OO_ variables of environ and then flags, by
// key, over it, and validates the whole. The error joins every Problem; the warnings are problems one can run with.
// Each call starts anew, so that nothing deleted from the file lives on.
func Load(path string, environ []string, flags map[string]string) (*Config, []Problem, error) {
	c, warnings, problems, err := read(path, environ, flags)
	if err != nil {
		return nil, nil, err
	}
	if len(problems) > 0 {
		return nil, warnings, join(problems)
	}
	return c, warnings, nil
}

// read is Load without the judgement: what could be read, and every problem with it.
func read(path string, environ []string, flags map[string]string) (c *Config, warnings, problems []Problem, err error) {
	base, err := base(path, environ)
	if err != nil {
		return nil, nil, nil, err
	}
	r := &reader{environ: environ, origin: newOrigin(path), file: path}
	c, err = r.load(base, flags, r.source())
	if err != nil {
		return nil, nil, nil, err
	}
	c.path, c.origin = path, r.origin
	found, warnings := c.validate()
	return c, warnings, append(r.problems, besides(r.problems, found)...), nil
}

func base(path string, environ []string) (*Config, error) {
	if path == "" {
		return builtin(environ)
	}
	return defaults(), nil
}

// source is the file; nil without one.
func (r *reader) source() koanf.Provider {
	if r.file == "" {
		return nil
	}
	return file.Provider(r.file)
}

// load merges source, environment and flags and decodes them over base.
func (r *reader) load(base *Config, flags map[string]string, source koanf.Provider) (*Config, error) {
	k := koanf.New(delimiter)
	if source != nil {
		if err := k.Load(source, r); err != nil {
			return nil, unreadable(r.file, err)
		}
	}
	if err := errors.Join(r.environment(k), r.flags(k, flags)); err != nil {
		return nil, err
	}
	err := k.UnmarshalWithConf("", base, koanf.UnmarshalConf{DecoderConfig: &mapstructure.DecoderConfig{
		ErrorUnused: true,
		ZeroFields:  true, // a list given replaces the default one
	}})
	if err != nil {
		return nil, Problem{File: r.origin.file, Message: r.origin.redact(err.Error())}
	}
	return base, nil
}

// unreadable says why there is nothing to read; a Problem of the reader's own passes.
func unreadable(path string, err error) error {
	var p Problem
	if errors.As(err, &p) {
		return p
	}
	p = Problem{File: path, Message: "cannot be read: " + err.Error()}
	var at *fs.PathError
	if errors.As(err, &at) {
		p.Message = "cannot be read: " + at.Err.Error()
	}
	if errors.Is(err, fs.ErrNotExist) {
		p.Mend = "write one with: oo-sidecar init --out " + filepath.Clean(path)
	}
	return p
}
