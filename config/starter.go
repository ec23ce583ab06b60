package config

import (
	_ "embed"
	"strconv"
	"strings"
)

//go:embed starter.yaml
var starter string

//go:embed schema.json
var schema string

// Schema is the JSON Schema of the configuration file, for editors.
func Schema() string { return schema }

// Starter is a commented configuration to begin with: what the built-in one does, in writing, with examples. It passes
// Load as it is.
func Starter(environ []string) (string, error) {
	dir, err := stateDir(environ)
	if err != nil {
		return "", err
	}
	return strings.Replace(starter, "@STATE@", strconv.Quote(dir), 1), nil
}
