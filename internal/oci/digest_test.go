package oci

import (
	"bytes"
	"strings"
	"testing"
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
