package k8s

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/test/stand"
	core "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// podAddress is one that endpoints may have, in a network namespace of the test's.
const podAddress = "10.99.0.1"

// cluster is a real kube-apiserver on a real etcd. There is no controller, scheduler or kubelet.
type cluster struct {
	t      *testing.T
	client *http.Client
	dir    string
}

// TestCluster: the injector as its manifests run it, against a real API server: the rights that they give are enough,
// the certificate is trusted, pods are patched or denied, and no pod is made in a labelled namespace without it.
// `make cluster` runs it; it is not part of `make test`, because the API server takes ten minutes to build.
func TestCluster(t *testing.T) {
	if os.Getenv("OO_KUBE_APISERVER") == "" {
		t.Skip("opt-in: make cluster")
	}
	if os.Getenv("OO_K8S_CLUSTER") == "" { // again, in a network namespace of its own
		script := "ip link set lo up && ip addr add " + podAddress + "/32 dev lo && exec \"$0\" -test.v -test.run '^TestCluster$'"
		cmd := exec.Command(stand.Program(t, "unshare"), "-n", "sh", "-c", script, os.Args[0])
		cmd.Env = append(os.Environ(), "OO_K8S_CLUSTER=inside")
		out, err := cmd.CombinedOutput()
		t.Logf("%s", out)
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	c := startCluster(t)
	c.install()
	injector := c.inject()
	c.make("v1/namespaces", `{"metadata":{"name":"payments","labels":{"oo-sidecar/inject":"enabled"}}}`, 201)
	c.make("v1/namespaces", `{"metadata":{"name":"elsewhere"}}`, 201)
	const plain = `{"metadata":{"generateName":"a-"},"spec":{"containers":[{"name":"agent","image":"a:1"}]}}`

	patched := 0
	for name, pod := range made(t) {
		pod.Name, pod.GenerateName, pod.Namespace = "", "a-", ""
		pod.Spec.ServiceAccountName = "" // there is no controller that makes them
		body, _ := json.Marshal(pod)
		file := filepath.Join(t.TempDir(), "pod.json")
		write(t, file, string(body))
		_, _, refused := run(t, "inject", "-f", file)
		status, text := c.do("POST", "v1/namespaces/payments/pods", string(body))
		var got core.Pod
		_ = json.Unmarshal(text, &got)
		switch {
		case refused != nil:
			if status != 422 && status != 403 && status != 400 || !strings.Contains(string(text), "oo-sidecar: Pod/a-: ") {
				t.Errorf("%s: inject refuses it; %d %s", name, status, text)
			}
		case pod.Annotations["oo-sidecar/inject"] == "false":
			if status != 201 || sidecarOf(got.Spec) != nil {
				t.Errorf("%s: opted out; %d %s", name, status, text)
			}
		case status != 201 || sidecarOf(got.Spec) == nil:
			t.Errorf("%s: %d %s", name, status, text)
		default:
			patched++
			var want core.Pod
			out, _, _ := run(t, "inject", "-f", file, "--image", "registry.example/oo-sidecar:1.0.0")
			if err := yaml.UnmarshalStrict([]byte(out), &want); err != nil || len(want.Spec.InitContainers) != len(got.Spec.InitContainers) || len(want.Spec.Containers[len(want.Spec.Containers)-1].Env) != len(got.Spec.Containers[len(got.Spec.Containers)-1].Env) {
				t.Errorf("%s: it is not what inject makes: %v %s", name, err, text)
			}
		}
	}
	if patched < 8 {
		t.Errorf("%d pods were patched", patched)
	}
	if status, text := c.do("POST", "v1/namespaces/payments/pods?dryRun=All", plain); status != 201 || !bytes.Contains(text, []byte(`"oo-sidecar/injected":"native"`)) {
		t.Errorf("a dry run: %d %s", status, text)
	}
	for _, ns := range []string{"elsewhere", "kube-system"} {
		if status, text := c.do("POST", "v1/namespaces/"+ns+"/pods", plain); status != 201 || bytes.Contains(text, []byte("oo-sidecar")) {
			t.Errorf("%s: %d %s", ns, status, text)
		}
	}
	injector()
	if status, text := c.do("POST", "v1/namespaces/payments/pods", plain); status != 500 || !bytes.Contains(text, []byte("failed calling webhook")) {
		t.Errorf("a pod without an injector: %d %s", status, text)
	}
	if status, text := c.do("POST", "v1/namespaces/elsewhere/pods", plain); status != 201 {
		t.Errorf("a pod elsewhere, without an injector: %d %s", status, text)
	}
}

// start runs a program until the test ends, or until the function that it returns is called.
func (c *cluster) start(name string, env []string, args ...string) (stop func()) {
	c.t.Helper()
	log, err := os.Create(filepath.Join(c.dir, filepath.Base(name)+".log"))
	if err != nil {
		c.t.Fatal(err)
	}
	cmd := exec.Command(name, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + c.dir}, env...), log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}
	c.t.Cleanup(func() {
		stop()
		if text, err := os.ReadFile(log.Name()); c.t.Failed() && err == nil {
			c.t.Logf("the end of what %s said:\n%s", name, text[max(0, len(text)-3000):])
		}
	})
	return stop
}

