package pod_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/oo-sidecar/oo-sidecar/internal/pod"
)

var update = flag.Bool("update", false, "write examples/k8s from the table")

// TestManifests: the files of examples/k8s that follow from the table are what it says.
func TestManifests(t *testing.T) {
	for name, want := range manifests(t) {
		path := filepath.Join("..", "..", "examples", "k8s", filepath.FromSlash(name))
		if *update {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not what internal/pod says: go test ./internal/pod -update writes it", path)
		}
	}
}

// label marks the workloads of examples/k8s that get the sidecar.
const label = "oo-sidecar/governed=true"

// manifests are the files that follow from the table, by path below examples/k8s.
func manifests(t *testing.T) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for _, c := range []struct {
		dir, list string
		container pod.Container
		agents    []string
	}{
		{"components/sidecar/", "initContainers", pod.Sidecar(pod.Image), []string{"containers", "initContainers"}},
		{"components/classic-sidecar/", "containers", pod.Classic(pod.Image), []string{"containers"}}, // init containers run before it
	} {
		for name, content := range map[string]any{
			"agents/kustomization.yaml":  agents(c.list, c.agents),
			"agents/environment.yaml":    environment(),
			"sidecar/kustomization.yaml": sidecar(),
			"sidecar/container.yaml":     []operation{{"replace", "/spec/template/spec/" + c.list + "/0", c.container}},
			"sidecar/pod.yaml":           surroundings(),
			"kustomization.yaml": tree{
				{Key: "apiVersion", Value: componentVersion},
				{Key: "kind", Value: "Component"},
				{Key: "components", Value: []string{"agents", "sidecar"}},
			},
		} {
			text, err := yaml.MarshalWithOptions(content, yaml.Indent(2), yaml.IndentSequence(true))
			if err != nil {
				t.Fatalf("%s%s: %v", c.dir, name, err)
			}
			files[c.dir+name] = append([]byte(heads[name]), text...)
		}
	}
	return files
}

const (
	written          = "# Written from internal/pod by `go test ./internal/pod -update`.\n"
	componentVersion = "kustomize.config.k8s.io/v1alpha1"
)

// heads are what a reader of each file should know.
var heads = map[string]string{
	"kustomization.yaml": written,
	"agents/kustomization.yaml": written + `# The variables and the certificates for every container of the workloads labelled ` + label + `. Kustomize knows no
# container that opts out: take the variables from one by a patch in your overlay, which comes after this, or use
# oo-sidecar inject, which does. What stands first in the list is a place for the sidecar, which takes it next.
`,
	"agents/environment.yaml":    written + "# What oo-sidecar env --shell k8s prints for these manifests' configuration. It is read here and not applied.\n",
	"sidecar/kustomization.yaml": written,
	"sidecar/container.yaml":     written,
	"sidecar/pod.yaml": written + `# An overlay adds the volume of the state, ` + pod.StateVolume + `. Keep terminationGracePeriodSeconds above the time that the
# agent takes to end and proxy.drain together: what the sidecar cannot finish within it is recorded as unknown.
`,
}

type (
	tree      = yaml.MapSlice
	operation struct {
		Op    string `yaml:"op"`
		Path  string `yaml:"path"`
		Value any    `yaml:"value"`
	}
)

// kinds are those whose pods stand at spec.template. A CronJob's do not: inject knows it.
var kinds = []string{"Deployment", "StatefulSet", "DaemonSet", "Job"}

func governed() tree {
	return tree{{Key: "kind", Value: strings.Join(kinds, "|")}, {Key: "labelSelector", Value: label}}
}

// agents copies each variable and the mount into every container of the lists, which are all there when the place of
// the sidecar is.
func agents(place string, lists []string) tree {
	fields := []string{"volumeMounts.[name=" + pod.TrustVolume + "]"}
	for _, v := range pod.AgentEnv() {
		fields = append(fields, "env.[name="+v.Name+"].value")
	}
	var replacements []tree
	for _, field := range fields {
		var paths []string
		for _, list := range lists {
			paths = append(paths, "spec.template.spec."+list+".*."+field)
		}
		var targets []tree
		for _, kind := range kinds {
			targets = append(targets, tree{
				{Key: "select", Value: tree{{Key: "kind", Value: kind}, {Key: "labelSelector", Value: label}}},
				{Key: "fieldPaths", Value: paths},
				{Key: "options", Value: map[string]bool{"create": true}},
			})
		}
		replacements = append(replacements, tree{
			{Key: "source", Value: tree{
				{Key: "kind", Value: "PodTemplate"}, {Key: "name", Value: pod.Name + "-agent"},
				{Key: "fieldPath", Value: "template.spec.containers.0." + field},
			}},
			{Key: "targets", Value: targets},
		})
	}
	return tree{
		{Key: "apiVersion", Value: componentVersion},
		{Key: "kind", Value: "Component"},
		{Key: "resources", Value: []string{"environment.yaml"}},
		{Key: "patches", Value: []tree{{
			{Key: "target", Value: governed()},
			{Key: "patch", Value: patchHead + "spec: {template: {spec: {" + place + ": [{name: " + pod.Name + "}]}}}\n"},
		}}},
		{Key: "replacements", Value: replacements},
	}
}

// patchHead is what kustomize wants of a patch and does not look at.
const patchHead = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: any}\n"

func environment() tree {
	return tree{
		{Key: "apiVersion", Value: "v1"},
		{Key: "kind", Value: "PodTemplate"},
		{Key: "metadata", Value: tree{
			{Key: "name", Value: pod.Name + "-agent"},
			{Key: "annotations", Value: map[string]string{"config.kubernetes.io/local-config": "true"}},
		}},
		{Key: "template", Value: tree{{Key: "spec", Value: tree{{Key: "containers", Value: []tree{{
			{Key: "name", Value: "any"},
			{Key: "env", Value: pod.AgentEnv()},
			{Key: "volumeMounts", Value: []pod.Mount{pod.AgentMount()}},
		}}}}}}},
	}
}

func sidecar() tree {
	return tree{
		{Key: "apiVersion", Value: componentVersion},
		{Key: "kind", Value: "Component"},
		{Key: "patches", Value: []tree{
			{{Key: "path", Value: "container.yaml"}, {Key: "target", Value: governed()}},
			{{Key: "path", Value: "pod.yaml"}, {Key: "target", Value: governed()}},
		}},
	}
}

// surroundings is what the pod has for the sidecar, but its state.
func surroundings() tree {
	var volumes []pod.Volume
	for _, v := range pod.Volumes(pod.Name, pod.Name, "") {
		if v.Name != pod.StateVolume {
			volumes = append(volumes, v)
		}
	}
	return tree{
		{Key: "apiVersion", Value: "apps/v1"},
		{Key: "kind", Value: "Deployment"},
		{Key: "metadata", Value: map[string]string{"name": "any"}},
		{Key: "spec", Value: tree{{Key: "template", Value: tree{{Key: "spec", Value: tree{
			{Key: "automountServiceAccountToken", Value: false},
			{Key: "volumes", Value: volumes},
		}}}}}},
	}
}
