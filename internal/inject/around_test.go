package inject

import (
	"strings"
	"testing"
)

// TestWaysAround: what would show a container the sidecar's keys, or lead it around the sidecar, is refused.
func TestWaysAround(t *testing.T) {
	const container = "  containers:\n  - name: agent\n    image: a:1\n    "
	const safe = container + "securityContext: {runAsUser: 10001, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}\n"
	locked := true
	for name, c := range map[string]struct {
		spec, refused string
		lock          bool
	}{
		"the secret as a volume":     {spec: "  volumes: [{name: mine, secret: {secretName: oo-sidecar}}]\n" + container, refused: "volumes[0].secret"},
		"the secret projected":       {spec: "  volumes: [{name: mine, projected: {sources: [{configMap: {name: a}}, {secret: {name: oo-sidecar}}]}}]\n" + container, refused: "volumes[0].projected.sources[1]"},
		"the secret in a variable":   {spec: container + "env: [{name: KEY, valueFrom: {secretKeyRef: {name: oo-sidecar, key: operator}}}]\n", refused: "containers[0].env[0]"},
		"the secret as variables":    {spec: container + "envFrom: [{secretRef: {name: other}}, {secretRef: {name: oo-sidecar}}]\n", refused: "containers[0].envFrom[1]"},
		"another secret":             {spec: "  volumes: [{name: mine, secret: {secretName: other}}]\n" + container},
		"the journal's claim":        {spec: "  volumes: [{name: mine, persistentVolumeClaim: {claimName: journal}}, {name: oo-sidecar-state, persistentVolumeClaim: {claimName: journal}}]\n" + container, refused: "volumes[0].persistentVolumeClaim"},
		"the node's root":            {spec: "  volumes: [{name: node, hostPath: {path: /}}]\n" + container, refused: "volumes[0].hostPath"},
		"the kubelet's volumes":      {spec: "  volumes: [{name: node, hostPath: {path: /var/lib/kubelet/pods}}]\n" + container, refused: "volumes[0].hostPath"},
		"a runtime's socket":         {spec: "  volumes: [{name: node, hostPath: {path: /var/run//docker.sock}}]\n" + container, refused: "volumes[0].hostPath"},
		"the node's time zone":       {spec: "  volumes: [{name: node, hostPath: {path: /usr/share/zoneinfo}}]\n" + container},
		"a node's socket, locked":    {spec: "  volumes: [{name: node, hostPath: {path: /opt/agent}}]\n" + safe, refused: "volumes[0].hostPath", lock: true},
		"a variable twice":           {spec: container + "env: [{name: HTTP_PROXY, value: 'http://127.0.0.1:4780'}, {name: HTTP_PROXY, value: 'http://other:1'}]\n", refused: "containers[0].env[1]"},
		"no proxy by a variable":     {spec: container + "env: [{name: NO_PROXY, value: $(ALL)}]\n", refused: "containers[0].env[0]"},
		"a debug container as 4780":  {spec: container + "\n  ephemeralContainers: [{name: debug, image: d:1, securityContext: {runAsUser: 4780}}]\n", refused: "ephemeralContainers[0].securityContext.runAsUser"},
		"a debug container's rights": {spec: safe + "  ephemeralContainers: [{name: debug, image: d:1, securityContext: {capabilities: {add: [NET_ADMIN]}}}]\n", refused: "ephemeralContainers[0].securityContext.capabilities", lock: true},
		"locked":                     {spec: safe, lock: true},
		"the image's own user":       {spec: container + "securityContext: {runAsNonRoot: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}\n", refused: "the image's own user", lock: true},
		"files by handle":            {spec: container + "securityContext: {runAsUser: 10001, allowPrivilegeEscalation: false, capabilities: {drop: [ALL], add: [CAP_DAC_READ_SEARCH]}}\n", refused: "CAP_DAC_READ_SEARCH", lock: true},
		"low ports":                  {spec: container + "securityContext: {runAsUser: 10001, allowPrivilegeEscalation: false, capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}}\n", lock: true},
		"the kernel's settings":      {spec: container + "securityContext: {runAsUser: 10001, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}, procMount: Unmasked}\n", refused: "procMount", lock: true},
		"every call of the kernel":   {spec: container + "securityContext: {runAsUser: 10001, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}, seccompProfile: {type: Unconfined}}\n", refused: "seccompProfile", lock: true},
		"bytes as a key":             {spec: "  !!binary aG9zdE5ldHdvcms=: true\n" + container, refused: "!!binary"},
		"bytes as a value":           {spec: "  nodeName: !!binary aG9zdE5ldHdvcms=\n" + container, refused: "!!binary"},
	} {
		o := Options{}
		if c.lock {
			o.EgressLock = &locked
		}
		_, _, err := File("f", []byte("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n"+c.spec), o)
		switch {
		case c.refused == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.refused != "" && (err == nil || !strings.Contains(err.Error(), c.refused)):
			t.Errorf("%s: %v, wanted %q", name, err, c.refused)
		}
	}
}

