package k8s

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/test/stand"
	core "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// run runs the program in an environment of its own.
func run(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	return runIn(t, nil, args...)
}

// runIn runs it with variables.
func runIn(t *testing.T, env []string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	bin := stand.Sidecar(t)
	cmd := exec.Command(bin, args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// configuration writes the ConfigMap's file, with the secrets that it names in a directory of this test, and returns
// its path. Which ones it names is for the test to judge.
func (r rendered) configuration(t *testing.T) (file string, secrets []string) {
	t.Helper()
	for _, object := range r.objects {
		if m, ok := object.(*core.ConfigMap); ok && m.Name == "oo-sidecar" {
			dir := t.TempDir()
			text := m.Data["config.yaml"]
			for rest := text; ; {
				_, after, more := strings.Cut(rest, "${file:/run/secrets/oo-sidecar/")
				if !more {
					break
				}
				name, tail, _ := strings.Cut(after, "}")
				secrets, rest = append(secrets, name), tail
				write(t, filepath.Join(dir, name), "a_secret_of_this_test_"+name+"\n")
			}
			file := filepath.Join(dir, "config.yaml")
			write(t, file, strings.ReplaceAll(text, "/run/secrets/oo-sidecar/", dir+"/"))
			return file, secrets
		}
	}
	t.Fatalf("%s has no configuration", r.name)
	return "", nil
}

// environment is what the container's env comes to, with the values of the Secrets that are rendered too.
func (r rendered) environment(t *testing.T, c *core.Container) (env []string) {
	t.Helper()
	for _, v := range c.Env {
		value := v.Value
		if v.ValueFrom != nil {
			from := v.ValueFrom.SecretKeyRef
			value = string(r.secret(t, from.Name)[from.Key])
			if value == "" {
				t.Errorf("%s: %s is not in the Secret %s", r.name, from.Key, from.Name)
			}
		}
		env = append(env, v.Name+"="+value)
	}
	return env
}

func (r rendered) secret(t *testing.T, name string) map[string][]byte {
	t.Helper()
	for _, object := range r.objects {
		if s, ok := object.(*core.Secret); ok && s.Name == name {
			return s.Data
		}
	}
	t.Fatalf("%s has no Secret %s", r.name, name)
	return nil
}

// TestConfigurations: the program's own loader takes what is in the ConfigMaps, and refuses it with a misspelt key.
func TestConfigurations(t *testing.T) {
	t.Parallel()
	for _, r := range all(t) {
		file, secrets := r.configuration(t)
		if out, errs, err := run(t, "check", "--config", file); err != nil {
			t.Errorf("%s: %v\n%s%s", r.name, err, out, errs)
		}
		for _, p := range r.governed() {
			if out, errs, err := runIn(t, r.environment(t, sidecarOf(p)), "check", "--config", file); err != nil {
				t.Errorf("%s, with the container's environment: %v\n%s%s", r.name, err, out, errs)
			}
		}
		if !slices.Contains(secrets, "operator") {
			t.Errorf("%s: the operator's key is not of the Secret", r.name)
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		write(t, file, strings.Replace(string(text), "intercept:", "intercpet:", 1))
		if _, _, err := run(t, "check", "--config", file); err == nil {
			t.Errorf("%s: a misspelt key is taken", r.name)
		}
	}
}

// TestSidecars: what makes the sidecar one that an agent cannot outlive, outrun or read.
func TestSidecars(t *testing.T) {
	t.Parallel()
	for _, r := range all(t) {
		for name, p := range r.governed() {
			t.Run(r.name+"/"+name, func(t *testing.T) {
				checkSidecar(t, p, r.name != "classic")
				checkAgents(t, p, r)
			})
		}
	}
}

func checkSidecar(t *testing.T, p core.PodSpec, native bool) {
	t.Helper()
	s := sidecarOf(p)
	switch {
	case native && (p.InitContainers[0].Name != s.Name || s.RestartPolicy == nil || *s.RestartPolicy != core.ContainerRestartPolicyAlways):
		t.Error("it is no native sidecar, or not the first")
	case !native && (p.Containers[0].Name != s.Name || s.Lifecycle.PostStart.Exec == nil):
		t.Error("it is not the first container, or does not hold back the others")
	}
	for kind, probe := range map[string]*core.Probe{"/readyz startup": s.StartupProbe, "/readyz readiness": s.ReadinessProbe, "/livez liveness": s.LivenessProbe} {
		path, _, _ := strings.Cut(kind, " ")
		if probe == nil || probe.HTTPGet == nil || probe.HTTPGet.Path != path || probe.HTTPGet.Port.String() != "health" {
			t.Errorf("%s: %+v", kind, probe)
		}
	}
	if len(s.Ports) != 1 || s.Ports[0].ContainerPort != 4782 || s.Ports[0].Name != "health" {
		t.Errorf("the ports on the pod's address: %+v", s.Ports)
	}
	if user := s.SecurityContext.RunAsUser; user == nil || *user != 4780 || !*s.SecurityContext.ReadOnlyRootFilesystem {
		t.Errorf("security context %+v", s.SecurityContext)
	}
	if s.Resources.Requests.Memory().IsZero() || s.Resources.Requests.Cpu().IsZero() || s.Resources.Limits.Memory().IsZero() || !s.Resources.Limits.Cpu().IsZero() {
		t.Errorf("resources %+v", s.Resources)
	}
	if p.AutomountServiceAccountToken == nil || *p.AutomountServiceAccountToken {
		t.Error("the pod has a token")
	}
	if grace := p.TerminationGracePeriodSeconds; grace == nil || time.Duration(*grace)*time.Second < 2*20*time.Second {
		t.Errorf("terminationGracePeriodSeconds leaves no time for drain and the agent")
	}
	volumes := map[string]core.Volume{}
	for _, v := range p.Volumes {
		volumes[v.Name] = v
	}
	for _, m := range s.VolumeMounts {
		if _, ok := volumes[m.Name]; !ok {
			t.Errorf("volume %s is not there", m.Name)
		}
	}
}

// checkAgents: the other containers have the way through the sidecar and nothing that is its own.
func checkAgents(t *testing.T, p core.PodSpec, r rendered) {
	t.Helper()
	file, _ := r.configuration(t)
	out, errs, err := run(t, "env", "--shell", "k8s", "--config", file)
	if err != nil {
		t.Fatalf("%v: %s", err, errs)
	}
	var want struct{ Env []core.EnvVar }
	if err := yaml.UnmarshalStrict([]byte(out), &want); err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, c := range slices.Concat(p.InitContainers, p.Containers) {
		if c.Name == "oo-sidecar" || c.Name == "oo-egress-lock" {
			continue
		}
		if sidecar := sidecarOf(p); sidecar.RestartPolicy == nil && slices.ContainsFunc(p.InitContainers, func(i core.Container) bool { return i.Name == c.Name }) {
			continue
		}
		seen++
		for _, v := range want.Env {
			if !slices.ContainsFunc(c.Env, func(e core.EnvVar) bool { return e.Name == v.Name && e.Value == v.Value }) {
				t.Errorf("%s has no %s=%s, as oo-sidecar env prints it", c.Name, v.Name, v.Value)
			}
		}
		trusts := false
		for _, m := range c.VolumeMounts {
			switch {
			case m.Name == "oo-sidecar-trust":
				trusts = m.ReadOnly && m.MountPath == "/run/oo-sidecar/trust"
			case strings.HasPrefix(m.Name, "oo-sidecar"):
				t.Errorf("%s reads the sidecar's %s", c.Name, m.Name)
			}
		}
		if !trusts {
			t.Errorf("%s does not have the certificates, read-only", c.Name)
		}
		if user := c.SecurityContext.RunAsUser; user == nil || *user == 4780 || *user == 0 {
			t.Errorf("%s runs as the sidecar, or as root", c.Name)
		}
	}
	if seen == 0 {
		t.Error("no container is the agent")
	}
}

// TestState: what has run outlives the pod in production, and the demo says that there it does not.
func TestState(t *testing.T) {
	t.Parallel()
	for overlay, claimed := range map[string]bool{"demo": false, "production": true} {
		r := render(t, filepath.Join(examples, "overlays", overlay))
		for name, p := range r.governed() {
			at := slices.IndexFunc(p.Volumes, func(v core.Volume) bool { return v.Name == "oo-sidecar-state" })
			if at < 0 || (p.Volumes[at].PersistentVolumeClaim != nil) != claimed || (p.Volumes[at].EmptyDir != nil) == claimed {
				t.Errorf("%s: the state of %s: %+v", overlay, name, p.Volumes)
			}
		}
		file, _ := r.configuration(t)
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "lifetime: pod") == claimed {
			t.Errorf("%s: the configuration promises something else than its volume:\n%s", overlay, text)
		}
		for _, want := range []string{"ca_key: memory", "ca_out: /run/oo-sidecar/trust", `listen: "[::]:4782"`} {
			if !strings.Contains(string(text), want) {
				t.Errorf("%s: no %s", overlay, want)
			}
		}
	}
}
