package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"time"
)

// corporate is the proxy that public connections go through (proxy.via), always by CONNECT, so that it sees neither
// requests nor credentials of https tools. Places that an exception lets in as not public, and those in proxy.resolve,
// are dialled directly. A name is judged by the addresses it has here; where it has none here, or where the proxy finds
// others, the proxy's own rules are all there is.
type corporate struct {
	host  string
	port  uint16
	tls   *tls.Config // nil: spoken to in the clear
	basic string      // value of Proxy-Authorization; never in an error
}

func newCorporate(text string, roots *x509.CertPool) (*corporate, error) {
	if text == "" {
		return nil, nil
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return nil, fmt.Errorf("proxy.via: must look like http://host:port or https://user:password@host:port")
	}
	c := &corporate{host: plainName(u.Hostname())}
	digits := u.Port()
	if digits == "" {
		digits = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	port, err := strconv.ParseUint(digits, 10, 16)
	if err != nil || port == 0 {
		return nil, fmt.Errorf("proxy.via: %q is not a port", digits)
	}
	c.port = uint16(port)
	if u.Scheme == "https" {
		c.tls = clientTLS(roots, c.host)
	}
	if u.User != nil {
		password, _ := u.User.Password()
		c.basic = "Basic " + base64.StdEncoding.EncodeToString([]byte(u.User.Username()+":"+password))
	}
	return c, nil
}

func (c *corporate) name() string {
	return "the proxy " + net.JoinHostPort(c.host, strconv.Itoa(int(c.port)))
}

// connect opens a tunnel to authority through the proxy. ctx has a deadline.
func (c *corporate) connect(ctx context.Context, d *Dialer, authority string) (net.Conn, error) {
	conn, err := c.dial(ctx, d)
	if err != nil {
		return nil, fmt.Errorf("%w (on the way to %s, by proxy.via)", err, authority)
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	head, err := c.ask(conn, authority)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err == nil && !bytes.HasPrefix(head, []byte("HTTP/1.1 200")) && !bytes.HasPrefix(head, []byte("HTTP/1.0 200")) {
		line, _, _ := bytes.Cut(head, []byte("\r\n"))
		err = fmt.Errorf("answered %q", line)
	}
	if err != nil {
		conn.Close()
		return nil, unreachable(ctx, "connect to "+authority+" through "+c.name(), err)
	}
	return conn, nil
}

// dial reaches the proxy itself. The operator named it, so only what is never reached is refused.
func (c *corporate) dial(ctx context.Context, d *Dialer) (net.Conn, error) {
	found, err := d.Addresses(ctx, c.host)
	if err != nil {
		return nil, err
	}
	to := make([]netip.AddrPort, 0, len(found))
	for _, a := range found {
		ap := netip.AddrPortFrom(a, c.port)
		if err := judge(ap, rules{exempt: true, own: d.own.include}); err != nil {
			return nil, err
		}
		to = append(to, ap)
	}
	conn, _, err := race(ctx, alternate(to))
	if err != nil || c.tls == nil {
		return conn, err
	}
	secure := tls.Client(conn, c.tls)
	if err := secure.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, untrusted(ctx, c.name(), err)
	}
	return secure, nil
}

// ask sends the CONNECT and returns the head of its answer. It reads byte by byte: what follows belongs to the tunnel.
func (c *corporate) ask(conn net.Conn, authority string) ([]byte, error) {
	request := "CONNECT " + authority + " HTTP/1.1\r\nHost: " + authority + "\r\n"
	if c.basic != "" {
		request += "Proxy-Authorization: " + c.basic + "\r\n"
	}
	if _, err := io.WriteString(conn, request+"\r\n"); err != nil {
		return nil, err
	}
	var head []byte
	var b [1]byte
	for !bytes.HasSuffix(head, []byte("\r\n\r\n")) {
		if len(head) == 16<<10 {
			return nil, fmt.Errorf("its answer has more than 16 KiB of header")
		}
		if _, err := io.ReadFull(conn, b[:]); err != nil {
			return nil, err
		}
		head = append(head, b[0])
	}
	return head, nil
}
