// Package pod is the one table behind `env`, `run`, `inject`, the webhook and examples/k8s: the variables that lead an
// agent through the sidecar, and the container, volumes and mounts of a sidecar in a pod.
package pod

import "strconv"

// What every manifest agrees on. Container and volumes carry a prefix, so that they meet nobody else's.
const (
	Name  = "oo-sidecar"       // of the container, its ConfigMap, Secret and claim
	Image = "oo-sidecar:0.0.0" // stands for the image; overlays and inject name the real one
	UID   = 4780               // the sidecar's user and group, by which the egress lock knows its packets; no other container may run as it

	ProxyPort  = 4780
	APIPort    = 4781
	HealthPort = 4782

	ConfigVolume  = "oo-sidecar-config"
	SecretsVolume = "oo-sidecar-secrets"
	StateVolume   = "oo-sidecar-state"
	TrustVolume   = "oo-sidecar-trust"

	ConfigDir  = "/etc/oo-sidecar"
	ConfigFile = ConfigDir + "/config.yaml"
	SecretsDir = "/run/secrets/oo-sidecar"
	StateDir   = "/var/lib/oo-sidecar"
	TrustDir   = "/run/oo-sidecar/trust" // certificate and bundle, never the key; the same path in every container

	// DrainSeconds is proxy.drain's default. GraceSeconds leaves the agent half of its own time before that.
	DrainSeconds = 20
	GraceSeconds = 60
)

// Container is the part of Kubernetes' type of that name that a sidecar needs.
type Container struct {
	Name            string          `yaml:"name"`
	Image           string          `yaml:"image"`
	RestartPolicy   string          `yaml:"restartPolicy,omitempty"` // Always makes an init container a native sidecar
	Command         []string        `yaml:"command,omitempty"`
	Args            []string        `yaml:"args,omitempty"`
	Env             []EnvVar        `yaml:"env,omitempty"`
	Ports           []Port          `yaml:"ports,omitempty"`
	StartupProbe    *Probe          `yaml:"startupProbe,omitempty"`
	ReadinessProbe  *Probe          `yaml:"readinessProbe,omitempty"`
	LivenessProbe   *Probe          `yaml:"livenessProbe,omitempty"`
	Lifecycle       *Lifecycle      `yaml:"lifecycle,omitempty"`
	Resources       Resources       `yaml:"resources"`
	SecurityContext SecurityContext `yaml:"securityContext"`
	VolumeMounts    []Mount         `yaml:"volumeMounts"`
}

// EnvVar is one variable of a container.
type EnvVar struct {
	Name  string `yaml:"name"`
	Value string `yaml:"value"`
}

// Port is one port of a container, for those who read the manifest: only the health listener is on the pod's address.
type Port struct {
	Name          string `yaml:"name"`
	ContainerPort int    `yaml:"containerPort"`
}

// Probe asks the health listener.
type Probe struct {
	HTTPGet          HTTPGet `yaml:"httpGet"`
	PeriodSeconds    int     `yaml:"periodSeconds"`
	TimeoutSeconds   int     `yaml:"timeoutSeconds"`
	FailureThreshold int     `yaml:"failureThreshold"`
}

// HTTPGet is a probe's request.
type HTTPGet struct {
	Path string `yaml:"path"`
	Port string `yaml:"port"`
}

// Lifecycle holds the next container back until the sidecar is ready, where there are no native sidecars.
type Lifecycle struct {
	PostStart Hook `yaml:"postStart"`
}

// Hook is a command within the container.
type Hook struct {
	Exec struct {
		Command []string `yaml:"command"`
	} `yaml:"exec"`
}

// Resources are what the scheduler is asked for and what the kernel enforces.
type Resources struct {
	Requests map[string]string `yaml:"requests"`
	Limits   map[string]string `yaml:"limits"`
}

// SecurityContext is what PodSecurity's `restricted` asks of a container, and a read-only root besides.
type SecurityContext struct {
	RunAsUser                int               `yaml:"runAsUser"`
	RunAsGroup               int               `yaml:"runAsGroup"`
	RunAsNonRoot             bool              `yaml:"runAsNonRoot"`
	AllowPrivilegeEscalation bool              `yaml:"allowPrivilegeEscalation"`
	ReadOnlyRootFilesystem   bool              `yaml:"readOnlyRootFilesystem"`
	Capabilities             Capabilities      `yaml:"capabilities"`
	SeccompProfile           map[string]string `yaml:"seccompProfile"`
}

