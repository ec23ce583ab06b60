package audit

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

const headPrefix = "oo-head:v1:"

// Head says what a journal held once: everything up to Seq, in that order, and by the signature that it was this
// store which said so. Whoever keeps a head elsewhere can prove later that nothing before it was changed.
type Head struct {
	Journal   string // its id, hex
	Seq       uint64
	Chain     [32]byte // of the journal, up to and with Seq
	Signature [ed25519.SignatureSize]byte
}

var (
	// ErrHeadSyntax says that a text is no head.
	ErrHeadSyntax = errors.New("is no head; a head is what `oo-sidecar audit verify` prints: oo-head:v1:JOURNAL:SEQ:CHAIN:SIGNATURE")
	// ErrHeadForeign says that a head was not signed with this store's key.
	ErrHeadForeign = errors.New("the head was not signed with this store's key")
)

// claim is what is signed.
func (h *Head) claim() string {
	return headPrefix + h.Journal + ":" + strconv.FormatUint(h.Seq, 10) + ":" + hex.EncodeToString(h.Chain[:])
}

// String is the head as it is printed and given back.
func (h *Head) String() string {
	return h.claim() + ":" + base64.RawURLEncoding.EncodeToString(h.Signature[:])
}

// ParseHead reads what String wrote, and nothing else: a head has one spelling.
func ParseHead(text string) (*Head, error) {
	var h Head
	rest, ok := strings.CutPrefix(text, headPrefix)
	parts := strings.Split(rest, ":")
	if !ok || len(parts) != 4 {
		return nil, headSyntax(text)
	}
	h.Journal = parts[0]
	seq, err := strconv.ParseUint(parts[1], 10, 64)
	chain, err2 := hex.DecodeString(parts[2])
	signature, err3 := base64.RawURLEncoding.Strict().DecodeString(parts[3])
	if err != nil || err2 != nil || err3 != nil || len(chain) != len(h.Chain) || len(signature) != len(h.Signature) || !isHex(h.Journal) {
		return nil, headSyntax(text)
	}
	h.Seq = seq
	copy(h.Chain[:], chain)
	copy(h.Signature[:], signature)
	if h.String() != text {
		return nil, headSyntax(text)
	}
	return &h, nil
}

func headSyntax(text string) error {
	if len(text) > 40 {
		text = text[:40] + "…"
	}
	return fmt.Errorf("%q %w", text, ErrHeadSyntax)
}

func isHex(s string) bool {
	return s != "" && len(s) <= 64 && strings.Trim(s, "0123456789abcdef") == ""
}