// TestEnforce: an annotation that would have a pod governed less than others is refused, also one that inject itself writes.
func TestEnforce(t *testing.T) {
	locked := true
	for annotation, o := range map[string]Options{
		`oo-sidecar/inject: "false"`:      {},
		`oo-sidecar/skip-containers: a`:   {},
		`oo-sidecar/egress-lock: "false"`: {EgressLock: &locked},
		`oo-sidecar/mode: classic`:        {},
		`oo-sidecar/injected: classic`:    {},
		`oo-sidecar/mode: "classic" `:     {Mode: Native},
	} {
		o.Enforce = true
		manifest := "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  annotations: {" + annotation + "}\nspec:\n  initContainers: [{name: first, image: a:1}]\n  containers: [{name: a, image: a:1}]\n"
		if _, _, err := File("f", []byte(manifest), o); err == nil || !strings.Contains(err.Error(), "no pod opts out") {
			t.Errorf("%s: %v", annotation, err)
		}
		if o.Mode = Classic; !strings.Contains(annotation, "classic") {
			continue
		}
		if _, _, err := File("f", []byte(manifest), o); err != nil {
			t.Errorf("where all are classic, %s: %v", annotation, err)
		}
	}
}

// TestNothingIsOverlooked: every document that kubectl would read as a workload is one here, or is refused.
func TestNothingIsOverlooked(t *testing.T) {
	const pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a, image: a:1}]}\n"
	const flow = "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: a, image: 'a:1'}]}}\n"
	for name, text := range map[string]string{
		"behind the separator":      "--- " + flow,
		"behind another":            pod + "--- " + flow,
		"after a document's end":    "kind: ConfigMap\napiVersion: v1\n...\n" + pod,
		"after its end, and begun":  "kind: ConfigMap\napiVersion: v1\n...\n---\n" + pod,
		"lines end as on old Macs":  "kind: ConfigMap\r---\r" + strings.ReplaceAll(pod, "\n", "\r"),
		"lines end as nowhere":      "kind: ConfigMap\u0085---\u0085" + strings.ReplaceAll(pod, "\n", "\u0085"),
		"lines end as on Windows":   strings.ReplaceAll("# first\n---\n"+pod, "\n", "\r\n"),
		"a byte order mark":         "\ufeff" + pod,
		"a mark and a separator":    "\ufeff---\n" + pod,
		"a tab behind a separator":  "---\t\n" + pod,
		"a directive":               "%YAML 1.1\n---\n" + pod,
		"two kinds":                 "kind: ConfigMap\n" + pod,
		"its kind merged":           "x: &x {kind: Pod}\n<<: *x\napiVersion: v1\nspec: {containers: [{name: a}]}\n",
		"its kind an alias":         "x: &x Pod\nkind: *x\napiVersion: v1\nspec: {containers: [{name: a}]}\n",
		"its kind in bytes":         "kind: !!binary UG9k\napiVersion: v1\nspec: {containers: [{name: a}]}\n",
		"its kind's key in bytes":   "!!binary a2luZA==: Pod\napiVersion: v1\nspec: {containers: [{name: a}]}\n",
		"an alias in a list":        "kind: List\napiVersion: v1\nx: &x " + strings.TrimSpace(flow) + "\nitems: [*x]\n",
		"a list that is an alias":   "kind: List\napiVersion: v1\nx: &x [" + strings.TrimSpace(flow) + "]\nitems: *x\n",
		"a list in a list":          "kind: List\napiVersion: v1\nitems:\n- {kind: List, apiVersion: v1, items: [" + strings.TrimSpace(flow) + "]}\n",
		"JSON":                      `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"containers":[{"name":"a"}]}}`,
		"JSON, one behind another":  strings.Repeat(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"containers":[{"name":"a"}]}}`+"\n", 2),
		"JSON of two kinds":         `{"kind":"ConfigMap","apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"containers":[{"name":"a"}]}}`,
		"JSON, a kind with escapes": `{"apiVersion":"v1","k\u0069nd":"P\u006fd","metadata":{"name":"a"},"spec":{"containers":[{"name":"a"}]}}`,
	} {
		out, _, err := File("f", []byte(text), Options{})
		if err == nil && strings.Count(string(out), "restartPolicy: Always") != strings.Count(text, "containers") {
			t.Errorf("%s: not every pod has its sidecar:\n%s", name, out)
		}
	}
}

// TestBombs: what is small and becomes large, or deep, ends soon.
func TestBombs(t *testing.T) {
	var bomb strings.Builder
	bomb.WriteString("a0: &a0 [x]\n")
	for i := range 30 {
		a, b := string(rune('a'+i%26))+string(rune('0'+i/26)), string(rune('a'+(i+1)%26))+string(rune('0'+(i+1)/26))
		bomb.WriteString(b + ": &" + b + " [*" + a + ",*" + a + ",*" + a + "]\n")
	}
	for name, text := range map[string]string{
		"aliases":          bomb.String() + "kind: Pod\napiVersion: v1\nspec: {containers: [{name: a}]}\n",
		"deep":             "kind: Pod\napiVersion: v1\nspec: " + strings.Repeat("[", 9000) + strings.Repeat("]", 9000) + "\n",
		"too deep":         "kind: Pod\napiVersion: v1\nspec: " + strings.Repeat("[", 200000) + "\n",
		"deep JSON":        `{"kind":"Pod","apiVersion":"v1","spec":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + "}",
		"an endless alias": "kind: Pod\napiVersion: v1\nspec: &a {containers: [*a]}\n",
	} {
		if _, _, err := File("f", []byte(text), Options{}); err == nil {
			t.Errorf("%s passed", name)
		} else if len(err.Error()) > 1000 {
			t.Errorf("%s: an error of %d bytes", name, len(err.Error()))
		}
	}
}
