package main

import (
	"crypto/sha256"
	"encoding/asn1"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf16"
)

// trustStoreFile is the bundle in the form that Java reads, beside it.
const trustStoreFile = "bundle.p12"

// trustStore writes the certificates of a PEM bundle as a PKCS #12 file beside it, of the same name, and returns its
// path. It holds nothing secret, so it has neither password nor checksum; Java reads such a file when it is given no
// password.
func trustStore(bundle string) (string, error) {
	data, err := os.ReadFile(bundle)
	if err != nil {
		return "", err
	}
	pool := certificates{seen: map[[sha256.Size]byte]bool{}}
	pool.add(data)
	store, err := encodeStore(pool.raw)
	if err != nil {
		return "", fmt.Errorf("%s as PKCS #12: %w", bundle, err)
	}
	name := strings.TrimSuffix(filepath.Base(bundle), ".pem") + ".p12"
	path, err := place(filepath.Dir(bundle), name, store)
	if err != nil {
		return named(filepath.Dir(bundle), "trust", ".p12", store)
	}
	return path, nil
}

// PKCS #12 as RFC 7292 has it, as far as a store of certificates needs it.
type (
	pfx struct {
		Version  int
		AuthSafe contentInfo
	}
	contentInfo struct {
		Type    asn1.ObjectIdentifier
		Content []byte `asn1:"tag:0,explicit"`
	}
	safeBag struct {
		ID         asn1.ObjectIdentifier
		Value      certBag     `asn1:"tag:0,explicit"`
		Attributes []attribute `asn1:"set"`
	}
	certBag struct {
		ID   asn1.ObjectIdentifier
		Data []byte `asn1:"tag:0,explicit"`
	}
	attribute struct {
		ID     asn1.ObjectIdentifier
		Values []asn1.RawValue `asn1:"set"`
	}
)

var (
	oidData            = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	oidCertBag         = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 12, 10, 1, 3}
	oidX509Certificate = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 22, 1}
	oidFriendlyName    = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 20}
	oidTrustedKeyUsage = asn1.ObjectIdentifier{2, 16, 840, 1, 113894, 746875, 1, 1} // by which Java knows a trusted certificate
	oidAnyKeyUsage     = asn1.ObjectIdentifier{2, 5, 29, 37, 0}
)

func encodeStore(certs [][]byte) ([]byte, error) {
	usage, err := asn1.Marshal(oidAnyKeyUsage)
	if err != nil {
		return nil, err
	}
	bags := make([]safeBag, 0, len(certs))
	for i, raw := range certs {
		bags = append(bags, safeBag{oidCertBag, certBag{oidX509Certificate, raw}, []attribute{
			{oidFriendlyName, []asn1.RawValue{bmp(fmt.Sprintf("root-%d", i))}},
			{oidTrustedKeyUsage, []asn1.RawValue{{FullBytes: usage}}},
		}})
	}
	contents, err := asn1.Marshal(bags)
	if err != nil {
		return nil, err
	}
	safe, err := asn1.Marshal([]contentInfo{{oidData, contents}})
	if err != nil {
		return nil, err
	}
	return asn1.Marshal(pfx{3, contentInfo{oidData, safe}})
}

// bmp is a BMPString.
func bmp(s string) asn1.RawValue {
	var b []byte
	for _, unit := range utf16.Encode([]rune(s)) {
		b = binary.BigEndian.AppendUint16(b, unit)
	}
	return asn1.RawValue{Tag: asn1.TagBMPString, Bytes: b}
}
