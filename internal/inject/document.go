package inject

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// File injects into every workload of a file of YAML or JSON documents and returns the file as it is then. Documents
// without a workload, and those that have all they need, are returned byte for byte; in the others comments and order
// are kept. name is for errors, which are all that was found, each with line, object, field and mend. The notes are for
// a person.
func File(name string, text []byte, o Options) (out []byte, notes []string, err error) {
	var problems []error
	for i, doc := range documents(text) {
		changed, said, err := o.document(doc.body)
		for _, n := range said {
			notes = append(notes, fmt.Sprintf("%s: %s", place(name, i, 0), n))
		}
		if err != nil {
			problems = append(problems, located(err, name, i, doc.line))
		}
		if !bytes.Equal(changed, doc.body) && doc.separator != nil && !bytes.HasSuffix(doc.separator, []byte("\n")) {
			doc.separator = []byte("---\n") // it began on that line, and has lines of its own now
		}
		out = append(append(out, doc.separator...), changed...)
	}
	if problems != nil {
		return nil, notes, errors.Join(problems...)
	}
	return out, notes, nil
}

// document is one document of a file.
type document struct {
	separator []byte // the line that begins it; none for a first document without one
	body      []byte
	line      int // lines of the file before body
}

// separatorLine is the line that begins a document, as far as it is not of the document.
var separatorLine = regexp.MustCompile(`(?m)^---(?:[ \t]*(?:[ \t]#.*)?(?:\r?\n|\z)|[ \t])`)

// documents cuts a file where YAML does: nothing inside a document can stand as --- at the beginning of a line.
func documents(text []byte) (all []document) {
	var doc document
	rest, line := text, 0
	for {
		at := separatorLine.FindIndex(rest)
		if at == nil {
			doc.body = rest
			return append(all, doc)
		}
		doc.body = rest[:at[0]]
		if len(all) > 0 || len(bytes.TrimSpace(doc.body)) > 0 || doc.separator != nil {
			all = append(all, doc)
		}
		line += bytes.Count(rest[:at[1]], []byte("\n"))
		doc = document{separator: rest[at[0]:at[1]], line: line}
		rest = rest[at[1]:]
	}
}

// document injects into what one document describes.
func (o Options) document(body []byte) (out []byte, notes []string, err error) {
	root, err := read(body)
	if err != nil {
		return body, nil, unreadable(err, body)
	}
	if root.Kind != yaml.DocumentNode || len(root.Content) != 1 || root.Content[0].Kind != yaml.MappingNode {
		return body, nil, nil
	}
	object := root.Content[0]
	former := clone(object)
	notes, err = o.object(object)
	if err != nil || equal(former, object) {
		return body, notes, err
	}
	out, err = print(root, body)
	return out, notes, err
}

// read parses one document; JSON by its own rules, which are not all YAML's.
func read(body []byte) (*yaml.Node, error) {
	if json.Valid(body) {
		n, err := fromJSON(body)
		if err == nil {
			quote(n)
		}
		return &yaml.Node{Kind: yaml.DocumentNode, Content: []*yaml.Node{n}}, err
	}
	root := &yaml.Node{}
	dec := yaml.NewDecoder(bytes.NewReader(body))
	err := dec.Decode(root)
	if errors.Is(err, io.EOF) { // nothing but comments
		return root, nil
	}
	if err == nil && !errors.Is(dec.Decode(&yaml.Node{}), io.EOF) {
		err = errors.New("something follows the document; put a line --- before every other one")
	}
	return root, err
}

// quote keeps text text for readers of YAML 1.1, to whom yes is a boolean.
func quote(n *yaml.Node) {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!str" && !plainText.MatchString(n.Value) {
		n.Style = yaml.DoubleQuotedStyle
	}
	for _, child := range n.Content {
		quote(child)
	}
}

// plainText is what no version of YAML reads as anything but text.
var plainText = regexp.MustCompile(`^[A-Za-z][A-Za-z]{5,}$|^[a-z][A-Za-z]*[./-][A-Za-z][A-Za-z./-]*$|^(kind|spec|name|env|image|value|args|path|port|ports|data|Pod|v1|type|items)$`)

// unreadable says what to do about a template, of which YAML's own error says nothing useful.
func unreadable(err error, body []byte) error {
	if bytes.Contains(body, []byte("{{")) {
		return fmt.Errorf("it is a template (%w); render it first: helm template … | oo-sidecar inject -f -", err)
	}
	return err
}

var compactSequence = regexp.MustCompile(`(?m)^( *)[^\s#-][^\n]*:[ \t]*\r?\n(?:[ \t]*#[^\n]*\n)*( *)- `)

// print writes a document with the indentation of sequences that it had, and makes sure that it says what was meant.
func print(root *yaml.Node, was []byte) ([]byte, error) {
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if m := compactSequence.FindSubmatch(was); m == nil || len(m[1]) == len(m[2]) {
		enc.CompactSeqIndent()
	}
	if err := enc.Encode(root); err != nil {
		return nil, err
	}
	if err := enc.Close(); err != nil {
		return nil, err
	}
	var back yaml.Node
	if err := yaml.Unmarshal(b.Bytes(), &back); err != nil || len(back.Content) != 1 || !equal(back.Content[0], root.Content[0]) {
		return nil, errors.New("it cannot be written so that it reads the same; remove comments from the pod's template, or send it to us")
	}
	return b.Bytes(), nil
}

// located puts file, document and line before each problem.
func located(err error, name string, doc, before int) error {
	var all Refusals
	if !errors.As(err, &all) {
		return fmt.Errorf("%s: %w", place(name, doc, 0), err)
	}
	var list []error
	for _, r := range all {
		line := 0
		if r.Line > 0 {
			line = before + r.Line
		}
		list = append(list, fmt.Errorf("%s: %w", place(name, doc, line), r))
	}
	return errors.Join(list...)
}

func place(name string, doc, line int) string {
	var b strings.Builder
	b.WriteString(name)
	if line > 0 {
		fmt.Fprintf(&b, ":%d", line)
	}
	fmt.Fprintf(&b, ": document %d", doc+1)
	return b.String()
}
