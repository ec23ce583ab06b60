package main

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// node is a part of a JSON document.
type node = map[string]any

var openapi = sync.OnceValues(func() (doc node, err error) {
	data, err := os.ReadFile(filepath.Join("..", "..", "internal", "api", "openapi.json"))
	if err == nil {
		err = json.Unmarshal(data, &doc)
	}
	return doc, err
})

// described holds an answer against the OpenAPI description: its status is there, and its body has the schema's types
// and all that is required.
func described(t *testing.T, r *http.Request, resp *http.Response, body string) {
	t.Helper()
	doc, err := openapi()
	if err != nil {
		t.Fatal(err)
	}
	op := operation(doc, r)
	if op == nil {
		if resp.StatusCode != 404 && resp.StatusCode != 405 {
			t.Errorf("%s %s is not described", r.Method, r.URL)
		}
		return
	}
	response, ok := op["responses"].(node)[fmt.Sprint(resp.StatusCode)].(node)
	if !ok {
		t.Errorf("%s %s: status %d is not described", r.Method, r.URL, resp.StatusCode)
		return
	}
	response = resolved(doc, response)
	var value any
	if err := json.Unmarshal([]byte(body), &value); err != nil {
		t.Errorf("%s %s: %s: %v", r.Method, r.URL, body, err)
	}
	schema := response["content"].(node)["application/json"].(node)["schema"].(node)
	if wrong := holds(doc, schema, value); wrong != "" {
		t.Errorf("%s %s: not as described: %s\n%s", r.Method, r.URL, wrong, body)
	}
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
	case float64:
		return name == "number" || name == "integer" && v == math.Trunc(v)
	case []any:
		return name == "array"
	}
	return name == "object"
}

func TestTheDescriptionIsServed(t *testing.T) {
	g := newGoverned(t, "")
	want, err := os.ReadFile(filepath.Join("..", "..", "internal", "api", "openapi.json"))
	if err != nil {
		t.Fatal(err)
	}
	g.expect(botKey, trade{"GET", "/v1/openapi.json", "", 200, strings.TrimSpace(string(want))})
}

// TestAnAgentsKeyGovernsNothing asks for every operation that is described: what changes governance, and whatever is
// another agent's, is refused.
func TestAnAgentsKeyGovernsNothing(t *testing.T) {
	g := newGoverned(t, `policies: [{agent_id: other, max_actions_per_hour: 1}]`)
	doc, err := openapi()
	if err != nil {
		t.Fatal(err)
	}
	own := []string{"/v1/check-lock", "/v1/ai/", "/v1/me", "/v1/usage", "/v1/metrics", "/v1/events", "/v1/runs", "/v1/openapi.json"}
	refused := 0
	for path, ops := range doc["paths"].(node) {
		for method := range ops.(node) {
			free := slices.ContainsFunc(own, func(p string) bool { return path == p || strings.HasPrefix(path, p) })
			if free && path != "/v1/me/notifications" || path == "/v1/policies" {
				continue
			}
			asked := strings.NewReplacer("{id}", "other", "{name}", "charge", "{agent}", "other", "{user}", "u").Replace(path)
			status, text := g.ask(botKey, strings.ToUpper(method), asked, `{"agent_id":"other"}`)
			if status != 403 || text != `{"detail":"Forbidden"}` {
				t.Errorf("%s %s: %d %s", method, asked, status, text)
			}
			refused++
		}
	}
	if refused < 25 {
		t.Errorf("only %d operations were tried", refused)
	}
	g.expect(botKey,
		trade{"GET", "/v1/policies", "", 200, "[]"},
		trade{"POST", "/v1/ai/run", `{"agent_id":"other","tool":"charge"}`, 403, `{"detail":"Forbidden"}`},
		trade{"POST", "/v1/ai/run", `{"key":"k","metadata":{"agent_id":"other"}}`, 403, `{"detail":"Forbidden"}`},
	)
}

func TestWhatIsNotAsDescribedIsFound(t *testing.T) {
	doc, err := openapi()
	if err != nil {
		t.Fatal(err)
	}
	lock := node{"$ref": "#/components/schemas/Lock"}
	for body, good := range map[string]bool{
		`{"success":true,"status":"locked","key":"k","ttl":60,"first_seen_at":null}`:   true,
		`{"success":true,"status":"locked","key":"k","ttl":60}`:                        false,
		`{"success":true,"status":"locked","key":"k","ttl":60.5,"first_seen_at":null}`: false,
		`{"success":true,"status":"polling","key":"k","ttl":60,"first_seen_at":null}`:  false,
		`{"success":"true","status":"locked","key":"k","ttl":60,"first_seen_at":null}`: false,
		`[]`: false,
	} {
		var value any
		if err := json.Unmarshal([]byte(body), &value); err != nil {
			t.Fatal(err)
		}
		if wrong := holds(doc, lock, value); (wrong == "") != good {
			t.Errorf("%s: %q", body, wrong)
		}
	}
}
