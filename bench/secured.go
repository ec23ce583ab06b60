package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"
)

// securedHost is the tool's name over TLS.
const securedHost = "bench.test"

// The names of those who are measured over TLS.
const (
	nameHop          = "bare TLS hop"
	nameFirstInside  = "first calls inside"
	nameReplayInside = "replays inside"
)

// securedLevels are the numbers of connections at the same time, each with all its requests inside one handshake.
var securedLevels = []int{1, 16, 64}

// writeCertificate makes the one certificate of tool and hop, which is also its own root, with its key.
func writeCertificate(dir string) (file string, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{securedHost}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return "", err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", err
	}
	var text bytes.Buffer
	_ = pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: cert})
	_ = pem.Encode(&text, &pem.Block{Type: "PRIVATE KEY", Bytes: private})
	file = filepath.Join(dir, "tls.pem")
	return file, os.WriteFile(file, text.Bytes(), 0o600)
}

// serverTLS and clientTLS are of tool and hop, as the sidecar has them.
func serverTLS(file string) (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(file, file)
	return &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"http/1.1"}, CurvePreferences: []tls.CurveID{tls.X25519, tls.CurveP256}}, err
}

func clientTLS(file string) (*tls.Config, error) {
	text, err := os.ReadFile(file)
	roots := x509.NewCertPool()
	if err == nil && !roots.AppendCertsFromPEM(text) {
		err = fmt.Errorf("%s holds no certificate", file)
	}
	return &tls.Config{RootCAs: roots, ServerName: securedHost}, err
}

// serveSecuredTool is the tool over TLS.
func serveSecuredTool(ctx context.Context, out io.Writer, file string) error {
	conf, err := serverTLS(file)
	if err != nil {
		return err
	}
	return serveOver(ctx, out, conf, givesAnswer())
}

// serveHop is a bare proxy that ends the caller's TLS and speaks TLS to the tool.
func serveHop(ctx context.Context, out io.Writer, file, upstream string) error {
	conf, err := serverTLS(file)
	if err != nil {
		return err
	}
	client := bareClient(upstream)
	client.IsTLS = true
	if client.TLSConfig, err = clientTLS(file); err != nil {
		return err
	}
	return serveOver(ctx, out, conf, passesOn(client))
}

// secured is everyone who is measured over TLS.
type secured struct {
	contenders []contender // the hop first
	sidecar    *sidecar
	others     []*process
}

func startSecured(ctx context.Context, s settings, dir string) (*secured, error) {
	f := &secured{}
	file, err := writeCertificate(dir)
	if err != nil {
		return f, err
	}
	tool, toolAddress, err := startRole(ctx, dir, "secured-tool", file)
	if err != nil {
		return f, err
	}
	f.others = append(f.others, tool)
	hop, hopAddress, err := startRole(ctx, dir, "hop", file, toolAddress)
	if err != nil {
		return f, err
	}
	f.others = append(f.others, hop)
	_, port, _ := net.SplitHostPort(toolAddress)
	host := net.JoinHostPort(securedHost, port)
	f.sidecar, err = newSidecar(s.binary, filepath.Join(dir, "secured"), toolAddress, func(conf map[string]any) {
		proxy := conf["proxy"].(map[string]any)
		proxy["intercept"], proxy["upstream_ca"], proxy["resolve"] = map[string]any{"enabled": true}, file, map[string]any{securedHost: "127.0.0.1"}
		conf["tools"].([]map[string]any)[0]["url"] = "https://" + host + "/ok"
	})
	if err != nil {
		return f, err
	}
	if _, err := f.sidecar.start(ctx, 0); err != nil {
		return f, err
	}
	conf, err := clientTLS(file)
	if err != nil {
		return f, err
	}
	conf.InsecureSkipVerify = true // the callers' own cost is not what is measured
	first := contender{name: nameFirstInside, proc: f.sidecar.process, address: f.sidecar.address, host: host, path: "/ok", must: executed, differ: true, over: through(host, conf)}
	replay := first
	replay.name, replay.must, replay.differ = nameReplayInside, replayed, false
	if err := replay.prime(); err != nil {
		return f, err
	}
	f.contenders = []contender{
		{name: nameHop, proc: hop, address: hopAddress, host: host, path: "/ok", differ: true, over: secure(conf)}, first, replay,
	}
	return f, nil
}

