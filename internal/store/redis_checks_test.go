package store

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/store/redistest"
)

func TestRedisJudgement(t *testing.T) {
	for _, c := range []struct {
		name    string
		server  []string
		promise string // within
		problem string // within, empty: none
	}{
		{"durable", nil, "no claim is lost by a restart", ""},
		{"everysec", []string{"--appendfsync", "everysec"}, "may lose the last second (appendfsync everysec)", "set appendfsync always"},
		{"in memory", []string{"--appendonly", "no"}, "a restart of Redis forgets claims", "set appendonly yes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := redistest.Start(t, c.server...)
			cfg := RedisConfig{Addrs: []string{s.Addr}, Prefix: "oo:"}
			j := dialTest(t, cfg).judgement()
			if problems := strings.Join(j.Problems, ";"); !strings.Contains(j.Promise, c.promise) || !strings.Contains(problems, c.problem) || c.problem == "" && problems != "" {
				t.Errorf("%+v", j)
			}
			cfg.Strict = true
			client, err := dialRedis(t.Context(), cfg, nil)
			if err == nil {
				_ = client.close()
			}
			if (err == nil) != (c.problem == "") || err != nil && !strings.Contains(err.Error(), c.problem) {
				t.Errorf("strict: %v", err)
			}
		})
	}
}

func TestRedisEvicting(t *testing.T) {
	s := redistest.Start(t)
	c := dialTest(t, RedisConfig{Addrs: []string{s.Addr}})
	s.Do("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
	_, err := dialRedis(t.Context(), RedisConfig{Addrs: []string{s.Addr}, Prefix: "oo:"}, nil)
	if err == nil || !strings.Contains(err.Error(), "set it to noeviction") {
		t.Errorf("start: %v", err)
	}
	redistest.Eventually(t, "the running client sees it", func() error {
		if c.err() == nil || !strings.Contains(c.judgement().Promise, "none: ") {
			return errors.New("not yet")
		}
		return nil
	})
	s.Do("CONFIG", "SET", "maxmemory-policy", "noeviction", "maxmemory", "100mb")
	redistest.Eventually(t, "the running client sees that it is mended", func() error {
		if m := c.judgement().Memory; c.err() != nil || m <= 0 || m > 0.5 {
			return errors.New("not yet")
		}
		return nil
	})
}

// TestRedisReplicas: with too few replicas there is a reply and errReplicas; a replica that is back mends it.
func TestRedisReplicas(t *testing.T) {
	s := redistest.Start(t)
	host, port := split(s.Addr)
	replica := redistest.Start(t, "--replicaof", host+" "+port)
	redistest.Eventually(t, "the replica follows", func() error {
		if !strings.Contains(s.Info("slave0"), "state=online") || replica.Info("master_link_status") != "up" {
			return errors.New("not yet")
		}
		return nil
	})
	c := dialTest(t, RedisConfig{Addrs: []string{s.Addr}, WaitReplicas: 1, Strict: true})
	if j := c.judgement(); !strings.Contains(j.Promise, "no claim is lost by one failover") || j.Electable != 1 {
		t.Errorf("%+v", j)
	}
	if weak := dialTest(t, RedisConfig{Addrs: []string{s.Addr}}).judgement(); !strings.Contains(weak.Promise, "a failover may lose the last claims") || !strings.Contains(strings.Join(weak.Problems, ";"), "set it to 1") {
		t.Errorf("without wait_replicas: %+v", weak)
	}
	key := c.key("replicas")
	durable := func() (any, error) { return c.runDurable(t.Context(), count, []string{key}) }
	redistest.Eventually(t, "the replica confirms what it gets", func() error { // its first confirmation may take a second
		_, err := durable()
		return err
	})
	_ = s.Do("SET", key, "0")
	if got, err := durable(); err != nil || got != int64(1) || replica.Do("GET", key) != "1" {
		t.Errorf("with its replica: %v, %v", got, err)
	}
	replica.Pause()
	if got, err := durable(); !errors.Is(err, errReplicas) || got != int64(2) {
		t.Errorf("without: %v, %v", got, err)
	}
	if got, err := c.run(t.Context(), count, []string{key}); err != nil || got != int64(3) {
		t.Errorf("what needs no replica goes on: %v, %v", got, err)
	}
	replica.Resume()
	redistest.Eventually(t, "the replica answers again", func() error { _, err := durable(); return err })
}

func TestRedisTLS(t *testing.T) {
	dir := t.TempDir()
	ca, cert, key := certificates(t, dir)
	probe, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := probe.Addr().String()
	_, port := split(addr)
	_ = probe.Close()
	s := redistest.Start(t, "--tls-port", port, "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", ca, "--tls-auth-clients", "no")
	s.Do("CONFIG", "SET", "requirepass", "secret")
	cfg := RedisConfig{Addrs: []string{addr}, TLS: true, TLSCA: ca, Prefix: "oo:", Password: "secret"}
	c := dialTest(t, cfg)
	for range 3 {
		time.Sleep(2 * idleTrust) // an idle connection is looked at before it is used again
		if _, err := c.run(t.Context(), count, []string{c.key("tls")}); err != nil {
			t.Fatal(err)
		}
	}
	if got, _ := c.do(t.Context(), "GET", c.key("tls")); got != "3" {
		t.Errorf("it counted %v", got)
	}
	for what, spoil := range map[string]func(*RedisConfig){
		"certificate signed by unknown authority": func(c *RedisConfig) { c.TLSCA = "" },
		"WRONGPASS": func(c *RedisConfig) { c.Password = "wrong-secret" },
		"store.redis.tls_ca: " + cert + " holds no": func(c *RedisConfig) { c.TLSCA = key },
	} {
		bad := cfg
		spoil(&bad)
		what = strings.ReplaceAll(what, cert, key)
		client, err := dialRedis(t.Context(), bad, nil)
		if err == nil {
			_ = client.close()
			t.Errorf("%s: no error", what)
		} else if !strings.Contains(err.Error(), what) || strings.Contains(err.Error(), "wrong-secret") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// certificates writes a CA and a certificate for 127.0.0.1.
func certificates(t *testing.T, dir string) (ca, cert, key string) {
	t.Helper()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	sign := func(tmpl, parent *x509.Certificate, pub, by *ecdsa.PrivateKey) []byte {
		tmpl.NotBefore, tmpl.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &pub.PublicKey, by)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	caKey, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ownKey, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	root := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	rootDER := sign(root, root, caKey, caKey)
	leafDER := sign(leaf, root, ownKey, caKey)
	keyDER, err := x509.MarshalPKCS8PrivateKey(ownKey)
	if err != nil {
		t.Fatal(err)
	}
	return write("ca.pem", "CERTIFICATE", rootDER), write("cert.pem", "CERTIFICATE", leafDER), write("key.pem", "PRIVATE KEY", keyDER)
}
