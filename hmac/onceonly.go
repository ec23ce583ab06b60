package hmac

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
)

// Headers of the OnceOnly scheme.
const (
	SignatureHeader   = "X-OnceOnly-Signature"     // lower-case hex HMAC of the body, under the first secret
	AlgorithmHeader   = "X-OnceOnly-Signature-Alg" // hmac_sha256
	TimestampHeader   = "X-OnceOnly-Timestamp"     // unix seconds; the plain signature does not cover it
	SignatureV2Header = "X-OnceOnly-Signature-V2"  // t=<unix> and per secret ,kid=<id>,v2=<hex>
	FenceHeader       = "X-OnceOnly-Fence"
	ToolHeader        = "X-OnceOnly-Tool"
	AgentHeader       = "X-OnceOnly-Agent-Id"

	algorithm = "hmac_sha256"
)

func (k *Keys) signOnceOnly(c *Call, unix int64) ([]Field, error) {
	if hasControl(c.Method, c.Authority, c.Path, c.Key, c.Tool, c.Agent) {
		return nil, ErrUnsignable
	}
	plain := k.keys[0].signer.Sum(c.Body)
	return []Field{
		{SignatureHeader, hex.EncodeToString(plain[:])},
		{AlgorithmHeader, algorithm},
		{TimestampHeader, strconv.FormatInt(unix, 10)},
		{SignatureV2Header, k.headerV2(c, unix)},
	}, nil
}

func (k *Keys) headerV2(c *Call, unix int64) string {
	digest := sha256.Sum256(c.Body)
	header := make([]byte, 0, 16+len(k.keys)*(len(",kid=,v2=")+8+64))
	header = append(header, "t="...)
	header = strconv.AppendInt(header, unix, 10)
	for _, key := range k.keys {
		sum := key.signer.sumV2(c, unix, &digest)
		header = append(append(header, ",kid="...), key.kid...)
		header = hex.AppendEncode(append(header, ",v2="...), sum[:])
	}
	return string(header)
}

func (s *Signer) sumV2(c *Call, unix int64, digest *[32]byte) [32]byte {
	st := s.get()
	st.buf = appendV2(st.buf, c, unix, digest)
	st.hash.Write(st.buf)
	return s.put(st)
}

// appendV2 is the message of V2: ten lines, the last without its end. No value can hold a line break.
func appendV2(b []byte, c *Call, unix int64, digest *[32]byte) []byte {
	b = append(b, "oo-v2\n"...)
	b = append(strconv.AppendInt(b, unix, 10), '\n')
	b = append(append(b, c.Method...), '\n')
	b = append(append(b, c.Authority...), '\n')
	b = append(append(b, c.Path...), '\n')
	b = append(hex.AppendEncode(b, digest[:]), '\n')
	b = append(append(b, c.Key...), '\n')
	b = append(strconv.AppendUint(b, c.Fence, 10), '\n')
	b = append(append(b, c.Tool...), '\n')
	return append(b, c.Agent...)
}
