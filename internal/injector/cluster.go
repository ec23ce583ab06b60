package injector

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// ServiceAccount is where Kubernetes mounts the account of a pod.
const ServiceAccount = "/var/run/secrets/kubernetes.io/serviceaccount"

// cluster is the API server, as far as the injector needs it: its own Secret and its own webhook configuration.
type cluster struct {
	base    string
	account string // directory; the token in it is read for each request, since it changes
	client  *http.Client
}

var errConflict = errors.New("somebody else changed it meanwhile")

// inCluster finds the API server as every pod does.
func inCluster(account string, getenv func(string) string) (*cluster, error) {
	host, port := getenv("KUBERNETES_SERVICE_HOST"), getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return nil, errors.New("KUBERNETES_SERVICE_HOST and _PORT are not set: this is no pod; with --tls-cert and --tls-key no API server is needed")
	}
	pem, err := os.ReadFile(filepath.Join(account, "ca.crt"))
	if err != nil {
		return nil, fmt.Errorf("%w; let the pod have its service account's token (automountServiceAccountToken: true)", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", filepath.Join(account, "ca.crt"))
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true, IdleConnTimeout: time.Minute}
	return &cluster{
		base: "https://" + net.JoinHostPort(host, port), account: account,
		client: &http.Client{Transport: transport, Timeout: 15 * time.Second},
	}, nil
}

// do sends one request and reads the object that comes back into to.
func (c *cluster) do(ctx context.Context, method, path, media string, body, to any) error {
	token, err := os.ReadFile(filepath.Join(c.account, "token"))
	if err != nil {
		return err
	}
	var data []byte
	if body != nil {
		if data, err = json.Marshal(body); err != nil {
			return err
		}
	}
	r, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(data))
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	r.Header.Set("Accept", "application/json")
	if body != nil {
		r.Header.Set("Content-Type", media)
	}
	resp, err := c.client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	if err != nil {
		return err
	}
	switch {
	case resp.StatusCode == http.StatusConflict:
		return errConflict
	case resp.StatusCode/100 != 2:
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, message(answer))
	case to == nil:
		return nil
	}
	return json.Unmarshal(answer, to)
}

// message is what a refusal of the API server says.
func message(answer []byte) string {
	var s struct{ Message string }
	if json.Unmarshal(answer, &s) != nil {
		return ""
	}
	return s.Message
}

// secret is v1 Secret.
type secret struct {
	APIVersion string            `json:"apiVersion"`
	Kind       string            `json:"kind"`
	Metadata   map[string]any    `json:"metadata"` // as it came: what is not sent back is lost
	Data       map[string][]byte `json:"data"`
	Type       string            `json:"type,omitempty"`
}

func secretPath(namespace, name string) string {
	return "/api/v1/namespaces/" + namespace + "/secrets/" + name
}

func (c *cluster) secret(ctx context.Context, namespace, name string) (*secret, error) {
	s := &secret{}
	return s, c.do(ctx, http.MethodGet, secretPath(namespace, name), "", nil, s)
}

// update writes the secret unless somebody else did since it was read: errConflict.
func (c *cluster) update(ctx context.Context, namespace, name string, s *secret) error {
	return c.do(ctx, http.MethodPut, secretPath(namespace, name), "application/json", s, nil)
}

const webhooksPath = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/"

// trust has the API server believe the bundle for every webhook of the configuration.
func (c *cluster) trust(ctx context.Context, name string, bundle []byte) error {
	var configuration struct {
		Webhooks []struct {
			Name         string
			ClientConfig struct{ CABundle []byte }
		}
	}
	if err := c.do(ctx, http.MethodGet, webhooksPath+name, "", nil, &configuration); err != nil {
		return err
	}
	var steps []map[string]any
	for i, w := range configuration.Webhooks {
		if !bytes.Equal(w.ClientConfig.CABundle, bundle) {
			at := fmt.Sprintf("/webhooks/%d/", i)
			steps = append(steps,
				map[string]any{"op": "test", "path": at + "name", "value": w.Name},
				map[string]any{"op": "add", "path": at + "clientConfig/caBundle", "value": bundle})
		}
	}
	if steps == nil {
		return nil
	}
	return c.do(ctx, http.MethodPatch, webhooksPath+name, "application/json-patch+json", steps, nil)
}
