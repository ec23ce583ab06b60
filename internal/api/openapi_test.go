package api

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
)

func TestTheDescriptionHasEveryRouteAndNoOther(t *testing.T) {
	var doc struct {
		Paths map[string]map[string]struct {
			Summary    string
			Parameters []struct{ Name, In string }
			Responses  map[string]any
		}
	}
	if err := json.Unmarshal(description, &doc); err != nil {
		t.Fatal(err)
	}
	s := new(Server)
	routes := map[string]methods{}
	for _, part := range []map[string]methods{s.operatorRoutes(), s.callerRoutes(), s.governRoutes()} {
		maps.Copy(routes, part)
	}
	for path, m := range routes {
		for method := range m {
			op, ok := doc.Paths[path][strings.ToLower(method)]
			if !ok {
				t.Errorf("%s %s is not described", method, path)
				continue
			}
			if op.Summary == "" || op.Responses["200"] == nil || op.Responses["401"] == nil || op.Responses["403"] == nil {
				t.Errorf("%s %s: half a description", method, path)
			}
			var named []string
			for _, p := range op.Parameters {
				if p.In == "path" {
					named = append(named, "{"+p.Name+"}")
				}
			}
			if got := slices.DeleteFunc(strings.Split(path, "/"), func(part string) bool { return !strings.HasPrefix(part, "{") }); !slices.Equal(got, named) {
				t.Errorf("%s %s: path parameters %v", method, path, named)
			}
		}
		if len(m) != len(doc.Paths[path]) {
			t.Errorf("%s: %d methods, %d described", path, len(m), len(doc.Paths[path]))
		}
	}
	for path := range doc.Paths {
		if routes[path] == nil {
			t.Errorf("%s is described and not served", path)
		}
	}
	references(t, description)
}

// references finds every $ref that leads nowhere.
func references(t *testing.T, text []byte) {
	var doc any
	_ = json.Unmarshal(text, &doc)
	var walk func(any)
	walk = func(x any) {
		switch x := x.(type) {
		case []any:
			for _, v := range x {
				walk(v)
			}
		case map[string]any:
			if ref, ok := x["$ref"].(string); ok {
				at := doc
				for _, name := range strings.Split(strings.TrimPrefix(ref, "#/"), "/") {
					m, _ := at.(map[string]any)
					at = m[name]
				}
				if at == nil {
					t.Errorf("%s leads nowhere", ref)
				}
			}
			for _, v := range x {
				walk(v)
			}
		}
	}
	walk(doc)
}
