package k8s

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	jsonpatch "github.com/evanphx/json-patch/v5"
	"github.com/oo-sidecar/oo-sidecar/test/stand"
	admission "k8s.io/api/admission/v1"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"
)

const serviceName = "oo-sidecar-injector.oo-sidecar-injector.svc"

// webhook is a running injector with a certificate of the test's.
type webhook struct {
	url    string
	client *http.Client
}

// pair is a certificate for the service, which is its own authority, in files.
func pair(t *testing.T) (certFile, keyFile string, roots *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, DNSNames: []string{serviceName}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw})
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	write(t, certFile, string(cert))
	write(t, keyFile, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	roots = x509.NewCertPool()
	roots.AppendCertsFromPEM(cert)
	return certFile, keyFile, roots
}

// startInjector runs the program until the test ends; ready says whether to wait until it is.
func startInjector(t *testing.T, args ...string) (address string) {
	t.Helper()
	bin := stand.Sidecar(t)
	address, probes := stand.FreeAddr(t), stand.FreeAddr(t)
	cmd := exec.Command(bin, append([]string{"injector", "--listen", address, "--health", probes, "--image", "registry.example/oo-sidecar:1.0.0"}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-exited })
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) { // another process: there is nothing to wait on
		select {
		case err := <-exited:
			exited <- err
			t.Fatalf("the injector ended: %v\n%s", err, log.String())
		default:
		}
		if resp, err := http.Get("http://" + probes + "/readyz"); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return address
			}
		}
		if time.Now().After(deadline) {
			t.Fatal("the injector was not ready in 20 s")
		}
	}
}

// admit starts an injector and a client that trusts it, as the API server would.
func admit(t *testing.T, args ...string) *webhook {
	t.Helper()
	cert, key, roots := pair(t)
	address := startInjector(t, append(args, "--tls-cert", cert, "--tls-key", key)...)
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DialContext: dial, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &webhook{"https://" + serviceName + "/inject?timeout=10s", &http.Client{Transport: transport, Timeout: 30 * time.Second}}
}