const injectorUser = "system:serviceaccount:oo-sidecar-injector:oo-sidecar-injector"

func startCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{t: t, dir: t.TempDir()}
	cert, key, roots := pair(t)
	text, err := os.ReadFile(cert)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(c.dir, "account", "ca.crt"), string(text))
	write(t, filepath.Join(c.dir, "account", "token"), "injectors-token")
	write(t, filepath.Join(c.dir, "account", "namespace"), "oo-sidecar-injector")
	write(t, filepath.Join(c.dir, "tokens.csv"), "admins-token,admin,1,system:masters\ninjectors-token,"+injectorUser+",2,system:serviceaccounts\n")
	write(t, filepath.Join(c.dir, "accounts.key"), accountKey(t))
	c.start(stand.Program(t, "etcd"), nil, "--data-dir", filepath.Join(c.dir, "etcd"), "--listen-client-urls", "http://127.0.0.1:2379", "--advertise-client-urls", "http://127.0.0.1:2379", "--listen-peer-urls", "http://127.0.0.1:2380")
	c.start(os.Getenv("OO_KUBE_APISERVER"), nil, "--etcd-servers=http://127.0.0.1:2379", "--secure-port=6443", "--advertise-address="+podAddress,
		"--tls-cert-file="+cert, "--tls-private-key-file="+key, "--cert-dir="+c.dir, "--token-auth-file="+filepath.Join(c.dir, "tokens.csv"),
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file="+filepath.Join(c.dir, "accounts.key"), "--service-account-signing-key-file="+filepath.Join(c.dir, "accounts.key"),
		"--service-cluster-ip-range=10.96.0.0/24", "--authorization-mode=RBAC", "--enable-aggregator-routing=true", "--disable-admission-plugins=ServiceAccount")
	c.client = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: serviceName}}}
	c.await("the API server", func() bool { status, _ := c.ask("GET", "/readyz", ""); return status == 200 })
	c.await("kube-system", func() bool { status, _ := c.do("GET", "v1/namespaces/kube-system", ""); return status == 200 })
	return c
}

func accountKey(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
}

// await polls other processes: there is nothing to wait on.
func (c *cluster) await(what string, is func() bool) {
	c.t.Helper()
	for deadline := time.Now().Add(90 * time.Second); !is(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			c.t.Fatalf("%s is not there in 90 s", what)
		}
	}
}

