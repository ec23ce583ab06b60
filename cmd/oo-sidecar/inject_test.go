package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// injected runs inject with a manifest on standard input.
func injected(t *testing.T, manifest string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), append([]string{"inject"}, args...), strings.NewReader(manifest), &out, &errs)
	return out.String(), errs.String(), code
}

const agentPod = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n  - {name: agent, image: agent:1}\n"

func TestInjectPrintsTheManifest(t *testing.T) {
	out, notes, code := injected(t, agentPod, "-f", "-", "--image", "reg.example/oo:2", "--config-map", "mine", "--state", "pvc:journal", "--secret", "keys")
	if code != 0 || !strings.Contains(notes, "standard input: document 1: Pod/a: fsGroup") {
		t.Errorf("%d %s", code, notes)
	}
	for _, want := range []string{"restartPolicy: Always", "image: reg.example/oo:2", "name: mine", "secretName: keys", "claimName: journal", "{name: HTTP_PROXY, value: 'http://127.0.0.1:4780'}"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	file := filepath.Join(t.TempDir(), "pod.yaml")
	if err := os.WriteFile(file, []byte(out), 0o600); err != nil {
		t.Fatal(err)
	}
	if again, _, code := injected(t, "", "-f", file); code != 0 || again != out {
		t.Errorf("%d: its own output, without the options, became\n%s", code, again)
	}
	newer, _, _ := injected(t, out, "-f", "-", "--image", "reg.example/oo:3")
	if newer != strings.Replace(out, "oo:2", "oo:3", 1) {
		t.Errorf("a new image changed more than that:\n%s", newer)
	}
}

func TestInjectRefuses(t *testing.T) {
	for _, c := range []struct {
		manifest string
		args     []string
		say      string
	}{
		{strings.Replace(agentPod, "spec:", "spec:\n  hostNetwork: true", 1), []string{"-f", "-"}, "standard input:5: document 1: Pod/a: spec.hostNetwork is true"},
		{agentPod, []string{"-f", "-", "--state", "pvc:"}, `"pvc:" is no volume for the state; write emptydir`},
		{agentPod, []string{"-f", "-", "--state", "pvc:My_Claim"}, `"pvc:My_Claim" is no volume for the state`},
		{agentPod, []string{"-f", "-", "--state", "journal"}, `"journal" is no volume for the state`},
		{agentPod, []string{"-f", "-", "--state", "/var/lib"}, `"/var/lib" is no volume for the state; write emptydir`},
		{agentPod, []string{"-f", "-", "--mode", "ambient"}, `"ambient" is no mode`},
		{agentPod, []string{"-f", "-", "--egress-lock"}, "with an egress lock a container needs securityContext"},
		{agentPod, []string{"-f", "-", "--egress-lock", "--mode", "classic"}, "is classic, and egress is to be locked"},
		{agentPod, []string{"-f", "nowhere.yaml"}, "nowhere.yaml: no such file"},
		{agentPod, nil, `required flag(s) "filename" not set`},
		{"a: [", []string{"-f", "-"}, "standard input: document 1: yaml: line 1"},
	} {
		out, errs, code := injected(t, c.manifest, c.args...)
		if code != 2 || out != "" || !strings.Contains(errs, c.say) {
			t.Errorf("%v: %d %q, said %q", c.args, code, out, errs)
		}
	}
}