// ask sends a review as the API server does.
func (w *webhook) ask(t *testing.T, r *admission.AdmissionRequest) *admission.AdmissionResponse {
	t.Helper()
	review := admission.AdmissionReview{TypeMeta: meta.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"}, Request: r}
	body, err := json.Marshal(review)
	if err != nil {
		t.Fatal(err)
	}
	status, text := w.post(t, "application/json", body)
	var answer admission.AdmissionReview
	if err := yaml.UnmarshalStrict(text, &answer); status != 200 || err != nil {
		t.Fatalf("%d %v: %s", status, err, text)
	}
	if answer.TypeMeta != review.TypeMeta || answer.Response == nil || answer.Response.UID != r.UID {
		t.Fatalf("not the answer to this review: %s", text)
	}
	return answer.Response
}

func (w *webhook) post(t *testing.T, media string, body []byte) (int, []byte) {
	t.Helper()
	resp, err := w.client.Post(w.url, media, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, text
}

// creation is the review of a pod's creation. The object has no type, as it may come.
func creation(pod []byte) *admission.AdmissionRequest {
	kind := meta.GroupVersionKind{Version: "v1", Kind: "Pod"}
	resource := meta.GroupVersionResource{Version: "v1", Resource: "pods"}
	return &admission.AdmissionRequest{
		UID: types.UID("705ab4f5-6393-11e8-b7cc-42010a800002"), Kind: kind, Resource: resource, RequestKind: &kind, RequestResource: &resource,
		Operation: admission.Create, Namespace: "payments", Object: runtime.RawExtension{Raw: pod},
		Options: runtime.RawExtension{Raw: []byte(`{"kind":"CreateOptions","apiVersion":"meta.k8s.io/v1"}`)},
	}
}

// made are pods as controllers make them from the manifests that inject is tested on, by file.
func made(t *testing.T) map[string]*core.Pod {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(injectable, "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	pods := map[string]*core.Pod{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for i, doc := range documents(text) {
			object, err := strict(doc)
			if err != nil {
				continue // a template, or what no API server would take
			}
			for j, p := range templatesOf(t, object) {
				if set, ok := object.(*apps.StatefulSet); ok {
					p.Spec.Volumes = append(p.Spec.Volumes, claims(set)...)
				}
				name := fmt.Sprintf("%s#%d.%d", filepath.Base(file), i, j)
				pods[name] = &core.Pod{TypeMeta: meta.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: p.ObjectMeta, Spec: p.Spec}
			}
		}
	}
	return pods
}

// claims are the volumes that a StatefulSet gives its first pod.
func claims(set *apps.StatefulSet) (volumes []core.Volume) {
	for _, c := range set.Spec.VolumeClaimTemplates {
		claim := &core.PersistentVolumeClaimVolumeSource{ClaimName: c.Name + "-" + set.Name + "-0"}
		volumes = append(volumes, core.Volume{Name: c.Name, VolumeSource: core.VolumeSource{PersistentVolumeClaim: claim}})
	}
	return volumes
}

// TestWebhook: the patch makes of a pod what inject makes of it, for real reviews over TLS, dry or not; and where inject
// refuses, the pod is denied with the same words.
func TestWebhook(t *testing.T) {
	t.Parallel()
	w := admit(t)
	patched, denied := 0, 0
	for name, pod := range made(t) {
		object, err := json.Marshal(pod)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "pod.json")
		write(t, file, string(object))
		want, refusal, err := run(t, "inject", "-f", file, "--image", "registry.example/oo-sidecar:1.0.0")
		answer := w.ask(t, creation(object))
		dry := creation(object)
		yes := true
		dry.DryRun = &yes
		if again := w.ask(t, dry); !reflect.DeepEqual(again, answer) {
			t.Errorf("%s: a dry run is answered in another way", name)
		}
		if err != nil {
			denied++
			if answer.Allowed || answer.Patch != nil || answer.Result.Code != 422 {
				t.Errorf("%s: inject refuses it, and the webhook answers %v", name, answer)
			}
			for line := range strings.Lines(refusal) {
				_, problem, _ := strings.Cut(strings.TrimSpace(line), "document 1: ")
				if _, isNote, _ := strings.Cut(line, ": document 1: Pod/"); !strings.Contains(answer.Result.Message, problem) && !strings.Contains(strings.Join(answer.Warnings, "\n"), isNote) {
					t.Errorf("%s: the denial does not say %q: %s", name, problem, answer.Result.Message)
				}
			}
			continue
		}
		if !answer.Allowed {
			t.Errorf("%s: denied: %s", name, answer.Result.Message)
			continue
		}
		got := object
		if answer.Patch != nil {
			patched++
			if *answer.PatchType != admission.PatchTypeJSONPatch {
				t.Errorf("%s: %s", name, *answer.PatchType)
			}
			got = apply(t, object, answer.Patch)
		}
		same(t, name, got, []byte(want))
		if further := w.ask(t, creation(got)); !further.Allowed || further.Patch != nil {
			t.Errorf("%s: asked again after its own patch: %s", name, further.Patch)
		}
	}
	if patched < 10 || denied < 3 {
		t.Errorf("%d pods were patched and %d denied", patched, denied)
	}
}

func apply(t *testing.T, object, patch []byte) []byte {
	t.Helper()
	p, err := jsonpatch.DecodePatch(patch)
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.Apply(object)
	if err != nil {
		t.Fatalf("%v: %s", err, patch)
	}
	return out
}

// same holds two pods, as JSON or YAML, against each other, strictly read.
func same(t *testing.T, name string, got, want []byte) {
	t.Helper()
	var a, b core.Pod
	if err := yaml.UnmarshalStrict(got, &a); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if err := yaml.UnmarshalStrict(want, &b); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if !reflect.DeepEqual(a, b) {
		x, _ := yaml.Marshal(a)
		y, _ := yaml.Marshal(b)
		t.Errorf("%s: the webhook makes\n%s\nand inject\n%s", name, x, y)
	}
}

