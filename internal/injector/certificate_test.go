package injector

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/inject"
)

// apiServer keeps the Secret and the webhook configuration as the API server does: it refuses a write over another's,
// a wrong token, and a patch that does not say which webhook it means.
type apiServer struct {
	t       *testing.T
	cluster *cluster

	mu       sync.Mutex
	data     map[string][]byte // of the Secret; guarded by mu
	version  int               // of the Secret; guarded by mu
	bundle   []byte            // of the webhook; guarded by mu
	puts     int               // guarded by mu
	refusing bool              // guarded by mu
}

func newAPIServer(t *testing.T) *apiServer {
	a := &apiServer{t: t}
	s := httptest.NewTLSServer(http.HandlerFunc(a.serve))
	t.Cleanup(s.Close)
	account := t.TempDir()
	if err := os.WriteFile(filepath.Join(account, "token"), []byte("of-the-pod\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	a.cluster = &cluster{base: s.URL, account: account, client: s.Client()}
	return a
}

func (a *apiServer) serve(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if r.Header.Get("Authorization") != "Bearer of-the-pod" || a.refusing {
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, `{"kind":"Status","message":"secrets \"oo-sidecar-injector\" is forbidden"}`)
		return
	}
	body, _ := io.ReadAll(r.Body)
	switch r.Method + " " + r.URL.Path {
	case "GET /api/v1/namespaces/ns/secrets/keys":
		_ = json.NewEncoder(w).Encode(secret{APIVersion: "v1", Kind: "Secret", Metadata: map[string]any{"name": "keys", "resourceVersion": strconv.Itoa(a.version), "labels": map[string]string{"kept": "yes"}}, Data: a.data})
	case "PUT /api/v1/namespaces/ns/secrets/keys":
		var s secret
		if err := json.Unmarshal(body, &s); err != nil || fmt.Sprint(s.Metadata["labels"]) != "map[kept:yes]" {
			a.t.Errorf("an update that loses what it does not know: %s", body)
		}
		if s.Metadata["resourceVersion"] != strconv.Itoa(a.version) {
			w.WriteHeader(http.StatusConflict)
			return
		}
		a.data, a.version, a.puts = s.Data, a.version+1, a.puts+1
	case "GET " + webhooksPath + "hook":
		fmt.Fprintf(w, `{"webhooks":[{"name":"inject","clientConfig":{"caBundle":%q}}]}`, base64.StdEncoding.EncodeToString(a.bundle))
	case "PATCH " + webhooksPath + "hook":
		var steps []struct{ Op, Path, Value string }
		if err := json.Unmarshal(body, &steps); err != nil || len(steps) != 2 || steps[0] != (struct{ Op, Path, Value string }{"test", "/webhooks/0/name", "inject"}) || steps[1].Op != "add" || steps[1].Path != "/webhooks/0/clientConfig/caBundle" || r.Header.Get("Content-Type") != "application/json-patch+json" {
			a.t.Errorf("patched with %s", body)
			return
		}
		a.bundle, _ = base64.StdEncoding.DecodeString(steps[1].Value)
	default:
		a.t.Errorf("%s %s is more than the injector may", r.Method, r.URL.Path)
	}
}

func (a *apiServer) trusts() []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.bundle
}

func (a *apiServer) own(now func() time.Time) *own {
	return &own{cluster: a.cluster, namespace: "ns", secret: "keys", webhook: "hook", names: testNames, now: now}
}

// TestReplicasShareOneAuthority: of those that start at once one makes it, and all serve what it signed.
func TestReplicasShareOneAuthority(t *testing.T) {
	a := newAPIServer(t)
	served := make([]*tls.Certificate, 8)
	var replicas sync.WaitGroup
	for i := range served {
		replicas.Go(func() {
			cert, err := a.own(time.Now).renew(t.Context(), nil)
			if err != nil {
				t.Error(err)
			}
			served[i] = cert
		})
	}
	replicas.Wait()
	for i, cert := range served {
		if err := trusted(cert, a.trusts(), time.Now()); err != nil {
			t.Errorf("replica %d: %v", i, err)
		}
	}
	if a.puts != 1 {
		t.Errorf("%d authorities were written", a.puts)
	}
}

// TestRotationDropsNoReview: a year passes in some seconds, in days, while reviews are asked on new connections and on
// kept ones, by a client that trusts what the webhook configuration says at the time of its handshake.
func TestRotationDropsNoReview(t *testing.T) {
	a := newAPIServer(t)
	var clock atomic.Int64
	clock.Store(time.Now().UnixNano())
	now := func() time.Time { return time.Unix(0, clock.Load()) }
	o := a.own(now)
	var c certificate
	renew := func() {
		cert, err := o.renew(t.Context(), c.serving.Load())
		if err != nil {
			t.Fatal(err)
		}
		c.serving.Store(cert)
	}
	renew()
	log := slog.New(slog.DiscardHandler)
	server := &http.Server{Handler: &Reviews{inject.Options{Image: "i"}, log}, TLSConfig: &tls.Config{GetCertificate: c.get}}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go server.ServeTLS(ln, "", "")
	defer server.Close()
	kept := reviewer(ln.Addr().String(), a, now)
	defer kept.CloseIdleConnections()
	seen := map[string]bool{}
	for range 366 {
		renew()
		fresh := reviewer(ln.Addr().String(), a, now)
		for _, client := range []*http.Client{kept, fresh, kept} {
			if err := asks(client); err != nil {
				t.Fatalf("%s: %v", now(), err)
			}
		}
		fresh.CloseIdleConnections()
		seen[string(c.serving.Load().Certificate[0])] = true
		clock.Add(int64(24 * time.Hour))
	}
	if len(seen) < 15 || a.puts < 2 || a.puts > 3 {
		t.Errorf("%d certificates and %d changes of the authorities in a year", len(seen), a.puts)
	}
}

