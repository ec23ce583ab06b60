package k8s

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	admissionregistration "k8s.io/api/admissionregistration/v1"
	apps "k8s.io/api/apps/v1"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	rbac "k8s.io/api/rbac/v1"
)

// injectable are the manifests that inject is tested on.
var injectable = filepath.Join("..", "..", "internal", "inject", "testdata")

// TestInjectedManifestsAreStrict: what inject prints is of Kubernetes' types, with no field that they have not, and the
// containers that it adds keep to the restricted standard.
func TestInjectedManifestsAreStrict(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join(injectable, "*.injected"))
	if err != nil || len(files) < 10 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		pods := 0
		for _, doc := range documents(text) {
			if strings.Contains(string(doc), "kind: Rollout") || !strings.Contains(string(doc), "apiVersion:") {
				continue
			}
			object, err := strict(doc)
			if err != nil {
				t.Errorf("%s: %v\n%s", file, err, doc)
				continue
			}
			for _, pod := range templatesOf(t, object) {
				pods++
				judgeInjected(t, file, pod)
			}
		}
		if pods == 0 {
			t.Errorf("%s: no pod was found in it", file)
		}
	}
}

// templatesOf are the pods that an object has or makes.
func templatesOf(t *testing.T, object any) []core.PodTemplateSpec {
	t.Helper()
	switch o := object.(type) {
	case *core.Pod:
		return []core.PodTemplateSpec{{ObjectMeta: o.ObjectMeta, Spec: o.Spec}}
	case *apps.Deployment:
		return []core.PodTemplateSpec{o.Spec.Template}
	case *apps.StatefulSet:
		return []core.PodTemplateSpec{o.Spec.Template}
	case *apps.DaemonSet:
		return []core.PodTemplateSpec{o.Spec.Template}
	case *batch.Job:
		return []core.PodTemplateSpec{o.Spec.Template}
	case *batch.CronJob:
		return []core.PodTemplateSpec{o.Spec.JobTemplate.Spec.Template}
	case *core.List:
		var all []core.PodTemplateSpec
		for _, item := range o.Items {
			inner, err := strict(item.Raw)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, templatesOf(t, inner)...)
		}
		return all
	}
	return nil
}

func judgeInjected(t *testing.T, file string, pod core.PodTemplateSpec) {
	t.Helper()
	if pod.Annotations["oo-sidecar/inject"] == "false" {
		return
	}
	sidecar := sidecarOf(pod.Spec)
	if sidecar == nil {
		t.Errorf("%s: no sidecar", file)
		return
	}
	if broken := restrictedContainer(*sidecar, &core.PodSecurityContext{}); broken != nil {
		t.Errorf("%s: the sidecar is not restricted: %v", file, broken)
	}
	native := sidecar.RestartPolicy != nil && *sidecar.RestartPolicy == core.ContainerRestartPolicyAlways
	if native && pod.Spec.InitContainers[0].Name != "oo-sidecar" {
		t.Errorf("%s: the sidecar is not the first", file)
	}
	agents := slices.Clone(pod.Spec.Containers)
	if native {
		agents = slices.Concat(pod.Spec.InitContainers, agents)
	}
	for _, c := range agents {
		if strings.HasPrefix(c.Name, "oo-") || strings.Contains(pod.Annotations["oo-sidecar/skip-containers"], c.Name) {
			continue
		}
		proxied := slices.ContainsFunc(c.Env, func(e core.EnvVar) bool { return e.Name == "https_proxy" && e.Value == "http://127.0.0.1:4780" })
		trusts := slices.ContainsFunc(c.VolumeMounts, func(m core.VolumeMount) bool { return m.Name == "oo-sidecar-trust" && m.ReadOnly })
		if !proxied || !trusts {
			t.Errorf("%s: container %s is led by %v and trusts %v", file, c.Name, proxied, trusts)
		}
	}
}

// TestInjectorManifests: what the injector may do, whom it is asked about, and that its arguments are the program's.
func TestInjectorManifests(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, object := range render(t, filepath.Join(examples, "injector")).objects {
		switch o := object.(type) {
		case *rbac.Role:
			seen["role"] = true
			judgeRules(t, o.Rules, []string{"get", "update"})
		case *rbac.ClusterRole:
			seen["cluster role"] = true
			judgeRules(t, o.Rules, []string{"get", "patch"})
		case *admissionregistration.MutatingWebhookConfiguration:
			seen["webhook"] = true
			judgeWebhook(t, o)
		case *apps.Deployment:
			seen["deployment"] = true
			if *o.Spec.Replicas < 2 {
				t.Error("one replica: its node's end would keep every pod from starting")
			}
			if broken := restricted(o.Spec.Template); broken != nil {
				t.Errorf("not restricted: %v", broken)
			}
			if out, errs, err := run(t, append(o.Spec.Template.Spec.Containers[0].Args, "--help")...); err != nil {
				t.Errorf("the program does not take its arguments: %v %s %s", err, out, errs)
			}
		}
	}
	for _, what := range []string{"role", "cluster role", "webhook", "deployment"} {
		if !seen[what] {
			t.Errorf("no %s was found", what)
		}
	}
}

func judgeRules(t *testing.T, rules []rbac.PolicyRule, verbs []string) {
	t.Helper()
	for _, r := range rules {
		if !slices.Equal(r.ResourceNames, []string{"oo-sidecar-injector"}) || !slices.Equal(r.Verbs, verbs) || len(r.Resources) != 1 {
			t.Errorf("it may do more than it needs: %v", r)
		}
	}
}

func judgeWebhook(t *testing.T, o *admissionregistration.MutatingWebhookConfiguration) {
	t.Helper()
	for _, w := range o.Webhooks {
		if *w.FailurePolicy != admissionregistration.Fail || *w.SideEffects != admissionregistration.SideEffectClassNone || *w.ClientConfig.Service.Path != "/inject" {
			t.Errorf("%s: fails open, has side effects, or asks elsewhere", w.Name)
		}
		if w.NamespaceSelector.MatchLabels["oo-sidecar/inject"] != "enabled" {
			t.Errorf("%s: namespaces need not opt in", w.Name)
		}
		var never []string
		for _, e := range w.NamespaceSelector.MatchExpressions {
			if e.Key == "kubernetes.io/metadata.name" && e.Operator == "NotIn" {
				never = e.Values
			}
		}
		for _, name := range []string{"kube-system", "oo-sidecar-injector"} {
			if !slices.Contains(never, name) {
				t.Errorf("%s: is asked about %s", w.Name, name)
			}
		}
		rules, _ := json.Marshal(w.Rules)
		if string(rules) != `[{"operations":["CREATE"],"apiGroups":[""],"apiVersions":["v1"],"resources":["pods"],"scope":"Namespaced"}]` {
			t.Errorf("%s: %s", w.Name, rules)
		}
	}
}
