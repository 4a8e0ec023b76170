package oci

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Digest names content by its hash ("sha256:<64 hex>" or "sha512:<128 hex>",
// P 3.7). Only ParseDigest, FromBytes and FromSum build one, so a Digest that is not
// zero is always safe to hash with and to form a file name from: go-digest
// itself panics on text that it has not validated. Digests compare with ==.
type Digest struct{ s string }

// ParseDigest validates s. The error's code is DIGEST_INVALID.
func ParseDigest(s string) (Digest, error) {
	d := digest.Digest(s)
	if err := d.Validate(); err != nil {
		return Digest{}, &Error{Code: CodeDigestInvalid, Message: fmt.Sprintf("digest %s is not valid: want sha256:<64 hex> or sha512:<128 hex>", Quote(s)), Err: err}
	}
	if a := d.Algorithm(); a != digest.SHA256 && a != digest.SHA512 {
		return Digest{}, &Error{Code: CodeDigestInvalid, Message: fmt.Sprintf("digest algorithm %s is not supported: use sha256 or sha512", a)}
	}
	return Digest{s}, nil
}

// FromBytes computes the sha256 digest of b.
func FromBytes(b []byte) Digest { return Digest{string(digest.FromBytes(b))} }

// FromSum makes a digest of a hash's bytes: 32 are sha256, 64 sha512; false for
// any other number. It does not validate text, and so takes a tenth of the time
// of ParseDigest.
func FromSum(sum []byte) (Digest, bool) {
	name := ""
	switch len(sum) {
	case sha256.Size:
		name = "sha256:"
	case sha512.Size:
		name = "sha512:"
	default:
		return Digest{}, false
	}
	text := append(make([]byte, 0, len("sha512:")+2*sha512.Size), name...)
	return Digest{string(hex.AppendEncode(text, sum))}, true
}

// String gives the digest as text, "" for the zero Digest.
func (d Digest) String() string { return d.s }

// Clone gives d with its own memory: what was parsed out of a URL keeps the whole
// request line alive, for as long as anybody keeps it.
func (d Digest) Clone() Digest { return Digest{strings.Clone(d.s)} }

// IsZero tells whether d is the zero Digest, which names nothing.
func (d Digest) IsZero() bool { return d.s == "" }

// Algorithm is "sha256" or "sha512"; "" for the zero Digest.
func (d Digest) Algorithm() string {
	a, _, _ := strings.Cut(d.s, ":")
	return a
}

// Hex is the hash in lower-case hexadecimal; "" for the zero Digest.
func (d Digest) Hex() string {
	_, h, _ := strings.Cut(d.s, ":")
	return h
}

// Hash gives a new hash of the digest's algorithm (sha256 for the zero Digest).
func (d Digest) Hash() hash.Hash {
	if d.Algorithm() == "sha512" {
		return sha512.New()
	}
	return sha256.New()
}

// Matches tells whether h, which must come from Hash, has arrived at d.
func (d Digest) Matches(h hash.Hash) bool {
	var sum [sha512.Size]byte
	return hex.EncodeToString(h.Sum(sum[:0])) == d.Hex()
}

// Verify tells whether b is the content that d names.
func (d Digest) Verify(b []byte) bool {
	h := d.Hash()
	h.Write(b)
	return d.Matches(h)
}

// MarshalText implements encoding.TextMarshaler.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.s), nil }

// UnmarshalText implements encoding.TextUnmarshaler; empty text gives the zero Digest.
func (d *Digest) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*d = Digest{}
		return nil
	}
	p, err := ParseDigest(string(b))
	if err != nil {
		return err
	}
	*d = p
	return nil
}