// TestWebhookLeavesAlone: what it is not for passes as it is.
func TestWebhookLeavesAlone(t *testing.T) {
	t.Parallel()
	w := admit(t)
	pod := []byte(`{"metadata":{"name":"a"},"spec":{"containers":[{"name":"agent","image":"a:1"}]}}`)
	for name, change := range map[string]func(*admission.AdmissionRequest){
		"kube-system": func(r *admission.AdmissionRequest) { r.Namespace = "kube-system" },
		"an update":   func(r *admission.AdmissionRequest) { r.Operation = admission.Update },
		"a service":   func(r *admission.AdmissionRequest) { r.Kind.Kind = "Service" },
		"opted out": func(r *admission.AdmissionRequest) {
			r.Object.Raw = []byte(`{"metadata":{"name":"a","annotations":{"oo-sidecar/inject":"false"}},"spec":{"hostNetwork":true,"containers":[{"name":"agent"}]}}`)
		},
	} {
		r := creation(pod)
		change(r)
		if answer := w.ask(t, r); !answer.Allowed || answer.Patch != nil {
			t.Errorf("%s: %v", name, answer)
		}
	}
	if answer := w.ask(t, creation(pod)); !answer.Allowed || answer.Patch == nil {
		t.Errorf("a pod is left alone, too: %v", answer)
	}
	enforcing := admit(t, "--enforce")
	r := creation([]byte(`{"metadata":{"name":"a","annotations":{"oo-sidecar/inject":"false"}},"spec":{"containers":[{"name":"agent"}]}}`))
	if answer := enforcing.ask(t, r); answer.Allowed || !strings.Contains(answer.Result.Message, "here no pod opts out") {
		t.Errorf("opting out where that is not allowed: %v", answer)
	}
}

// TestWebhookGarbage: what is no review is refused, and the next one is answered.
func TestWebhookGarbage(t *testing.T) {
	t.Parallel()
	w := admit(t)
	review := func(object string) string {
		return `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u","operation":"CREATE","kind":{"group":"","version":"v1","kind":"Pod"},"namespace":"n","object":` + object + `}}`
	}
	for name, c := range map[string]struct {
		body   string
		status int
	}{
		"nothing":           {"", 400},
		"no JSON":           {"\x00\xff", 400},
		"another thing":     {`{"apiVersion":"v1","kind":"Pod"}`, 400},
		"an old version":    {strings.Replace(review("{}"), "io/v1", "io/v1beta1", 1), 400},
		"no uid":            {strings.Replace(review("{}"), `"u"`, `""`, 1), 400},
		"no request":        {`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}`, 400},
		"a request as text": {`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":"x"}`, 400},
		"9 MiB":             {review(`{"metadata":{"annotations":{"a":"` + strings.Repeat("x", 9<<20) + `"}}}`), 413},
		"no object":         {review("null"), 200},
		"an empty object":   {review("{}"), 200},
		"a list":            {review("[]"), 200},
		"a text":            {review(`"pod"`), 200},
		"deep":              {review(strings.Repeat(`{"a":`, 5000) + "1" + strings.Repeat("}", 5000)), 200},
		"odd spec":          {review(`{"spec":{"containers":{"name":"agent"}}}`), 200},
		"odd container":     {review(`{"spec":{"containers":[7]}}`), 200},
		"odd env":           {review(`{"spec":{"containers":[{"name":"agent","env":{"a":1}}]}}`), 200},
		"odd annotations":   {review(`{"metadata":{"annotations":[]},"spec":{"containers":[{"name":"agent"}]}}`), 200},
		"another kind":      {review(`{"apiVersion":"apps/v1","kind":"Deployment"}`), 200},
		"twice a field":     {review(`{"spec":{"containers":[{"name":"a"}],"containers":[{"name":"b"}]}}`), 200},
	} {
		status, text := w.post(t, "application/json", []byte(c.body))
		if status != c.status {
			t.Errorf("%s: %d %s", name, status, text)
			continue
		}
		var answer admission.AdmissionReview
		if status == 200 && (json.Unmarshal(text, &answer) != nil || answer.Response == nil || answer.Response.Allowed || answer.Response.Result.Message == "") {
			t.Errorf("%s: %s", name, text)
		}
	}
	var calls sync.WaitGroup
	for range 50 {
		calls.Go(func() {
			status, text := w.post(t, "application/json", []byte(review(`{"metadata":{"name":"a"},"spec":{"containers":[{"name":"agent","image":"a:1"}]}}`)))
			if status != 200 || !bytes.Contains(text, []byte(`"patchType":"JSONPatch"`)) {
				t.Errorf("%d %s", status, text)
			}
		})
	}
	calls.Wait()
}
