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
func (c *Cache) pullable(manifest []byte) bool {
	return c.pullableBelow(manifest, 0, map[oci.Digest]struct{}{})
}

// pullableBelow looks at each manifest once, at the first place where it is met: indexes
// that all name the same indexes would else be read times and times again.
func (c *Cache) pullableBelow(manifest []byte, depth int, met map[oci.Digest]struct{}) bool {
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
		if _, again := met[m.Digest]; again || m.Digest.IsZero() {
			continue
		}
		met[m.Digest] = struct{}{}
		child, rec, here := c.small(m.Digest, maxManifest)
		if here && rec.Class == index.ClassManifest && c.pullableBelow(child, depth+1, met) {
			return true
		}
	}
	return false
}
