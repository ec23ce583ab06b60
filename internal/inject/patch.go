package inject

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxDepth is how deep JSON may be nested; the API server allows less in a pod.
const maxDepth = 100

// Operation is one step of a JSON patch (RFC 6902).
type Operation struct {
	Op    string          `json:"op"`
	Path  string          `json:"path"`
	Value json.RawMessage `json:"value,omitempty"`
}

// Pod returns the patch that injects into a pod in JSON; none when it has all it needs, or wants nothing. A Refusals
// error says why it cannot be.
func Pod(object []byte, o Options) (patch []Operation, notes []string, err error) {
	before, err := fromJSON(object)
	if err != nil {
		return nil, nil, err
	}
	if text(field(before, "kind")) == "" { // the API server leaves the type out
		before.Content = append(before.Content, str("kind"), str("Pod"), str("apiVersion"), str("v1"))
	}
	if kind := text(field(before, "kind")); kind != "Pod" || text(field(before, "apiVersion")) != "v1" {
		return nil, nil, fmt.Errorf("the object is a %q, not a pod", kind)
	}
	after := clone(before)
	if notes, err = o.object(after); err != nil {
		return nil, notes, err
	}
	return diff(nil, "", before, after), notes, nil
}

// fromJSON reads JSON as nodes, every number and string as it is. (A YAML parser reads some JSON strings otherwise.)
func fromJSON(data []byte) (*yaml.Node, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	n, err := readValue(dec, 0)
	if err != nil {
		return nil, fmt.Errorf("no JSON: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("no JSON: something follows the object")
	}
	return n, nil
}

func readValue(dec *json.Decoder, depth int) (*yaml.Node, error) {
	token, err := dec.Token()
	if err != nil {
		return nil, err
	}
	switch v := token.(type) {
	case json.Delim:
		return readInner(dec, v, depth+1)
	case string:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: v}, nil
	case json.Number:
		tag := "!!int"
		if strings.ContainsAny(v.String(), ".eE") {
			tag = "!!float"
		}
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: v.String()}, nil
	case bool:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: strconv.FormatBool(v)}, nil
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null"}, nil
}

func readInner(dec *json.Decoder, open json.Delim, depth int) (*yaml.Node, error) {
	if depth > maxDepth {
		return nil, errors.New("it is nested too deep")
	}
	n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	if open == '[' {
		n.Kind, n.Tag = yaml.SequenceNode, "!!seq"
	}
	for dec.More() {
		child, err := readValue(dec, depth)
		if err != nil {
			return nil, err
		}
		n.Content = append(n.Content, child)
	}
	_, err := dec.Token()
	return n, err
}

// toJSON writes nodes as JSON.
func toJSON(n *yaml.Node) json.RawMessage {
	var b bytes.Buffer
	writeValue(&b, n)
	return b.Bytes()
}

func writeValue(b *bytes.Buffer, n *yaml.Node) {
	switch n.Kind {
	case yaml.MappingNode:
		writeInner(b, n, '{', '}')
	case yaml.SequenceNode:
		writeInner(b, n, '[', ']')
	default:
		switch n.ShortTag() {
		case "!!int", "!!float", "!!bool", "!!null":
			b.WriteString(n.Value)
		default:
			quoted, _ := json.Marshal(n.Value)
			b.Write(quoted)
		}
	}
}

func writeInner(b *bytes.Buffer, n *yaml.Node, open, end byte) {
	b.WriteByte(open)
	for i, child := range n.Content {
		switch {
		case open == '{' && i%2 == 1:
			b.WriteByte(':')
		case i > 0:
			b.WriteByte(',')
		}
		writeValue(b, child)
	}
	b.WriteByte(end)
}

// diff appends the steps from one tree to another. Lists of named things are compared by name where nothing but new
// items came between the former ones; others are replaced whole.
func diff(steps []Operation, at string, before, after *yaml.Node) []Operation {
	switch {
	case equal(before, after):
		return steps
	case before.Kind == yaml.MappingNode && after.Kind == yaml.MappingNode:
		return diffMembers(steps, at, before, after)
	case before.Kind == yaml.SequenceNode && after.Kind == yaml.SequenceNode && grown(before, after):
		return diffItems(steps, at, before, after)
	}
	return append(steps, Operation{"replace", at, toJSON(after)})
}

func diffMembers(steps []Operation, at string, before, after *yaml.Node) []Operation {
	for i := 0; i+1 < len(before.Content); i += 2 {
		if name := before.Content[i].Value; member(after, name) == nil {
			steps = append(steps, Operation{Op: "remove", Path: pointer(at, name)})
		}
	}
	for i := 0; i+1 < len(after.Content); i += 2 {
		name, value := after.Content[i].Value, after.Content[i+1]
		if former := member(before, name); former != nil {
			steps = diff(steps, pointer(at, name), former, value)
		} else {
			steps = append(steps, Operation{"add", pointer(at, name), toJSON(value)})
		}
	}
	return steps
}

// member is field without its view of null.
func member(m *yaml.Node, name string) *yaml.Node {
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == name {
			return m.Content[i+1]
		}
	}
	return nil
}

// grown says whether the former items all stand in the new list, in their order, each known by a name of its own.
func grown(before, after *yaml.Node) bool {
	for _, list := range []*yaml.Node{before, after} {
		seen := map[string]bool{}
		for _, n := range list.Content {
			name := text(field(n, "name"))
			if name == "" || seen[name] {
				return false
			}
			seen[name] = true
		}
	}
	i := 0
	for _, n := range after.Content {
		if i < len(before.Content) && text(field(before.Content[i], "name")) == text(field(n, "name")) {
			i++
		}
	}
	return i == len(before.Content)
}

func diffItems(steps []Operation, at string, before, after *yaml.Node) []Operation {
	for i, n := range after.Content {
		if former, _ := named(before, text(field(n, "name"))); former != nil {
			steps = diff(steps, pointer(at, strconv.Itoa(i)), former, n)
		} else {
			steps = append(steps, Operation{"add", pointer(at, strconv.Itoa(i)), toJSON(n)})
		}
	}
	return steps
}

var pointerEscapes = strings.NewReplacer("~", "~0", "/", "~1")

func pointer(at, name string) string { return at + "/" + pointerEscapes.Replace(name) }