// prime makes the call that the replays repeat.
func (c contender) prime() error {
	c.must = ""
	caller, err := dial(c)
	if err != nil {
		return err
	}
	defer caller.conn.Close()
	return caller.call(0)
}

func (f *secured) stop() {
	for _, p := range f.others {
		p.stop()
	}
	if f.sidecar != nil && f.sidecar.process != nil {
		f.sidecar.stop()
	}
}

func secure(conf *tls.Config) func(net.Conn) (net.Conn, error) {
	return func(c net.Conn) (net.Conn, error) {
		t := tls.Client(c, conf)
		return t, t.Handshake()
	}
}

// through opens a tunnel first.
func through(host string, conf *tls.Config) func(net.Conn) (net.Conn, error) {
	return func(c net.Conn) (net.Conn, error) {
		if _, err := io.WriteString(c, "CONNECT "+host+" HTTP/1.1\r\n\r\n"); err != nil {
			return c, err
		}
		var head []byte
		for b := make([]byte, 1); !bytes.HasSuffix(head, []byte("\r\n\r\n")); head = append(head, b[0]) {
			if _, err := io.ReadFull(c, b); err != nil {
				return c, err
			}
		}
		if !bytes.HasPrefix(head, []byte("HTTP/1.1 200 ")) {
			return c, fmt.Errorf("CONNECT %s: %s", host, head)
		}
		return secure(conf)(c)
	}
}

// handshakes is how many connections a second a contender takes, tunnel and full handshake, from 16 callers.
func handshakes(ctx context.Context, s settings, c contender) (float64, error) {
	var n atomic.Int64
	var quit atomic.Bool
	var all sync.WaitGroup
	failed := make(chan error, 1)
	for range 16 {
		all.Go(func() {
			for !quit.Load() {
				conn, err := c.connect()
				if err != nil {
					select {
					case failed <- err:
					default:
					}
					return
				}
				n.Add(1)
				conn.Close()
			}
		})
	}
	err := wait(ctx, s.warm)
	before, began := n.Load(), time.Now()
	if err == nil {
		err = wait(ctx, s.measure)
	}
	done, took := n.Load()-before, time.Since(began)
	quit.Store(true)
	all.Wait()
	select {
	case other := <-failed:
		err = errors.Join(err, other)
	default:
	}
	return float64(done) / took.Seconds(), err
}

// measureSecured runs and prints the part over TLS.
func measureSecured(ctx context.Context, s settings, dir string, out io.Writer) error {
	f, err := startSecured(ctx, s, dir)
	defer f.stop()
	if err != nil {
		return err
	}
	r, err := interleave(ctx, s, f.contenders, securedLevels, progressTo(os.Stderr))
	if err != nil {
		return err
	}
	shaken := map[string][]float64{}
	for range s.rounds {
		for _, c := range f.contenders[:2] {
			n, err := handshakes(ctx, s, c)
			if err != nil {
				return fmt.Errorf("handshakes with %s: %w", c.name, err)
			}
			shaken[c.name] = append(shaken[c.name], n)
		}
	}
	t := newTable(out, fmt.Sprintf("over TLS on both sides: requests inside one connection each, medians of %d interleaved rounds", s.rounds),
		"connections", "", "calls/s", "of the bare TLS hop", "CPU s per 100,000", "of the bare TLS hop")
	for _, callers := range securedLevels {
		for _, c := range f.contenders {
			t.row(fmt.Sprint(callers), c.name, figure(r.median(c.name, callers, throughput), 0), figure(median(r.ratios(c.name, nameHop, callers, throughput)), 2),
				figure(r.median(c.name, callers, cpuTime), 2), figure(median(r.ratios(c.name, nameHop, callers, cpuTime)), 2))
		}
	}
	t.flush()
	t = newTable(out, "full handshakes a second, 16 callers", "", "handshakes/s", "of the bare TLS hop")
	hop := median(shaken[nameHop])
	t.row(nameHop, figure(hop, 0), figure(1, 2))
	t.row("tunnels opened by the sidecar", figure(median(shaken[nameFirstInside]), 0), figure(median(shaken[nameFirstInside])/hop, 2))
	t.flush()
	return nil
}

// serveOver is serve over TLS.
func serveOver(ctx context.Context, out io.Writer, conf *tls.Config, h fasthttp.RequestHandler) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	return serveOn(ctx, out, l, tls.NewListener(l, conf), h)
}