// Capabilities are those of the kernel.
type Capabilities struct {
	Drop []string `yaml:"drop"`
	Add  []string `yaml:"add,omitempty"`
}

// Mount is a volume in a container.
type Mount struct {
	Name      string `yaml:"name"`
	MountPath string `yaml:"mountPath"`
	ReadOnly  bool   `yaml:"readOnly,omitempty"`
}

// Volume is one of a pod; exactly one source is set.
type Volume struct {
	Name      string            `yaml:"name"`
	ConfigMap map[string]string `yaml:"configMap,omitempty"`
	Secret    map[string]string `yaml:"secret,omitempty"`
	Claim     map[string]string `yaml:"persistentVolumeClaim,omitempty"`
	EmptyDir  map[string]string `yaml:"emptyDir,omitempty"`
}

// Sidecar is the native sidecar: the first init container, which starts before the agent and ends after it.
func Sidecar(image string) Container {
	c := container(image)
	c.RestartPolicy = "Always"
	return c
}

// Classic is the sidecar as a container like any other, for clusters before 1.29: the first one, whose hook keeps those
// behind it from starting before it is ready.
func Classic(image string) Container {
	c := container(image)
	c.Lifecycle = &Lifecycle{}
	c.Lifecycle.PostStart.Exec.Command = []string{"/oo-sidecar", "health", "--config", ConfigFile, "--wait", "60s"}
	return c
}

func container(image string) Container {
	return Container{
		Name:  Name,
		Image: image,
		Args:  []string{"serve", "--config", ConfigFile},
		Ports: []Port{{"health", HealthPort}},
		// A journal of millions of calls takes seconds to read; the agent waits for it.
		StartupProbe:   probe("/readyz", 1, 120),
		ReadinessProbe: probe("/readyz", 5, 3),
		LivenessProbe:  probe("/livez", 10, 6),
		// Idle it takes 15 MB and no processor. 64 MiB is the collector's goal, 192 MiB the most that bodies being read
		// may take together, 160 MB the index of five million keys. No limit on the processor: throttled, it would make
		// every call of the agent late.
		Resources: Resources{Requests: map[string]string{"cpu": "50m", "memory": "64Mi"}, Limits: map[string]string{"memory": "512Mi"}},
		SecurityContext: SecurityContext{
			RunAsUser: UID, RunAsGroup: UID, RunAsNonRoot: true, ReadOnlyRootFilesystem: true,
			Capabilities:   Capabilities{Drop: []string{"ALL"}},
			SeccompProfile: map[string]string{"type": "RuntimeDefault"},
		},
		VolumeMounts: []Mount{
			{ConfigVolume, ConfigDir, true},
			{SecretsVolume, SecretsDir, true},
			{StateVolume, StateDir, false},
			{TrustVolume, TrustDir, false},
		},
	}
}

func probe(path string, period, failures int) *Probe {
	return &Probe{HTTPGet{path, "health"}, period, 3, failures}
}

// Volumes are those of the sidecar. claim is the PersistentVolumeClaim of its state; empty: an emptyDir, which goes
// with the pod and asks for `store.embedded.lifetime: pod`.
func Volumes(config, secret, claim string) []Volume {
	state := Volume{Name: StateVolume, EmptyDir: map[string]string{"sizeLimit": "5Gi"}}
	if claim != "" {
		state = Volume{Name: StateVolume, Claim: map[string]string{"claimName": claim}}
	}
	return []Volume{
		{Name: ConfigVolume, ConfigMap: map[string]string{"name": config}},
		{Name: SecretsVolume, Secret: map[string]string{"secretName": secret}},
		state,
		{Name: TrustVolume, EmptyDir: map[string]string{"medium": "Memory", "sizeLimit": "8Mi"}},
	}
}

// Local is the sidecar as the other containers of its pod see it, with interception on.
func Local() Outlet {
	return Outlet{
		Proxy: "127.0.0.1:" + strconv.Itoa(ProxyPort),
		Trust: Trust{Bundle: TrustDir + "/bundle.pem", Extra: TrustDir + "/ca.pem", Store: TrustDir + "/bundle.p12"},
	}
}

// AgentEnv are the variables of every container that does not opt out.
func AgentEnv() []EnvVar {
	list, _ := Local().Variables(func(string) (string, bool) { return "", false })
	env := make([]EnvVar, len(list))
	for i, v := range list {
		env[i] = EnvVar(v)
	}
	return env
}

// AgentMount gives a container the certificate and the bundle.
func AgentMount() Mount { return Mount{TrustVolume, TrustDir, true} }
