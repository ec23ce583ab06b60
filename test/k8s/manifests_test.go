// Package k8s tests what a cluster would be given, without a cluster: the manifests, the image, the egress lock. A
// kubelet, real pulls and NetworkPolicy are not tested here.
package k8s

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/oo-sidecar/oo-sidecar/test/stand"
	admissionregistration "k8s.io/api/admissionregistration/v1"
	apps "k8s.io/api/apps/v1"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	policy "k8s.io/api/policy/v1"
	rbac "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"
)

// examples is examples/k8s.
var examples = filepath.Join("..", "..", "examples", "k8s")

// kinds are the types that a document may be; what is none of them fails.
var kinds = map[string]func() any{
	"v1/ConfigMap":             func() any { return new(core.ConfigMap) },
	"v1/PersistentVolumeClaim": func() any { return new(core.PersistentVolumeClaim) },
	"v1/Secret":                func() any { return new(core.Secret) },
	"v1/Service":               func() any { return new(core.Service) },
	"v1/ServiceAccount":        func() any { return new(core.ServiceAccount) },
	"apps/v1/Deployment":       func() any { return new(apps.Deployment) },
	"apps/v1/StatefulSet":      func() any { return new(apps.StatefulSet) },
	"batch/v1/Job":             func() any { return new(batch.Job) },

	"v1/List":                           func() any { return new(core.List) },
	"v1/Namespace":                      func() any { return new(core.Namespace) },
	"v1/Pod":                            func() any { return new(core.Pod) },
	"apps/v1/DaemonSet":                 func() any { return new(apps.DaemonSet) },
	"batch/v1/CronJob":                  func() any { return new(batch.CronJob) },
	"policy/v1/PodDisruptionBudget":     func() any { return new(policy.PodDisruptionBudget) },
	"rbac.authorization.k8s.io/v1/Role": func() any { return new(rbac.Role) },
	"rbac.authorization.k8s.io/v1/RoleBinding":                     func() any { return new(rbac.RoleBinding) },
	"rbac.authorization.k8s.io/v1/ClusterRole":                     func() any { return new(rbac.ClusterRole) },
	"rbac.authorization.k8s.io/v1/ClusterRoleBinding":              func() any { return new(rbac.ClusterRoleBinding) },
	"admissionregistration.k8s.io/v1/MutatingWebhookConfiguration": func() any { return new(admissionregistration.MutatingWebhookConfiguration) },
}

// rendered is what a kustomization comes to, decoded.
type rendered struct {
	name    string
	objects []any
}

// strict decodes one document into Kubernetes' own type; a field that the type has not is an error.
func strict(doc []byte) (any, error) {
	var head struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
	}
	if err := yaml.Unmarshal(doc, &head); err != nil {
		return nil, err
	}
	make, ok := kinds[head.APIVersion+"/"+head.Kind]
	if !ok {
		return nil, &unknownKind{head.APIVersion + "/" + head.Kind}
	}
	object := make()
	return object, yaml.UnmarshalStrict(doc, object)
}

type unknownKind struct{ name string }

func (e *unknownKind) Error() string { return "no type is known for " + e.name }

// kustomize renders a directory.
func kustomize(t *testing.T, dir string) []byte {
	t.Helper()
	cmd := exec.Command(stand.Program(t, "kustomize"), "build", dir)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", dir, err, errs.String())
	}
	return out
}

func documents(text []byte) [][]byte {
	var all [][]byte
	for doc := range bytes.SplitSeq(append([]byte("\n"), text...), []byte("\n---\n")) {
		if len(bytes.TrimSpace(doc)) > 0 {
			all = append(all, doc)
		}
	}
	return all
}

func render(t *testing.T, dir string) rendered {
	t.Helper()
	r := rendered{name: filepath.Base(dir)}
	for _, doc := range documents(kustomize(t, dir)) {
		object, err := strict(doc)
		if err != nil {
			t.Fatalf("%s: %v\n%s", dir, err, doc)
		}
		r.objects = append(r.objects, object)
	}
	return r
}

