package inject

import (
	"strings"
	"testing"
)

// TestSpellingsOfTheSame: numbers and booleans are what Kubernetes reads, however they are written.
func TestSpellingsOfTheSame(t *testing.T) {
	manifest := func(pod, container string) string {
		return "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  " + pod + "\n  containers:\n  - name: agent\n    image: a:1\n    " + container + "\n"
	}
	for _, c := range []struct{ pod, container, refused string }{
		{"hostNetwork: yes", "", "spec.hostNetwork is true"},
		{"hostNetwork: On", "", "spec.hostNetwork is true"},
		{"hostNetwork: !!bool true", "", "spec.hostNetwork is true"},
		{"hostNetwork: off", "", ""},
		{"securityContext: {runAsUser: 0x12AC}", "", "runAsUser is 4780"},
		{"securityContext: {runAsUser: 4780.0}", "", "runAsUser is 4780"},
		{"securityContext: {runAsUser: 4.78e3}", "", "runAsUser is 4780"},
		{"securityContext: {runAsUser: 4_780}", "", "runAsUser is 4780"},
		{"securityContext: {runAsUser: 4780}", "securityContext: {runAsUser: 10001}", ""},
		{"", "ports: [{containerPort: 0o11254}]", "containerPort is 4780"},
		{"", "env: [{name: HTTP_PROXY, value: 'http://127.0.0.1:4780'}]", ""},
		{"", "env: [{name: HTTP_PROXY, value: 'http://127.0.0.1:4780/'}]", "has to be the proxy"},
		{"", "env: [{name: http_proxy}]", "has to be the proxy"},
		{"", "env: {HTTP_PROXY: x}", "spec.containers[0].env is not a list"},
		{"", "env: [HTTP_PROXY]", "spec.containers[0].env[0] is not a mapping"},
		{"", "env:", ""},
		{"initContainers:", "", ""},
		{"volumes: none", "", "spec.volumes is not a list"},
	} {
		out, _, err := File("f", []byte(manifest(c.pod, c.container)), Options{})
		switch {
		case c.refused == "" && err != nil:
			t.Errorf("%s %s: %v", c.pod, c.container, err)
		case c.refused != "" && (err == nil || !strings.Contains(err.Error(), c.refused)):
			t.Errorf("%s %s: %v, wanted %q", c.pod, c.container, err, c.refused)
		case err == nil && !strings.Contains(string(out), "restartPolicy: Always"):
			t.Errorf("%s %s: no sidecar in\n%s", c.pod, c.container, out)
		}
	}
}

func FuzzFile(f *testing.F) {
	f.Add([]byte("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n  - {name: agent, image: a:1}\n"))
	f.Add([]byte("# only this\n---\n- a\n---\nkind: List\nitems: [{kind: Pod, apiVersion: v1, spec: {containers: [{name: a}]}}]\n"))
	f.Add([]byte(`{"kind":"Pod","apiVersion":"v1","spec":{"containers":[{"name":"a","env":[{"name":"X","value":"yes"}]}]}}`))
	f.Add([]byte("--- {kind: Pod, apiVersion: v1, spec: {containers: [{name: a}]}}\n--- # next\r\nkind: Pod\r\napiVersion: v1\r\nspec: {containers: [{name: a}]}\r\n...\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		out, _, err := File("f", text, Options{})
		if err != nil {
			return
		}
		again, _, err := File("f", out, Options{})
		if err != nil || string(again) != string(out) {
			t.Errorf("%q becomes %q and that %q, %v", text, out, again, err)
		}
	})
}
