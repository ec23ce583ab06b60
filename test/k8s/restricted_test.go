package k8s

import (
	"fmt"
	"slices"
	"testing"

	core "k8s.io/api/core/v1"
)

// restricted judges a pod by the rules of the Pod Security Standard "restricted" (which has those of "baseline" in it),
// and names what breaks them.
func restricted(p core.PodTemplateSpec) (broken []string) {
	say := func(format string, args ...any) { broken = append(broken, fmt.Sprintf(format, args...)) }
	spec := p.Spec
	if spec.HostNetwork || spec.HostPID || spec.HostIPC {
		say("host namespaces")
	}
	pod := spec.SecurityContext
	if pod == nil {
		pod = &core.PodSecurityContext{}
	}
	if len(pod.Sysctls) > 0 {
		say("sysctls")
	}
	if pod.SELinuxOptions != nil || pod.AppArmorProfile != nil && pod.AppArmorProfile.Type == core.AppArmorProfileTypeUnconfined ||
		pod.WindowsOptions != nil {
		say("the pod's SELinux, AppArmor or Windows options")
	}
	for _, v := range spec.Volumes {
		s := v.VolumeSource
		if s.ConfigMap == nil && s.CSI == nil && s.DownwardAPI == nil && s.EmptyDir == nil && s.Ephemeral == nil && s.PersistentVolumeClaim == nil && s.Projected == nil && s.Secret == nil {
			say("volume %s is of a kind that is not allowed", v.Name)
		}
	}
	for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
		for _, what := range restrictedContainer(c, pod) {
			say("%s: %s", c.Name, what)
		}
	}
	return broken
}

func restrictedContainer(c core.Container, pod *core.PodSecurityContext) (broken []string) {
	say := func(what string) { broken = append(broken, what) }
	s := c.SecurityContext
	if s == nil {
		s = &core.SecurityContext{}
	}
	yes := func(b *bool) bool { return b != nil && *b }
	if yes(s.Privileged) {
		say("privileged")
	}
	if s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation {
		say("allowPrivilegeEscalation")
	}
	nonRoot := pod.RunAsNonRoot
	if s.RunAsNonRoot != nil {
		nonRoot = s.RunAsNonRoot
	}
	if !yes(nonRoot) {
		say("runAsNonRoot")
	}
	if user := s.RunAsUser; user != nil && *user == 0 || user == nil && pod.RunAsUser != nil && *pod.RunAsUser == 0 {
		say("runs as root")
	}
	seccomp := pod.SeccompProfile
	if s.SeccompProfile != nil {
		seccomp = s.SeccompProfile
	}
	if seccomp == nil || seccomp.Type != core.SeccompProfileTypeRuntimeDefault && seccomp.Type != core.SeccompProfileTypeLocalhost {
		say("seccompProfile")
	}
	if s.Capabilities == nil || !slices.Contains(s.Capabilities.Drop, "ALL") {
		say("keeps capabilities")
	} else if slices.ContainsFunc(s.Capabilities.Add, func(added core.Capability) bool { return added != "NET_BIND_SERVICE" }) {
		say("adds capabilities")
	}
	if s.ProcMount != nil && *s.ProcMount != core.DefaultProcMount || s.SELinuxOptions != nil || s.WindowsOptions != nil ||
		s.AppArmorProfile != nil && s.AppArmorProfile.Type == core.AppArmorProfileTypeUnconfined {
		say("procMount, SELinux, AppArmor or Windows options")
	}
	for _, p := range c.Ports {
		if p.HostPort != 0 {
			say("a port of the host")
		}
	}
	for _, probe := range []*core.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
		if probe != nil && (probe.HTTPGet != nil && probe.HTTPGet.Host != "" || probe.TCPSocket != nil && probe.TCPSocket.Host != "") {
			say("a probe of another host")
		}
	}
	return broken
}

// TestRestricted: every pod passes, but for the container of the egress lock.
func TestRestricted(t *testing.T) {
	t.Parallel()
	locks := 0
	for _, r := range all(t) {
		for name, p := range r.pods() {
			p.Spec.InitContainers = slices.DeleteFunc(slices.Clone(p.Spec.InitContainers), func(c core.Container) bool {
				if c.Name == "oo-egress-lock" {
					locks++
					if added := c.SecurityContext.Capabilities.Add; len(added) != 1 || added[0] != "NET_ADMIN" || *c.SecurityContext.AllowPrivilegeEscalation || !*c.SecurityContext.ReadOnlyRootFilesystem {
						t.Errorf("%s: the lock has more than NET_ADMIN: %+v", r.name, c.SecurityContext)
					}
				}
				return c.Name == "oo-egress-lock"
			})
			if broken := restricted(p); broken != nil {
				t.Errorf("%s: %s breaks restricted: %q", r.name, name, broken)
			}
		}
	}
	if locks != 1 {
		t.Errorf("%d egress locks were rendered", locks)
	}
}

// TestRestrictedRefuses: each rule can be broken.
func TestRestrictedRefuses(t *testing.T) {
	t.Parallel()
	yes, no, root, unmasked := true, false, int64(0), core.UnmaskedProcMount
	sidecar := func(p *core.PodTemplateSpec) *core.SecurityContext { return sidecarOf(p.Spec).SecurityContext }
	for name, breaks := range map[string]func(p *core.PodTemplateSpec){
		"host network": func(p *core.PodTemplateSpec) { p.Spec.HostNetwork = true },
		"host path": func(p *core.PodTemplateSpec) {
			p.Spec.Volumes[0].VolumeSource = core.VolumeSource{HostPath: &core.HostPathVolumeSource{}}
		},
		"privileged":      func(p *core.PodTemplateSpec) { sidecar(p).Privileged = &yes },
		"escalation":      func(p *core.PodTemplateSpec) { sidecar(p).AllowPrivilegeEscalation = nil },
		"root":            func(p *core.PodTemplateSpec) { sidecar(p).RunAsUser = &root },
		"non-root unsaid": func(p *core.PodTemplateSpec) { sidecar(p).RunAsNonRoot = &no },
		"seccomp":         func(p *core.PodTemplateSpec) { sidecar(p).SeccompProfile.Type = core.SeccompProfileTypeUnconfined },
		"capabilities":    func(p *core.PodTemplateSpec) { sidecar(p).Capabilities = nil },
		"added":           func(p *core.PodTemplateSpec) { sidecar(p).Capabilities.Add = []core.Capability{"NET_RAW"} },
		"host port":       func(p *core.PodTemplateSpec) { sidecarOf(p.Spec).Ports[0].HostPort = 4782 },
		"proc mount":      func(p *core.PodTemplateSpec) { sidecar(p).ProcMount = &unmasked },
		"sysctl":          func(p *core.PodTemplateSpec) { p.Spec.SecurityContext.Sysctls = make([]core.Sysctl, 1) },
		"probe host":      func(p *core.PodTemplateSpec) { sidecarOf(p.Spec).LivenessProbe.HTTPGet.Host = "example.com" },
	} {
		pod := demoAgent(t)
		if broken := restricted(pod); broken != nil {
			t.Fatal(broken)
		}
		breaks(&pod)
		if restricted(pod) == nil {
			t.Errorf("%s: passes", name)
		}
	}
	lock := render(t, examples+"/overlays/production").pods()["billing-agent"]
	if restricted(lock) == nil {
		t.Error("the egress lock passes")
	}
}

func demoAgent(t *testing.T) core.PodTemplateSpec {
	t.Helper()
	pod, ok := render(t, examples+"/overlays/demo").pods()["agent"]
	if !ok {
		t.Fatal("the demo has no agent")
	}
	return pod
}