// variants are kustomizations of components that no overlay has, written beside a copy of the examples.
var variants = map[string]string{
	"classic": "resources: [agent.yaml, ../../base]\ncomponents: [../../components/classic-sidecar]\npatches: [{target: {kind: Deployment}, path: state.yaml}]\n",
}

const stateOfVariant = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: any}\nspec: {template: {spec: {volumes: [{name: oo-sidecar-state, emptyDir: {}}]}}}\n"

// withVariants is a copy of the examples with the variants among the overlays.
func withVariants(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	if err := os.CopyFS(root, os.DirFS(examples)); err != nil {
		t.Fatal(err)
	}
	agent, err := os.ReadFile(filepath.Join(root, "overlays", "demo", "agent.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range variants {
		write(t, filepath.Join(root, "overlays", name, "agent.yaml"), string(agent))
		write(t, filepath.Join(root, "overlays", name, "kustomization.yaml"),
			"apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"+text)
		write(t, filepath.Join(root, "overlays", name, "state.yaml"), stateOfVariant)
	}
	return root
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// all renders everything that renders.
func all(t *testing.T) []rendered {
	t.Helper()
	root := withVariants(t)
	files, err := filepath.Glob(filepath.Join(root, "overlays", "*", "kustomization.yaml"))
	if err != nil || len(files) < 2+len(variants) {
		t.Fatalf("%d overlays: %v", len(files), err)
	}
	list := []rendered{render(t, filepath.Join(root, "base"))}
	for _, file := range files {
		list = append(list, render(t, filepath.Dir(file)))
	}
	return list
}

// pods are the templates by their workload's name.
func (r rendered) pods() map[string]core.PodTemplateSpec {
	pods := map[string]core.PodTemplateSpec{}
	for _, object := range r.objects {
		switch o := object.(type) {
		case *apps.Deployment:
			pods[o.Name] = o.Spec.Template
		case *apps.StatefulSet:
			pods[o.Name] = o.Spec.Template
		case *batch.Job:
			pods[o.Name] = o.Spec.Template
		}
	}
	return pods
}

// governed are the pods with a sidecar.
func (r rendered) governed() map[string]core.PodSpec {
	pods := map[string]core.PodSpec{}
	for name, p := range r.pods() {
		if sidecarOf(p.Spec) != nil {
			pods[name] = p.Spec
		}
	}
	return pods
}

func sidecarOf(p core.PodSpec) *core.Container {
	for _, list := range [][]core.Container{p.InitContainers, p.Containers} {
		if i := slices.IndexFunc(list, func(c core.Container) bool { return c.Name == "oo-sidecar" }); i >= 0 {
			return &list[i]
		}
	}
	return nil
}

// TestManifestsAreStrict: every document is of a type of Kubernetes and has no field that the type has not; and every
// workload that is meant to be governed is.
func TestManifestsAreStrict(t *testing.T) {
	t.Parallel()
	for _, r := range all(t) {
		for _, object := range r.objects {
			if d, ok := object.(*apps.Deployment); ok && d.Labels["oo-sidecar/governed"] == "true" && sidecarOf(d.Spec.Template.Spec) == nil {
				t.Errorf("%s: %s has no sidecar", r.name, d.Name)
			}
		}
		if r.name != "base" && len(r.governed()) == 0 {
			t.Errorf("%s: no pod has a sidecar", r.name)
		}
	}
}

// TestAnUnknownFieldFails: what the other tests rely on.
func TestAnUnknownFieldFails(t *testing.T) {
	t.Parallel()
	text := kustomize(t, filepath.Join(examples, "overlays", "production"))
	for _, name := range []string{"startupProbe:", "restartPolicy:", "readOnlyRootFilesystem:", "automountServiceAccountToken:", "accessModes:", "data:"} {
		if !bytes.Contains(text, []byte(name)) {
			t.Fatalf("nothing has %s", name)
		}
		failed := false
		for _, doc := range documents(bytes.ReplaceAll(text, []byte(name), []byte("mis"+name))) {
			_, err := strict(doc)
			failed = failed || err != nil && strings.Contains(err.Error(), "unknown field")
		}
		if !failed {
			t.Errorf("mis%s is taken", name)
		}
	}
}
