package blob

import (
	"path/filepath"
	"strings"
	"testing"

	"cistern/internal/oci"
)

// Folders and a name that are read as a digest's are those that the digest has,
// and stay inside the directory.
func FuzzDigestOf(f *testing.F) {
	add := func(d oci.Digest) { f.Add(d.Algorithm(), d.Hex()[:2], d.Hex()) }
	add(digest(1))
	add(digest(2))
	f.Add("sha256", "ab", "../../../etc/passwd")
	f.Add("sha512", "ab", "ab")
	f.Add("sha256", "", "")
	f.Add("sha256", "..", strings.Repeat("ab", 32))
	f.Fuzz(func(t *testing.T, alg, shard, name string) {
		d, ok := digestOf(alg, shard, name)
		if full := strings.Join([]string{blobsDir, alg, shard, name}, "/"); ok && (d.IsZero() || !filepath.IsLocal(full) || place(blobsDir, d) != full) {
			t.Errorf("%q is read as %v", full, d)
		}
	})
}
