package cache

import (
	"testing"

	"cistern/cache/index"
)

// TestProvenSinceTheLookUp: a file that is yet to be proven is looked up and not
// found, and proven before the look-up goes on to prove it: then it is here.
func TestProvenSinceTheLookUp(t *testing.T) {
	t.Parallel()
	o := newOrigin()
	c, manifest, _ := stocked(t, o)
	c.doubt(manifest)
	c.hot.remove(manifest)
	if _, ok := c.findStored(manifest); ok {
		t.Fatal("it is believed")
	}
	c.proveByFill(manifest) // somebody else
	if rec, ok := c.proveNow(manifest, maxManifest); !ok || rec.Class != index.ClassManifest {
		t.Errorf("it is not found: %+v", rec)
	}
	c.account()
}
