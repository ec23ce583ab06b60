// Package apitest holds answers of the API against its description: what tests of several packages share.
package apitest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// node is a part of a JSON document.
type node = map[string]any

// Description is an OpenAPI document, as far as the API's needs.
type Description struct{ doc node }

// Read reads a description.
func Read(text []byte) (*Description, error) {
	d := new(Description)
	return d, json.Unmarshal(text, &d.doc)
}

// Operations visits every operation that is described, by path and upper-case method.
func (d *Description) Operations(visit func(path, method string)) {
	for path, ops := range d.doc["paths"].(node) {
		for method := range ops.(node) {
			visit(path, strings.ToUpper(method))
		}
	}
}

// Judge says what of an answer is not as described: its status must be there, and its body have the schema's types and
// all that is required.
func (d *Description) Judge(r *http.Request, status int, body []byte) error {
	op := operation(d.doc, r)
	if op == nil { // who asks is found out before the path
		if !slices.Contains([]int{401, 403, 404, 405, 429}, status) {
			return fmt.Errorf("%s %s is not described", r.Method, r.URL)
		}
		return nil
	}
	response, ok := op["responses"].(node)[fmt.Sprint(status)].(node)
	if !ok {
		return fmt.Errorf("%s %s: status %d is not described", r.Method, r.URL, status)
	}
	response = resolved(d.doc, response)
	var value any
	in := json.NewDecoder(bytes.NewReader(body))
	in.UseNumber() // an echoed one may be larger than a float
	if err := in.Decode(&value); err != nil {
		return fmt.Errorf("%s %s: %s: %w", r.Method, r.URL, body, err)
	}
	schema := response["content"].(node)["application/json"].(node)["schema"].(node)
	if wrong := holds(d.doc, schema, value); wrong != "" {
		return fmt.Errorf("%s %s: not as described: %s\n%s", r.Method, r.URL, wrong, body)
	}
	return nil
}

func operation(doc node, r *http.Request) node {
	asked := strings.Split(r.URL.EscapedPath(), "/")
	var best string
	for path := range doc["paths"].(node) {
		parts := strings.Split(path, "/")
		fits := len(parts) == len(asked)
		for i := 0; fits && i < len(parts); i++ {
			fits = parts[i] == asked[i] || strings.HasPrefix(parts[i], "{")
		}
		if fits && (best == "" || strings.Count(path, "{") < strings.Count(best, "{")) {
			best = path
		}
	}
	if best == "" {
		return nil
	}
	op, _ := doc["paths"].(node)[best].(node)[strings.ToLower(r.Method)].(node)
	return op
}

func resolved(doc, n node) node {
	ref, ok := n["$ref"].(string)
	if !ok {
		return n
	}
	at := doc
	for _, name := range strings.Split(strings.TrimPrefix(ref, "#/"), "/") {
		at = at[name].(node)
	}
	return at
}

// holds says what of the value is not as the schema has it.
func holds(doc, schema node, value any) string {
	schema = resolved(doc, schema)
	if any, ok := schema["anyOf"].([]any); ok {
		var all []string
		for _, s := range any {
			wrong := holds(doc, s.(node), value)
			if wrong == "" {
				return ""
			}
			all = append(all, wrong)
		}
		return strings.Join(all, " and ")
	}
	if !slices.ContainsFunc(typesOf(schema), func(name string) bool { return is(name, value) }) {
		return fmt.Sprintf("%v is no %v", value, schema["type"])
	}
	if words, ok := schema["enum"].([]any); ok && !slices.Contains(words, value) {
		return fmt.Sprintf("%v is none of %v", value, words)
	}
	switch value := value.(type) {
	case []any:
		items, ok := schema["items"].(node)
		for _, v := range value {
			if wrong := ""; ok {
				if wrong = holds(doc, items, v); wrong != "" {
					return wrong
				}
			}
		}
	case node:
		required, _ := schema["required"].([]any)
		for _, name := range required {
			if _, ok := value[name.(string)]; !ok {
				return fmt.Sprintf("%v is missing", name)
			}
		}
		properties, _ := schema["properties"].(node)
		for name, v := range value {
			if s, ok := properties[name].(node); ok {
				if wrong := holds(doc, s, v); wrong != "" {
					return name + ": " + wrong
				}
			}
		}
	}
	return ""
}

func typesOf(schema node) (names []string) {
	switch t := schema["type"].(type) {
	case string:
		return []string{t}
	case []any:
		for _, name := range t {
			names = append(names, name.(string))
		}
	}
	return names
}

func is(name string, value any) bool {
	switch v := value.(type) {
	case nil:
		return name == "null"
	case bool:
		return name == "boolean"
	case string:
		return name == "string"
	case json.Number:
		return name == "number" || name == "integer" && !strings.ContainsAny(string(v), ".eE")
	case []any:
		return name == "array"
	}
	return name == "object"
}
