package oci

import (
	"bytes"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

func TestFromSum(t *testing.T) {
	t.Parallel()
	for _, n := range []int{32, 64} {
		sum := bytes.Repeat([]byte{0xa7}, n)
		d, ok := FromSum(sum)
		want, err := ParseDigest(map[int]string{32: "sha256:", 64: "sha512:"}[n] + strings.Repeat("a7", n))
		if !ok || err != nil || d != want {
			t.Errorf("%d bytes: %v, %v, want %v, %v", n, d, ok, want, err)
		}
	}
	for _, n := range []int{0, 31, 33, 63, 65} {
		if d, ok := FromSum(make([]byte, n)); ok || !d.IsZero() {
			t.Errorf("%d bytes: %v", n, d)
		}
	}
}

// What ParseDigest takes is what go-digest takes, of the two algorithms.
func TestParseDigest(t *testing.T) {
	t.Parallel()
	valid := []string{"sha256:" + strings.Repeat("09afb8e7", 8), "sha512:" + strings.Repeat("09afb8e7", 16)}
	texts := []string{"", ":", "sha256:", "sha512:", "sha384:" + strings.Repeat("a", 96), valid[0][:7] + valid[1][7:], valid[1][:7] + valid[0][7:]}
	for _, v := range valid {
		texts = append(texts, v, v+"0", v[:len(v)-1], v[1:], strings.ToUpper(v), v+"\n", " "+v)
		for i := range v {
			for _, c := range []byte("/09:@A`afgz\x00\xff") {
				texts = append(texts, v[:i]+string(c)+v[i+1:], v[:i]+string([]byte{c})+v[i+1:])
			}
		}
	}
	taken := 0
	for _, text := range texts {
		want := digest.Digest(text)
		ok := want.Validate() == nil && (want.Algorithm() == digest.SHA256 || want.Algorithm() == digest.SHA512)
		d, err := ParseDigest(text)
		if (err == nil) != ok || ok && d.String() != text || !ok && !d.IsZero() {
			t.Errorf("%q: %v, %v; go-digest says %v", text, d, err, ok)
		}
		if ok {
			taken++
		}
	}
	if taken < 100 {
		t.Errorf("%d are valid", taken)
	}
}

func BenchmarkParseDigest(b *testing.B) {
	text := "sha256:" + strings.Repeat("09afb8e7", 8)
	for b.Loop() {
		if _, err := ParseDigest(text); err != nil {
			b.Fatal(err)
		}
	}
}