// reviewer is an API server's client.
func reviewer(address string, a *apiServer, now func() time.Time) *http.Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(a.trusts())
		d := tls.Dialer{Config: &tls.Config{RootCAs: roots, ServerName: testNames[0], Time: now}}
		return d.DialContext(ctx, "tcp", address)
	}
	return &http.Client{Transport: &http.Transport{DialTLSContext: dial}, Timeout: 10 * time.Second}
}

func asks(client *http.Client) error {
	const review = `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u","operation":"CREATE","kind":{"group":"","version":"v1","kind":"Pod"},"namespace":"n","object":{"metadata":{"name":"a"},"spec":{"containers":[{"name":"agent","image":"a:1"}]}}}}`
	resp, err := client.Post("https://"+testNames[0]+Path, "application/json", strings.NewReader(review))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && !strings.Contains(string(text), `"patchType":"JSONPatch"`) {
		err = fmt.Errorf("%s: %s", resp.Status, text)
	}
	return err
}

// TestARefusedRenewalKeepsTheCertificate: the API server away, or RBAC missing, stops nothing that works, and the error
// says what it is about.
func TestARefusedRenewalKeepsTheCertificate(t *testing.T) {
	a := newAPIServer(t)
	var c certificate
	if c.err() == nil {
		t.Error("ready without a certificate")
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	failures := make(chan error, 100)
	done := make(chan struct{})
	a.refusing = true
	go func() {
		c.tend(ctx, a.own(time.Now), time.Millisecond, func(err error) { failures <- err })
		close(done)
	}()
	if err := <-failures; !strings.Contains(err.Error(), `the Secret ns/keys: GET`) || !strings.Contains(err.Error(), "is forbidden") {
		t.Errorf("it says %v", err)
	}
	a.mu.Lock()
	a.refusing = false
	a.mu.Unlock()
	for c.err() != nil { // the tending goroutine tells nobody when it succeeds
		time.Sleep(time.Millisecond)
	}
	served := c.serving.Load()
	a.mu.Lock()
	a.refusing = true
	a.mu.Unlock()
	for len(failures) > 0 {
		<-failures
	}
	<-failures
	if c.err() != nil || c.serving.Load() != served {
		t.Errorf("after a refused renewal: %v", c.err())
	}
	stop()
	<-done
}

// TestFilesAreReadAgain: a certificate of somebody else's, renewed while it is served; half a renewal changes nothing.
func TestFilesAreReadAgain(t *testing.T) {
	dir := t.TempDir()
	f := &files{cert: filepath.Join(dir, "tls.crt"), key: filepath.Join(dir, "tls.key")}
	if _, err := f.renew(t.Context(), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without files: %v", err)
	}
	place := func(onlyCertificate bool) {
		all, _, err := authorities(nil).next(testNames, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		text, _ := all.marshal()
		cut := strings.Index(string(text), "-----BEGIN PRIVATE")
		if err := os.WriteFile(f.cert, text[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		if !onlyCertificate {
			if err := os.WriteFile(f.key, text[cut:], 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	place(false)
	first, err := f.renew(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if same, err := f.renew(t.Context(), first); err != nil || same != first {
		t.Errorf("nothing changed, and it becomes another: %v", err)
	}
	place(true)
	if _, err := f.renew(t.Context(), first); err == nil {
		t.Error("a certificate with the former key is taken")
	}
	place(false)
	if next, err := f.renew(t.Context(), first); err != nil || next == first {
		t.Errorf("a renewed certificate is not read: %v", err)
	}
}

// TestAnExpiredCertificateIsNotReady: the API server would refuse it, so another replica is to be asked.
func TestAnExpiredCertificateIsNotReady(t *testing.T) {
	a, err := newAuthority(testNames, time.Now().Add(-2*leafLife))
	if err != nil {
		t.Fatal(err)
	}
	var c certificate
	for born, good := range map[time.Time]bool{time.Now(): true, time.Now().Add(-leafLife - time.Hour): false} {
		leaf, err := a.leaf(testNames, born)
		if err != nil {
			t.Fatal(err)
		}
		c.serving.Store(leaf)
		if err := c.err(); (err == nil) != good {
			t.Errorf("made at %s: %v", born, err)
		}
	}
}

// TestAnotherNamesAuthority: one that may not speak for this service is replaced, not served with.
func TestAnotherNamesAuthority(t *testing.T) {
	a := newAPIServer(t)
	other := a.own(time.Now)
	other.names = []string{"former.elsewhere.svc"}
	if _, err := other.renew(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	cert, err := a.own(time.Now).renew(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := trusted(cert, a.trusts(), time.Now()); err != nil {
		t.Error(err)
	}
}
