package config

import (
	"reflect"
	"strings"
)

// Reloadable says whether a running sidecar can change from one configuration to another: its listeners, its store
// and its control plane must stay. The error names what differs.
func Reloadable(running, next *Config) error {
	var problems []Problem
	before, after := running.listeners(), next.listeners()
	for i := range before {
		if before[i].address != after[i].address {
			problems = append(problems, next.fixed(before[i].key))
		}
	}
	for _, key := range differences(reflect.ValueOf(running.Store), reflect.ValueOf(next.Store), spot{key: "store"}) {
		problems = append(problems, next.fixed(key))
	}
	controlled, wanted := running.Control, next.Control
	controlled.Credentials, wanted.Credentials = nil, nil
	for _, key := range differences(reflect.ValueOf(controlled), reflect.ValueOf(wanted), spot{key: "control"}) {
		problems = append(problems, next.fixed(key))
	}
	return join(problems)
}

func (c *Config) fixed(key string) Problem {
	return c.origin.problem(key, "cannot change while the sidecar runs", "restart it, or put the former value back")
}

// differences lists the keys by which two sections differ.
func differences(a, b reflect.Value, s spot) []string {
	if a.Kind() != reflect.Struct {
		if reflect.DeepEqual(a.Interface(), b.Interface()) {
			return nil
		}
		return []string{s.key}
	}
	var all []string
	for i := range a.NumField() {
		if name := a.Type().Field(i).Tag.Get("koanf"); name != "" && !strings.HasPrefix(name, "-") {
			all = append(all, differences(a.Field(i), b.Field(i), s.field(name))...)
		}
	}
	return all
}