func (c *cluster) ask(method, path, body string) (int, []byte) {
	r, err := http.NewRequest(method, "https://127.0.0.1:6443"+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer admins-token")
	r.Header.Set("Content-Type", "application/yaml") // JSON is YAML
	resp, err := c.client.Do(r)
	if err != nil {
		return 0, []byte(err.Error())
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, text
}

// do asks for a resource by group, version and path; the core group has no name.
func (c *cluster) do(method, resource, body string) (int, []byte) {
	if strings.HasPrefix(resource, "v1/") {
		return c.ask(method, "/api/"+resource, body)
	}
	return c.ask(method, "/apis/"+resource, body)
}

func (c *cluster) make(resource, body string, want int) {
	c.t.Helper()
	if status, text := c.do("POST", resource, body); status != want {
		c.t.Fatalf("%s: %d %s", resource, status, text)
	}
}

// resources say where the injector's manifests are posted.
var resources = map[string]string{
	"Namespace": "v1/namespaces", "ServiceAccount": "v1/namespaces/oo-sidecar-injector/serviceaccounts", "Secret": "v1/namespaces/oo-sidecar-injector/secrets",
	"Service": "v1/namespaces/oo-sidecar-injector/services", "Deployment": "apps/v1/namespaces/oo-sidecar-injector/deployments",
	"PodDisruptionBudget": "policy/v1/namespaces/oo-sidecar-injector/poddisruptionbudgets",
	"Role":                "rbac.authorization.k8s.io/v1/namespaces/oo-sidecar-injector/roles", "RoleBinding": "rbac.authorization.k8s.io/v1/namespaces/oo-sidecar-injector/rolebindings",
	"ClusterRole": "rbac.authorization.k8s.io/v1/clusterroles", "ClusterRoleBinding": "rbac.authorization.k8s.io/v1/clusterrolebindings",
	"MutatingWebhookConfiguration": "admissionregistration.k8s.io/v1/mutatingwebhookconfigurations",
}

// install posts the manifests as kustomize renders them.
func (c *cluster) install() {
	c.t.Helper()
	for _, doc := range documents(kustomize(c.t, filepath.Join(examples, "injector"))) {
		var head struct{ Kind string }
		if err := yaml.Unmarshal(doc, &head); err != nil || resources[head.Kind] == "" {
			c.t.Fatalf("%v: %s", err, doc)
		}
		c.make(resources[head.Kind], string(doc), 201)
	}
}

// inject runs the injector behind the Service, as the endpoints controller would have it.
func (c *cluster) inject() (stop func()) {
	c.t.Helper()
	const port = 8443
	c.make("v1/namespaces/oo-sidecar-injector/endpoints", fmt.Sprintf(`{"metadata":{"name":"oo-sidecar-injector"},"subsets":[{"addresses":[{"ip":%q}],"ports":[{"name":"reviews","port":%d}]}]}`, podAddress, port), 201)
	c.make("discovery.k8s.io/v1/namespaces/oo-sidecar-injector/endpointslices", fmt.Sprintf(`{"metadata":{"name":"oo-sidecar-injector-1","labels":{"kubernetes.io/service-name":"oo-sidecar-injector"}},"addressType":"IPv4","endpoints":[{"addresses":[%q],"conditions":{"ready":true}}],"ports":[{"name":"reviews","port":%d,"protocol":"TCP"}]}`, podAddress, port), 201)
	bin := stand.Sidecar(c.t)
	stop = c.start(bin, []string{"KUBERNETES_SERVICE_HOST=127.0.0.1", "KUBERNETES_SERVICE_PORT=6443"}, "injector", "--listen", fmt.Sprintf("%s:%d", podAddress, port),
		"--health", "127.0.0.1:4782", "--service-account", filepath.Join(c.dir, "account"), "--image", "registry.example/oo-sidecar:1.0.0")
	c.await("the injector", func() bool {
		resp, err := http.Get("http://127.0.0.1:4782/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	c.await("the API server's trust", func() bool { // it hears of the webhook's change a moment later
		status, _ := c.do("POST", "v1/namespaces/trial/pods?dryRun=All", "{}")
		if status == 404 {
			c.make("v1/namespaces", `{"metadata":{"name":"trial","labels":{"oo-sidecar/inject":"enabled"}}}`, 201)
		}
		status, _ = c.do("POST", "v1/namespaces/trial/pods?dryRun=All", `{"metadata":{"name":"a"},"spec":{"containers":[{"name":"agent","image":"a:1"}]}}`)
		return status == 201
	})
	return stop
}
