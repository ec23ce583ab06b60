package pod

// The egress lock: an init container that loads the rules of examples/k8s/components/egress-lock, after which only the
// sidecar's user leaves the pod.
const (
	LockName  = "oo-egress-lock" // of the container, its volume and the ConfigMap of the rules
	LockImage = "oo-egress-lock:0.0.0"
	lockDir   = "/etc/oo-egress-lock"
)

// EgressLock is the one privileged container: it has NET_ADMIN while it runs, and ends before the agent starts.
func EgressLock(image string) Container {
	return Container{
		Name: LockName, Image: image, Command: []string{"nft", "--file", lockDir + "/rules.nft"},
		Resources: Resources{Requests: map[string]string{"cpu": "10m", "memory": "16Mi"}, Limits: map[string]string{"memory": "64Mi"}},
		SecurityContext: SecurityContext{
			ReadOnlyRootFilesystem: true,
			Capabilities:           Capabilities{Drop: []string{"ALL"}, Add: []string{"NET_ADMIN"}},
			SeccompProfile:         map[string]string{"type": "RuntimeDefault"},
		},
		VolumeMounts: []Mount{{LockName, lockDir, true}},
	}
}

// LockVolume holds the rules.
func LockVolume() Volume {
	return Volume{Name: LockName, ConfigMap: map[string]string{"name": LockName}}
}
