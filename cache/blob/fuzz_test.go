package blob

import (
	"path/filepath"
	"testing"
)

// A name that is read as a digest's is the name that the digest has, and stays
// inside the directory.
func FuzzDigestOf(f *testing.F) {
	f.Add(place(fillsDir, digest(1)))
	f.Add(place(blobsDir, digest(2)))
	f.Add("fills/sha256/ab/../../../etc/passwd")
	f.Add("blobs/sha512/ab/ab")
	f.Add("fills/sha256//")
	f.Fuzz(func(t *testing.T, name string) {
		d, ok := digestOf(name)
		if ok && (d.IsZero() || !filepath.IsLocal(name) || filepath.Clean(name) != name) {
			t.Errorf("%q is read as %v", name, d)
		}
	})
}
