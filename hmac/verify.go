package hmac

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"strconv"
	"strings"
	"time"
)

// Tolerance is how far a timestamp may be from the verifier's clock, either way.
const Tolerance = 300 * time.Second

// The ways for a signed call to be wrong.
var (
	ErrMissing            = errors.New("the signature is missing")
	ErrMalformed          = errors.New("the signature is malformed")
	ErrAlgorithm          = errors.New("the signature algorithm is not hmac_sha256")
	ErrTimestampMissing   = errors.New("the timestamp is missing")
	ErrTimestampMalformed = errors.New("the timestamp is not a number of seconds")
	ErrTimestampsDiffer   = errors.New("the timestamp header is not the one that was signed")
	ErrTooOld             = errors.New("the timestamp is too old")
	ErrTooNew             = errors.New("the timestamp lies in the future")
	ErrFence              = errors.New("the fence is not a number")
	ErrIDMissing          = errors.New("the message id is missing")
	ErrUnknownKey         = errors.New("no signature is by a secret that is known")
	ErrMismatch           = errors.New("the signature does not fit the call")
)

// Received is a call as the tool received it.
type Received struct {
	Method    string
	Authority string // the value of Host
	Path      string // escaped path and query, as in the request line
	Body      []byte
	KeyHeader string                   // where the tool gets its idempotency key; "" means Idempotency-Key
	Get       func(name string) string // a header's value, "" when absent; http.Header.Get fits
}

// Verify checks all that the scheme signs: for onceonly the plain signature and V2, both of which must be there.
func (k *Keys) Verify(r *Received, now time.Time) error {
	if k.scheme == StandardWebhooks {
		return k.VerifyWebhook(r, now)
	}
	if err := k.VerifyBody(r, now); err != nil {
		return err
	}
	return k.VerifyV2(r, now)
}

// VerifyBody checks the plain OnceOnly signature: that of the body alone. Its timestamp is not signed, so that whoever
// saw one call can send it again: use VerifyV2.
func (k *Keys) VerifyBody(r *Received, now time.Time) error {
	text := r.Get(SignatureHeader)
	if text == "" {
		return ErrMissing
	}
	if alg := r.Get(AlgorithmHeader); alg != "" && !strings.EqualFold(alg, algorithm) {
		return ErrAlgorithm
	}
	unix, err := parseTimestamp(r.Get(TimestampHeader))
	if err != nil {
		return err
	}
	if err := checkTime(unix, now); err != nil {
		return err
	}
	sum, ok := decodeHex(text)
	if !ok {
		return ErrMalformed
	}
	for _, key := range k.keys {
		if want := key.signer.Sum(r.Body); equal(want[:], sum) {
			return nil
		}
	}
	return ErrMismatch
}

// VerifyV2 checks the OnceOnly signature that covers method, address, body, idempotency key, fence, tool, agent and time.
func (k *Keys) VerifyV2(r *Received, now time.Time) error {
	v2, err := parseV2(r.Get(SignatureV2Header))
	if err != nil {
		return err
	}
	if t := r.Get(TimestampHeader); t != "" && t != strconv.FormatInt(v2.unix, 10) {
		return ErrTimestampsDiffer
	}
	if err := checkTime(v2.unix, now); err != nil {
		return err
	}
	call, err := r.call()
	if err != nil {
		return err
	}
	digest := sha256.Sum256(r.Body)
	failure := ErrUnknownKey
	for _, s := range v2.signatures {
		for _, key := range k.keys {
			if key.kid != s.kid {
				continue
			}
			if want := key.signer.sumV2(call, v2.unix, &digest); equal(want[:], s.sum) {
				return nil
			}
			failure = ErrMismatch
		}
	}
	return failure
}

// call is what the sender must have signed.
func (r *Received) call() (*Call, error) {
	name := r.KeyHeader
	if name == "" {
		name = "Idempotency-Key"
	}
	c := &Call{Method: r.Method, Authority: r.Authority, Path: r.Path, Body: r.Body, Key: r.Get(name), Tool: r.Get(ToolHeader), Agent: r.Get(AgentHeader)}
	text := r.Get(FenceHeader)
	fence, err := strconv.ParseUint(text, 10, 64)
	if err != nil || strconv.FormatUint(fence, 10) != text {
		return nil, ErrFence
	}
	c.Fence = fence
	if hasControl(c.Method, c.Authority, c.Path, c.Key, c.Tool, c.Agent) {
		return nil, ErrMismatch
	}
	return c, nil
}

// VerifyWebhook checks the signature of standard-webhooks.
func (k *Keys) VerifyWebhook(r *Received, now time.Time) error {
	text := r.Get(WebhookSignature)
	if text == "" {
		return ErrMissing
	}
	id := r.Get(WebhookID)
	if id == "" {
		return ErrIDMissing
	}
	unix, err := parseTimestamp(r.Get(WebhookTimestamp))
	if err != nil {
		return err
	}
	if err := checkTime(unix, now); err != nil {
		return err
	}
	failure := ErrMalformed
	for signature := range strings.SplitSeq(text, " ") {
		encoded, ok := strings.CutPrefix(signature, "v1,")
		sum, err := base64.StdEncoding.Strict().DecodeString(encoded)
		if !ok || err != nil || len(sum) != sha256.Size {
			continue // another version, or none of ours
		}
		failure = ErrMismatch
		for _, key := range k.keys {
			if want := key.signer.sumWebhook(id, unix, r.Body); equal(want[:], sum) {
				return nil
			}
		}
	}
	return failure
}

// parsedV2 is a V2 header.
type parsedV2 struct {
	unix       int64
	signatures []signatureV2
}

type signatureV2 struct {
	kid string
	sum []byte
}

// maxSignatures bounds what a header can make a verifier compute.
const maxSignatures = 16

func parseV2(header string) (v parsedV2, err error) {
	if header == "" {
		return v, ErrMissing
	}
	parts := strings.Split(header, ",")
	t, ok := strings.CutPrefix(parts[0], "t=")
	if pairs := len(parts) - 1; !ok || pairs == 0 || pairs%2 != 0 || pairs > 2*maxSignatures {
		return v, ErrMalformed
	}
	if v.unix, err = parseTimestamp(t); err != nil {
		return v, err
	}
	for i := 1; i < len(parts); i += 2 {
		kid, ok1 := strings.CutPrefix(parts[i], "kid=")
		text, ok2 := strings.CutPrefix(parts[i+1], "v2=")
		sum, ok3 := decodeHex(text)
		if !ok1 || !ok2 || !ok3 || len(kid) != 8 {
			return v, ErrMalformed
		}
		v.signatures = append(v.signatures, signatureV2{kid, sum})
	}
	return v, nil
}

// decodeHex reads 64 lower-case hex digits.
func decodeHex(s string) ([]byte, bool) {
	sum, err := hex.DecodeString(s)
	return sum, err == nil && len(sum) == sha256.Size && strings.ToLower(s) == s
}

// parseTimestamp reads unix seconds in their one spelling.
func parseTimestamp(s string) (int64, error) {
	if s == "" {
		return 0, ErrTimestampMissing
	}
	unix, err := strconv.ParseInt(s, 10, 64)
	if err != nil || unix < 0 || strconv.FormatInt(unix, 10) != s {
		return 0, ErrTimestampMalformed
	}
	return unix, nil
}

func checkTime(unix int64, now time.Time) error {
	const limit = int64(Tolerance / time.Second)
	switch n := now.Unix(); {
	case unix < n-limit:
		return ErrTooOld
	case unix > n+limit:
		return ErrTooNew
	}
	return nil
}
