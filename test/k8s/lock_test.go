package k8s

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// TestInjectLocksAsTheComponentDoes: the lock that inject adds is the one of components/egress-lock, whose rules are
// tested.
func TestInjectLocksAsTheComponentDoes(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(examples, "components", "egress-lock", "container.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var steps []struct {
		Op    string
		Path  string
		Value any
	}
	if err := yaml.Unmarshal(text, &steps); err != nil {
		t.Fatal(err)
	}
	value, err := yaml.Marshal(steps[len(steps)-1].Value)
	if err != nil {
		t.Fatal(err)
	}
	var want core.Container
	if err := yaml.UnmarshalStrict(value, &want); err != nil {
		t.Fatal(err)
	}
	injected, err := os.ReadFile(filepath.Join(injectable, "egress-lock.yaml.injected"))
	if err != nil {
		t.Fatal(err)
	}
	var d apps.Deployment
	if err := yaml.UnmarshalStrict(injected, &d); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(d.Spec.Template.Spec.InitContainers, func(c core.Container) bool { return c.Name == want.Name })
	if i != 1 {
		t.Fatalf("the lock is init container %d, not the second", i)
	}
	got := d.Spec.Template.Spec.InitContainers[i]
	if !reflect.DeepEqual(got, want) {
		t.Errorf("inject adds\n%+v\nand the component\n%+v", got, want)
	}
}
