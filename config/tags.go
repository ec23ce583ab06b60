package config

import "reflect"

// field is the field of section t that is written as name.
func field(t reflect.Type, name string) (reflect.StructField, bool) {
	for i := range t.NumField() {
		if f := t.Field(i); f.Tag.Get("koanf") == name && name != "" && name != "-" {
			return f, true
		}
	}
	return reflect.StructField{}, false
}

// names lists what may be written in section t, in the order of its documentation.
func names(t reflect.Type) []string {
	var all []string
	for i := range t.NumField() {
		if name := t.Field(i).Tag.Get("koanf"); name != "" && name != "-" {
			all = append(all, name)
		}
	}
	return all
}
