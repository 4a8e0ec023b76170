package cache

import (
	"cistern/cache/index"
	"cistern/internal/oci"
)

// maxNesting bounds indexes within indexes.
const maxNesting = 4

// pullable tells whether what a manifest names can be served without upstream:
// an image if all of it is here, an index if one of its children is (P 2.52,
// read for multi-platform images).
func (c *Cache) pullable(manifest []byte, depth int) bool {
	l, err := oci.ParseManifest(manifest)
	if err != nil || depth > maxNesting {
		return false
	}
	if len(l.Manifests) == 0 {
		for _, b := range l.Content() {
			if _, here := c.find(b.Digest); !here && !c.provable(b.Digest, b.Size) {
				return false
			}
		}
		return true
	}
	for _, m := range l.Manifests {
		if m.Digest.IsZero() {
			continue
		}
		child, rec, here := c.small(m.Digest, maxManifest)
		if here && rec.Class == index.ClassManifest && c.pullable(child, depth+1) {
			return true
		}
	}
	return false
}
