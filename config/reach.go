package config

import (
	"slices"
	"strings"

	"github.com/oo-sidecar/oo-sidecar/internal/api"
)

// Reach loads what it takes to ask the sidecar that runs with the configuration at path, or to read its journal: where
// it listens, the operator's key and the directory of its store. Problems anywhere else do not matter here: an operator's
// shell need not have the tools' secrets, and a file in the middle of a change must not keep the kill switch away. The
// rest of what it returns may be incomplete. The error joins the problems that do matter.
func Reach(path string, environ []string) (*Config, error) {
	c, _, problems, err := read(path, environ, nil)
	if err != nil {
		return nil, err
	}
	operator := "api.keys"
	if i := slices.IndexFunc(c.API.Keys, func(k api.KeyConfig) bool { return k.Role == "operator" }); i >= 0 {
		operator = spot{key: operator}.item(i).key
	}
	hinder := slices.DeleteFunc(problems, func(p Problem) bool { return !p.hinders(operator) })
	if len(hinder) > 0 {
		return nil, join(hinder)
	}
	return c, nil
}

// hinders says whether the problem keeps one from reaching the sidecar by the operator's entry of api.keys.
func (p Problem) hinders(operator string) bool {
	if strings.HasPrefix(p.Key, "api.keys[") {
		return within(operator, p.Key)
	}
	for _, section := range []string{"api", "health", "store.embedded"} {
		if within(p.Key, section) || within(section, p.Key) || p.meant != "" && within(p.meant, section) {
			return true
		}
	}
	return false
}
