package inject

import (
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/oo-sidecar/oo-sidecar/internal/pod"
)

// ownVolumes are the names of the sidecar's volumes; which container may mount them is judged for each.
var ownVolumes = []string{pod.ConfigVolume, pod.SecretsVolume, pod.StateVolume, pod.TrustVolume, pod.LockName}

// nodePaths are where the node keeps the volumes and processes of every pod, and what commands its runtime.
var nodePaths = []string{
	"/proc", "/etc/kubernetes", "/var/lib/kubelet", "/var/lib/containerd", "/var/lib/containers", "/var/lib/docker", "/var/lib/rancher",
	"/run/containerd", "/run/crio", "/run/docker.sock", "/run/k3s", "/run/podman",
}

// judgeSources refuses volumes by which a container could read, under another name, what is the sidecar's alone.
func (w *workload) judgeSources(c choice) (problems Refusals) {
	for i, v := range items(at(w.template, "spec", "volumes")) {
		if slices.Contains(ownVolumes, text(field(v, "name"))) {
			continue
		}
		no := func(n *yaml.Node, field, problem, mend string) {
			problems = append(problems, w.refuse(n, w.field("spec."+index("volumes", i)+"."+field), problem, mend)...)
		}
		if n := at(v, "secret", "secretName"); text(n) == c.secret {
			no(n, "secret", "is the Secret "+c.secret+", which is the sidecar's alone", otherSecret)
		}
		for k, source := range items(at(v, "projected", "sources")) {
			if n := at(source, "secret", "name"); text(n) == c.secret {
				no(n, index("projected.sources", k), "is the Secret "+c.secret+", which is the sidecar's alone", otherSecret)
			}
		}
		if n := at(v, "persistentVolumeClaim", "claimName"); n != nil && text(n) == c.claim {
			no(n, "persistentVolumeClaim", "is the claim "+c.claim+", where the sidecar's journal lies", "give the containers another claim")
		}
		if n := at(v, "hostPath", "path"); n != nil {
			switch {
			case onNode(text(n)):
				no(n, "hostPath", "shows the node's "+text(n)+", and with it the sidecar's keys and journal", "remove it, or leave the pod alone with the annotation "+Enable+`: "false"`)
			case c.lock:
				no(n, "hostPath", "shows the node's "+text(n)+": by its sockets and files a container could walk around the egress lock", "use another volume, or no lock")
			}
		}
	}
	return problems
}

const otherSecret = "put what the containers need into a Secret of their own"

// onNode says whether a path of the node holds one of nodePaths, or lies in one.
func onNode(p string) bool {
	p = filepath.Clean("/" + p)
	if rest, is := strings.CutPrefix(p+"/", "/var/run/"); is {
		p = filepath.Clean("/run/" + rest)
	}
	return slices.ContainsFunc(nodePaths, func(n string) bool { return within(p, n) || within(n, p) || p == "/var/run" })
}

func within(inner, outer string) bool {
	return strings.HasPrefix(inner+"/", strings.TrimSuffix(outer, "/")+"/")
}

// secrets refuses variables that take the sidecar's keys out of its Secret.
func (j *judgement) secrets() {
	for i, v := range items(field(j.container, "env")) {
		if n := at(v, "valueFrom", "secretKeyRef", "name"); text(n) == j.secret {
			j.no(n, index("env", i), "is of the Secret "+j.secret+", which is the sidecar's alone", otherSecret)
		}
	}
	for i, from := range items(field(j.container, "envFrom")) {
		if n := at(from, "secretRef", "name"); text(n) == j.secret {
			j.no(n, index("envFrom", i), "is the Secret "+j.secret+", which is the sidecar's alone", otherSecret)
		}
	}
}
