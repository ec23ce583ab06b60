package hmac

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestNewKeysRefusesAndNeverShowsASecret(t *testing.T) {
	for _, v := range []struct {
		scheme  string
		secrets []string
		want    string
	}{
		{"onceonly", nil, "no secret"},
		{"onceonly", []string{"TOPSECRET", ""}, "secret 2 is empty"},
		{"sha1", []string{"TOPSECRET"}, `scheme "sha1" is not known`},
		{"standard-webhooks", []string{"TOPSECRET"}, "secret 1 is not whsec_"},
		{"standard-webhooks", []string{"whsec_TOPSECRET!"}, "secret 1 is not whsec_"},
		{"standard-webhooks", []string{"whsec_"}, "secret 1 is not whsec_"},
	} {
		_, err := NewKeys(v.scheme, v.secrets)
		if err == nil || !strings.Contains(err.Error(), v.want) || strings.Contains(err.Error(), "TOPSECRET") {
			t.Errorf("%s %d secrets: %v, want %q and no secret in it", v.scheme, len(v.secrets), err, v.want)
		}
	}
}

func TestSignRefusesWhatCannotBeSignedUnmistakably(t *testing.T) {
	oo, web := newKeys(t, OnceOnly, "secret"), newKeys(t, StandardWebhooks, "whsec_"+base64.StdEncoding.EncodeToString(make([]byte, 24)))
	for i, c := range []*Call{
		{Method: "POST\n"}, {Authority: "h\n"}, {Path: "/\n"}, {Key: "k\nl"}, {Tool: "t\r"}, {Agent: "a\n1"}, {Agent: "a\x00"},
	} {
		if _, err := oo.Sign(c, time.Unix(0, 0)); !errors.Is(err, ErrUnsignable) {
			t.Errorf("call %d was signed: %v", i, err)
		}
	}
	for _, id := range []string{"", "a.b", "a\nb"} {
		if _, err := web.Sign(&Call{ID: id}, time.Unix(0, 0)); !errors.Is(err, ErrUnsignable) {
			t.Errorf("id %q was signed: %v", id, err)
		}
	}
}

func TestKeyHeaderOfTheTool(t *testing.T) {
	k, now := newKeys(t, OnceOnly, "secret"), time.Unix(1_700_000_000, 0)
	c := &Call{Method: "POST", Authority: "h:443", Path: "/", Key: "oo_1", Fence: 1, Tool: "t", Agent: "a"}
	h := signed(t, k, c, now)
	delete(h, "Idempotency-Key")
	h["X-Key"] = "oo_1"
	r := &Received{Method: "POST", Authority: "h:443", Path: "/", Get: func(n string) string { return h[n] }}
	if err := k.Verify(r, now); !errors.Is(err, ErrMismatch) {
		t.Errorf("without the header's name: %v", err)
	}
	r.KeyHeader = "X-Key"
	if err := k.Verify(r, now); err != nil {
		t.Errorf("with it: %v", err)
	}
}

// signed is the headers with which the call arrives.
func signed(t testing.TB, k *Keys, c *Call, now time.Time) map[string]string {
	t.Helper()
	fields, err := k.Sign(c, now)
	if err != nil {
		t.Fatal(err)
	}
	h := map[string]string{"Idempotency-Key": c.Key, FenceHeader: fmt.Sprint(c.Fence), ToolHeader: c.Tool, AgentHeader: c.Agent}
	for _, f := range fields {
		h[f.Name] = f.Value
	}
	return h
}

// FuzzSignVerify: what is signed verifies, and one flipped bit of body or signature does not.
func FuzzSignVerify(f *testing.F) {
	f.Add([]byte("secret"), []byte(`{"a":1}`), "/v1/x?y=z", "oo_1", "agent", uint64(7), uint16(3))
	f.Add([]byte{0}, []byte{}, "/", "", "", uint64(0), uint16(0))
	now := time.Unix(1_700_000_000, 0)
	f.Fuzz(func(t *testing.T, secret, body []byte, path, key, agent string, fence uint64, bit uint16) {
		if len(secret) == 0 {
			return
		}
		for _, k := range []*Keys{
			newKeys(t, OnceOnly, string(secret)),
			newKeys(t, StandardWebhooks, "whsec_"+base64.StdEncoding.EncodeToString(secret)),
		} {
			c := &Call{Method: "POST", Authority: "tool.test:443", Path: path, Body: body, Key: key, Fence: fence, Tool: "t", Agent: agent, ID: "oo_1"}
			if _, err := k.Sign(c, now); err != nil {
				if !hasControl(path, key, agent) {
					t.Fatalf("not signed: %v", err)
				}
				continue
			}
			h := signed(t, k, c, now)
			r := &Received{Method: "POST", Authority: "tool.test:443", Path: path, Body: body, Get: func(n string) string { return h[n] }}
			if err := k.Verify(r, now); err != nil {
				t.Fatalf("what was signed does not verify: %v", err)
			}
			if len(body) > 0 {
				r.Body = flip(body, bit)
				if err := k.Verify(r, now); !errors.Is(err, ErrMismatch) {
					t.Fatalf("a flipped bit of the body: %v", err)
				}
				r.Body = body
			}
			for _, name := range []string{SignatureHeader, SignatureV2Header, WebhookSignature} {
				whole := h[name]
				if whole == "" {
					continue
				}
				h[name] = string(flip([]byte(whole), bit))
				if k.Verify(r, now) == nil {
					t.Fatalf("%s with a flipped bit verifies: %q", name, h[name])
				}
				h[name] = whole
			}
		}
	})
}

func flip(b []byte, bit uint16) []byte {
	b = append([]byte(nil), b...)
	n := int(bit) % (len(b) * 8)
	b[n/8] ^= 1 << (n % 8)
	return b
}
