package injector

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"
)

// certificate is what the injector serves with. It changes while connections go on: each handshake takes the one of its
// moment.
type certificate struct {
	serving atomic.Pointer[tls.Certificate]
	failed  atomic.Pointer[error] // of the last renewal; nil: it went well
}

func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if cert := c.serving.Load(); cert != nil {
		return cert, nil
	}
	return nil, errors.New("there is no certificate yet")
}

// err says why there is no certificate that the API server trusts, for readiness.
func (c *certificate) err() error {
	if cert := c.serving.Load(); cert != nil && (cert.Leaf == nil || time.Now().Before(cert.Leaf.NotAfter)) {
		return nil
	} else if cert != nil {
		return fmt.Errorf("the certificate is over since %s and was not renewed", cert.Leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	if err := c.failed.Load(); err != nil && *err != nil {
		return *err
	}
	return errors.New("there is no certificate yet")
}

// source is where certificates come from: files that somebody else renews, or authorities of the injector's own.
type source interface {
	// renew returns the certificate to serve with from now on; had, when it is still good. An error leaves had in use.
	renew(ctx context.Context, had *tls.Certificate) (*tls.Certificate, error)
}

// tend renews until ctx ends: soon after a failure, else every interval.
func (c *certificate) tend(ctx context.Context, from source, interval time.Duration, failed func(error)) {
	pause := time.Second
	for {
		cert, err := from.renew(ctx, c.serving.Load())
		c.failed.Store(&err)
		wait := interval
		if err != nil {
			failed(err)
			wait = min(pause, interval)
			pause *= 2
		} else {
			c.serving.Store(cert)
			pause = time.Second
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// files are a certificate and its key that somebody else renews, such as cert-manager.
type files struct {
	cert, key string
	was       []byte // what was read last
}

func (f *files) renew(_ context.Context, had *tls.Certificate) (*tls.Certificate, error) {
	cert, err := os.ReadFile(f.cert)
	if err != nil {
		return nil, err
	}
	key, err := os.ReadFile(f.key)
	if err != nil {
		return nil, err
	}
	now := append(append([]byte(nil), cert...), key...)
	if had != nil && bytes.Equal(now, f.was) {
		return had, nil
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil { // perhaps one file is newer than the other: the next look finds both
		return nil, fmt.Errorf("%s and %s: %w", f.cert, f.key, err)
	}
	f.was = now
	return &pair, nil
}

// own are authorities that all replicas share in a Secret and that the webhook configuration is told to trust.
type own struct {
	cluster           *cluster
	namespace, secret string
	webhook           string
	names             []string
	now               func() time.Time
}

// secretKey is the member of the Secret that holds the authorities.
const secretKey = "authorities.pem"

func (o *own) renew(ctx context.Context, had *tls.Certificate) (*tls.Certificate, error) {
	all, err := o.share(ctx)
	if err != nil {
		return nil, fmt.Errorf("the Secret %s/%s: %w", o.namespace, o.secret, err)
	}
	if err := o.cluster.trust(ctx, o.webhook, all.bundle()); err != nil { // before anything that they signed is served
		return nil, fmt.Errorf("the MutatingWebhookConfiguration %s: %w", o.webhook, err)
	}
	signer := all.signer(o.now())
	if !due(had, signer, o.now()) {
		return had, nil
	}
	return signer.leaf(o.names, o.now())
}

// share reads the authorities and, when it is time, adds the next one; of several replicas that do, one succeeds.
func (o *own) share(ctx context.Context) (authorities, error) {
	for range 5 {
		kept, err := o.cluster.secret(ctx, o.namespace, o.secret)
		if err != nil {
			return nil, err
		}
		all, err := parseAuthorities(kept.Data[secretKey])
		if err != nil {
			return nil, fmt.Errorf("%s is damaged: %w; empty it and new ones are made", secretKey, err)
		}
		list, changed, err := all.next(o.names, o.now())
		if err != nil || !changed {
			return list, err
		}
		text, err := list.marshal()
		if err != nil {
			return nil, err
		}
		if kept.Data == nil {
			kept.Data = map[string][]byte{}
		}
		kept.Data[secretKey] = text
		if err := o.cluster.update(ctx, o.namespace, o.secret, kept); !errors.Is(err, errConflict) {
			return list, err
		}
	}
	return nil, errConflict
}
