package govern

import (
	"encoding/json"
	"testing"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

func TestSetMember(t *testing.T) {
	for _, v := range []struct{ doc, pointer, want string }{
		{`{}`, "/key", `{"key":"K"}`},
		{` { } `, "/key", ` {"key":"K" } `},
		{`{"a":1}`, "/key", `{"key":"K","a":1}`},
		{`{"a":1,"key":null}`, "/key", `{"a":1,"key":"K"}`},
		{"{\n\t\"key\" : [ {\"key\":\"}\"} , \"]\" ] ,\r\n \"b\":2 }", "/key", "{\n\t\"key\" : \"K\" ,\r\n \"b\":2 }"},
		{`{"key":"a\"b\\"}`, "/key", `{"key":"K"}`},
		{`{"key":-1.5e3}`, "/key", `{"key":"K"}`},
		{`{"key":true,"b":false}`, "/key", `{"key":"K","b":false}`},
		{`{"a":{"b":{}},"key":1}`, "/a/b/key", `{"a":{"b":{"key":"K"}},"key":1}`},
		{`{"a":{"b":{"key":{}}}}`, "/a/b/key", `{"a":{"b":{"key":"K"}}}`},
		{`{"\u006bey":1}`, "/key", `{"\u006bey":"K"}`},
		{`{"a\/b":1}`, "/a~1b", `{"a\/b":"K"}`},
		{`{"a~b":1}`, "/a~0b", `{"a~b":"K"}`},
		{`{"\uD83D\ude00\n":1}`, "/\U0001F600\n", `{"\uD83D\ude00\n":"K"}`},
		{`{"\b\f\r\t\"\\":1}`, "/\b\f\r\t\"\\", `{"\b\f\r\t\"\\":"K"}`},
		{`{"":1}`, "/", `{"":"K"}`},
		{`{"key2":1,"ke":2}`, "/key", `{"key":"K","key2":1,"ke":2}`},
		{`[]`, "/key", ""},
		{`"key"`, "/key", ""},
		{`1`, "/key", ""},
		{`{"a":[{}]}`, "/a/0/key", ""},
		{`{"a":"{}"}`, "/a/key", ""},
		{`{}`, "/a/key", ""},
	} {
		got, err := setMember([]byte(v.doc), v.pointer, "K")
		if v.want == "" {
			if err == nil {
				t.Errorf("%s took a member at %s: %s", v.doc, v.pointer, got)
			}
			continue
		}
		if err != nil || string(got) != v.want {
			t.Errorf("%s with %s is %s, %v; want %s", v.doc, v.pointer, got, err, v.want)
		}
	}
}

// FuzzSetMember holds the splice against decoding and encoding: what comes out says what went in, and the member.
func FuzzSetMember(f *testing.F) {
	for _, doc := range []string{`{}`, `{"k":1}`, `{"a":[1,{"k":"}"}],"\u006b":{"x":[]}}`, ` {"a" : "\\\"" , "b":-1e9}`} {
		f.Add(doc)
	}
	f.Fuzz(func(t *testing.T, doc string) {
		var before map[string]json.RawMessage
		if !strictly(doc) || json.Unmarshal([]byte(doc), &before) != nil || before == nil {
			t.Skip("no JSON object without duplicates")
		}
		got, err := setMember([]byte(doc), "/k", "K")
		var after map[string]json.RawMessage
		if err != nil || !strictly(string(got)) || json.Unmarshal(got, &after) != nil {
			t.Fatalf("%q became %q, %v", doc, got, err)
		}
		before["k"] = json.RawMessage(`"K"`)
		if len(before) != len(after) {
			t.Fatalf("%q became %q", doc, got)
		}
		for name, value := range before {
			if string(after[name]) != string(value) {
				t.Fatalf("%q became %q: %s is %s", doc, got, name, after[name])
			}
		}
	})
}

// strictly says whether the strict scanner takes the text as arguments.
func strictly(doc string) bool {
	_, err := dedup.Derive(&tool.Call{
		Tool: &tool.Tool{}, Header: []tool.Header{{Name: "Content-Type", Value: "application/json"}}, Body: []byte(doc), HasBody: true,
	})
	return err == nil && doc != ""
}
