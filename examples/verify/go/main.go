// Command go verifies a call that oo-sidecar has signed. Copy verify into your tool.
package main

import (
	"bufio"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/textproto"
	"os"
	"strconv"
	"strings"
	"time"
)

// call is a request as it was received. In a net/http handler: Method, Host, RequestURI and Header of *http.Request,
// and the body's bytes before anything parses them.
type call struct {
	method, authority, path string
	header                  map[string]string // by canonical name
	body                    []byte
}

const tolerance = 300 // seconds

// verify says what is wrong with the call, or nil.
func verify(secret []byte, c call, now time.Time) error {
	timestamp := c.header["X-Onceonly-Timestamp"]
	unix, err := strconv.ParseInt(timestamp, 10, 64)
	if err != nil || strconv.FormatInt(unix, 10) != timestamp {
		return errors.New("no timestamp")
	}
	if age := now.Unix() - unix; age > tolerance || age < -tolerance {
		return errors.New("timestamp too far from now")
	}
	if !equal(sign(secret, c.body), c.header["X-Onceonly-Signature"]) {
		return errors.New("signature does not fit the body")
	}
	digest := sha256.Sum256(c.body)
	message := strings.Join([]string{
		"oo-v2", timestamp, c.method, c.authority, c.path, hex.EncodeToString(digest[:]), c.header["Idempotency-Key"],
		c.header["X-Onceonly-Fence"], c.header["X-Onceonly-Tool"], c.header["X-Onceonly-Agent-Id"],
	}, "\n")
	want := "kid=" + sign(secret, []byte("kid"))[:8] + ",v2=" + sign(secret, []byte(message))
	rest, ok := strings.CutPrefix(c.header["X-Onceonly-Signature-V2"], "t="+timestamp+",")
	parts := strings.Split(rest, ",")
	for i := 0; ok && i+1 < len(parts); i += 2 {
		if equal(want, parts[i]+","+parts[i+1]) {
			return nil
		}
	}
	return errors.New("no V2 signature fits the call")
}

// sign is the hex HMAC-SHA256 of message.
func sign(secret, message []byte) string {
	mac := hmac.New(sha256.New, secret)
	mac.Write(message)
	return hex.EncodeToString(mac.Sum(nil))
}

func equal(a, b string) bool { return hmac.Equal([]byte(a), []byte(b)) }

func main() {
	if len(os.Args) != 6 {
		fmt.Fprintln(os.Stderr, "usage: verify SECRET_FILE BODY_FILE METHOD AUTHORITY PATH < headers")
		os.Exit(2)
	}
	secret, err1 := os.ReadFile(os.Args[1])
	body, err2 := os.ReadFile(os.Args[2])
	if err := errors.Join(err1, err2); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	c := call{method: os.Args[3], authority: os.Args[4], path: os.Args[5], header: readHeader(), body: body}
	if err := verify([]byte(strings.TrimRight(string(secret), "\r\n")), c, time.Now()); err != nil {
		fmt.Fprintln(os.Stderr, "not valid:", err)
		os.Exit(1)
	}
	fmt.Println("valid")
}

func readHeader() map[string]string {
	header := map[string]string{}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		if name, value, ok := strings.Cut(lines.Text(), ":"); ok {
			header[textproto.CanonicalMIMEHeaderKey(name)] = strings.TrimSpace(value)
		}
	}
	return header
}
