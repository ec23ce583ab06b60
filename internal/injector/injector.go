// Package injector is the mutating admission webhook: it answers the API server's reviews with the patch that puts the
// sidecar into a pod, over TLS with certificates that it makes and renews itself, or that others do.
package injector

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/health"
	"github.com/oo-sidecar/oo-sidecar/internal/inject"
	"github.com/oo-sidecar/oo-sidecar/internal/listen"
)

// Config says where the injector listens and whose certificate it serves with.
type Config struct {
	Listen string // of the reviews, with TLS
	Health string // of the probes, without
	// CertFile and KeyFile are renewed by somebody else. Empty: the injector has authorities of its own, and tells the
	// API server to trust them.
	CertFile, KeyFile string

	Namespace      string // = that of the service account
	Service        string // by whose name the API server calls
	Secret         string // holds the authorities; must exist
	Webhook        string // the MutatingWebhookConfiguration
	ServiceAccount string // directory

	Options inject.Options // of every pod
	Log     *slog.Logger
}

const (
	connections = 512
	rested      = 250 * time.Millisecond // without a request, until another one may have the place: every pod may connect
	renewal     = time.Minute            // between two looks at certificates
	farewell    = 5 * time.Second        // from not ready to closed: the Service needs it to send reviews elsewhere
)

// Injector listens, and serves with Serve.
type Injector struct {
	config          Config
	source          source
	cert            certificate
	reviews, probes net.Listener
	draining        atomic.Bool
}

// New binds the listeners.
func New(c Config) (*Injector, error) {
	if err := c.Options.Check(); err != nil {
		return nil, err
	}
	if c.Options.Image == "" || c.Options.EgressLock != nil && *c.Options.EgressLock && c.Options.LockImage == "" {
		return nil, errors.New("name the sidecar's image with --image, and with --egress-lock the lock's with --lock-image: pods would not start without")
	}
	i := &Injector{config: c}
	var err error
	if i.source, err = newSource(c); err != nil {
		return nil, err
	}
	if i.reviews, err = net.Listen("tcp", c.Listen); err != nil {
		return nil, fmt.Errorf("--listen: %w", err)
	}
	if i.probes, err = net.Listen("tcp", c.Health); err != nil {
		i.reviews.Close()
		return nil, fmt.Errorf("--health: %w", err)
	}
	return i, nil
}

func newSource(c Config) (source, error) {
	if (c.CertFile == "") != (c.KeyFile == "") {
		return nil, errors.New("--tls-cert and --tls-key belong together")
	}
	if c.CertFile != "" {
		return &files{cert: c.CertFile, key: c.KeyFile}, nil
	}
	api, err := inCluster(c.ServiceAccount, os.Getenv)
	if err != nil {
		return nil, err
	}
	if c.Namespace == "" {
		text, err := os.ReadFile(filepath.Join(c.ServiceAccount, "namespace"))
		if err != nil {
			return nil, err
		}
		c.Namespace = strings.TrimSpace(string(text))
	}
	names := []string{c.Service + "." + c.Namespace + ".svc"}
	return &own{cluster: api, namespace: c.Namespace, secret: c.Secret, webhook: c.Webhook, names: names, now: time.Now}, nil
}

// Addresses are where reviews and probes are heard.
func (i *Injector) Addresses() (reviews, probes net.Addr) { return i.reviews.Addr(), i.probes.Addr() }

// Serve answers until ctx ends; then it is not ready, goes on for five seconds, and finishes what it has begun.
func (i *Injector) Serve(ctx context.Context) error {
	tending, stop := context.WithCancel(context.Background())
	defer stop()
	go i.cert.tend(tending, i.source, renewal, func(err error) {
		i.config.Log.Error("the certificate was not renewed; the former one, if any, is served", "error", err.Error())
	})
	reviews := listen.Server(&Reviews{i.config.Options, i.config.Log}, i.config.Log)
	reviews.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: i.cert.get}
	probes := listen.Server((&health.Handler{Checks: []health.Check{{Name: "certificate", Err: i.cert.err}, {Name: "draining", Err: i.notDraining}}}).Routes(), i.config.Log)
	failed := make(chan error, 2)
	go func() {
		failed <- listen.Serve(reviews, listen.Patient(i.reviews, i.config.Log), connections, rested)
	}()
	go func() {
		failed <- listen.Serve(probes, listen.Patient(i.probes, i.config.Log), 16, rested)
	}()
	var err error
	select {
	case err = <-failed:
	case <-ctx.Done():
		i.draining.Store(true)
		time.Sleep(farewell)
	}
	end, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	for _, s := range []*http.Server{reviews, probes} {
		err = errors.Join(err, s.Shutdown(end))
	}
	return err
}

func (i *Injector) notDraining() error {
	if i.draining.Load() {
		return errors.New("shutting down")
	}
	return nil
}
