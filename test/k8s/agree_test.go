package k8s

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// TestInjectAgreesWithKustomize: both ways to add the sidecar to the same Deployment come to the same containers.
func TestInjectAgreesWithKustomize(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(examples, "overlays", "production", "deployment.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "deployment.yaml")
	write(t, file, strings.Replace(string(text), "\nspec:\n", "\nspec:\n  replicas: 1\n  strategy: {type: Recreate}\n", 1)) // as state.yaml has it
	out, errs, err := run(t, "inject", "--egress-lock", "--state", "pvc:oo-sidecar", "-f", file)
	if err != nil {
		t.Fatalf("%v: %s", err, errs)
	}
	object, err := strict([]byte(out))
	if err != nil {
		t.Fatal(err)
	}
	injected := object.(*apps.Deployment).Spec.Template.Spec
	built := render(t, filepath.Join(examples, "overlays", "production")).governed()["billing-agent"]
	for _, p := range []*core.PodSpec{&injected, &built} {
		for _, list := range [][]core.Container{p.InitContainers, p.Containers} {
			for i := range list {
				slices.SortFunc(list[i].Env, func(a, b core.EnvVar) int { return strings.Compare(a.Name, b.Name) })
			}
		}
		slices.SortFunc(p.Volumes, func(a, b core.Volume) int { return strings.Compare(a.Name, b.Name) })
	}
	for name, pair := range map[string][2]any{
		"init containers": {injected.InitContainers, built.InitContainers},
		"containers":      {injected.Containers, built.Containers},
		"volumes":         {injected.Volumes, built.Volumes},
	} {
		if !reflect.DeepEqual(pair[0], pair[1]) {
			one, _ := yaml.Marshal(pair[0])
			two, _ := yaml.Marshal(pair[1])
			t.Errorf("%s: inject makes\n%s\nkustomize\n%s", name, one, two)
		}
	}
}
