package config

import (
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/oo-sidecar/oo-sidecar/internal/tool"
	"github.com/oo-sidecar/oo-sidecar/proxy"
)

var (
	anyType  = reflect.TypeFor[any]()
	duration = reflect.TypeFor[time.Duration]()
	size     = reflect.TypeFor[tool.Size]()
	money    = reflect.TypeFor[tool.Money]()
	hostList = reflect.TypeFor[proxy.HostList]()
)

// isLeaf says whether a value of t is written as one scalar.
func isLeaf(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Bool, reflect.String, reflect.Int, reflect.Int64:
		return true
	}
	return false
}

// placeholder keeps the place of a list's entry that could not be read, so that the others keep their numbers.
func placeholder(t reflect.Type) any {
	switch {
	case t.Kind() == reflect.Struct:
		return map[string]any{}
	case t == anyType:
		return ""
	}
	return reflect.Zero(t).Interface()
}

// leaf reads a scalar as a value of t.
func (r *reader) leaf(n *yaml.Node, t reflect.Type, s spot) (any, bool) {
	if n.Kind != yaml.ScalarNode {
		return r.fault(n, s, "must be "+kindOf(t)+", not "+shapeOf(n), "")
	}
	tag, written := n.ShortTag(), !strings.Contains(n.Value, "${")
	switch {
	case (t == duration || t == size) && (tag == "!!int" || tag == "!!float"):
		return r.fault(n, s, fmt.Sprintf("the bare number %s has no unit", n.Value), "write "+withUnit(t, n.Value))
	case t.Kind() == reflect.Bool && tag != "!!bool" && written:
		return r.fault(n, s, "must be true or false", "write it so, without quotes")
	case isNumber(t) && tag != "!!int" && written:
		return r.fault(n, s, "must be a whole number", "write it without quotes, fractions and units")
	}
	return r.scalar(n, t, s)
}

// isNumber says whether t is written as a plain number.
func isNumber(t reflect.Type) bool {
	return isLeaf(t) && t != duration && t != size && t != money && t.Kind() != reflect.Bool && t.Kind() != reflect.String
}

// scalar reads the text of n as a value of t, whatever it was written in.
func (r *reader) scalar(n *yaml.Node, t reflect.Type, s spot) (any, bool) {
	text, expanded, ok := r.text(n, s)
	if !ok {
		return nil, false
	}
	if t.Kind() == reflect.String {
		return r.word(n, text, s)
	}
	v, err := scan(text, t)
	switch {
	case err != nil && expanded:
		return r.fault(n, s, "what "+n.Value+" stands for is not "+kindOf(t), "")
	case err != nil:
		return r.fault(n, s, err.Error(), "")
	}
	return v, true
}

// text is the text of a scalar with its references expanded. What must not be shown is hidden from here on.
func (r *reader) text(n *yaml.Node, s spot) (text string, expanded, ok bool) {
	text, expanded, err := r.expand(n.Value)
	if err != nil {
		r.fault(n, s, err.Error(), "")
		return "", false, false
	}
	if secrets[s.schema] {
		r.origin.hide(text, "(hidden)")
		if !expanded && text != "" && r.file == r.origin.file && (s.schema != "tools[].headers{}" || isCredential(s.name)) {
			r.origin.inline = append(r.origin.inline, s.key)
		}
	}
	return text, expanded, true
}

// word reads a string and, where only some words may stand, looks for it among them. An empty one says nothing there.
func (r *reader) word(n *yaml.Node, text string, s spot) (any, bool) {
	allowed := choices[s.schema]
	switch {
	case allowed == nil || slices.Contains(allowed, text):
		return text, true
	case text == "":
		return nil, false
	}
	best, _ := nearest(text, allowed)
	return r.fault(n, s, fmt.Sprintf("%q is not one of %s", n.Value, strings.Join(allowed, ", ")), "did you mean "+best+"?")
}

// scan reads text as a value of t, which is no string.
func scan(text string, t reflect.Type) (any, error) {
	switch {
	case t == duration:
		return parseDuration(text)
	case t.Kind() == reflect.Bool:
		if text != "true" && text != "false" {
			return nil, errors.New("must be true or false")
		}
		return text == "true", nil
	}
	v := reflect.New(t)
	if u, ok := v.Interface().(encoding.TextUnmarshaler); ok {
		err := u.UnmarshalText([]byte(text))
		return v.Elem().Interface(), err
	}
	i, err := strconv.ParseInt(text, 10, t.Bits())
	if err != nil {
		return nil, fmt.Errorf("must be a whole number of at most %d bits", t.Bits())
	}
	v.Elem().SetInt(i)
	return v.Elem().Interface(), nil
}

// parseDuration reads 15s, 1h30m or 30d.
func parseDuration(text string) (time.Duration, error) {
	wrong := fmt.Errorf("%q is not a duration; write a number with its unit: 500ms, 15s, 5m, 24h or 30d", text)
	var d time.Duration
	rest := text
	if days, after, found := strings.Cut(text, "d"); found {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil {
			return 0, wrong
		}
		if d, rest = time.Duration(n)*day, after; rest == "" {
			return d, nil
		}
	}
	part, err := time.ParseDuration(rest)
	switch {
	case err != nil || rest == "0":
		return 0, wrong
	case part < 0 || d+part < 0:
		return 0, fmt.Errorf("%q is negative", text)
	}
	return d + part, nil
}

func withUnit(t reflect.Type, number string) string {
	if t == duration {
		return number + "s for seconds"
	}
	return number + "B, " + number + "KiB or " + number + "MiB"
}

// kindOf says what a scalar of type t is.
func kindOf(t reflect.Type) string {
	switch {
	case t == duration:
		return "a duration"
	case t == size:
		return "a size"
	case t == money:
		return "an amount of money"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.String:
		return "text"
	}
	return "a whole number"
}

func shapeOf(n *yaml.Node) string {
	if n.Kind == yaml.SequenceNode {
		return "a list"
	}
	return "names with values"
}
