package cache

import (
	"errors"
	"testing"

	"cistern/internal/oci"
)

// doubt brings a recorded blob into the state of one that a start has found in
// fills/, and that nobody has proven yet.
func (r *rig) doubt(d oci.Digest) {
	r.t.Helper()
	rec, ok := r.findStored(d)
	if !ok {
		r.t.Fatal("it is not here")
	}
	if err := r.store.Demote(d); err != nil {
		r.t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.doubted[d] = rec
}

// TestPrivateBeforeItsProof: whoever asks first for a file of which the index
// has a record has it proven by its digest. That is no word on who may have it.
func TestPrivateBeforeItsProof(t *testing.T) {
	t.Parallel()
	o := newOrigin()
	o.private = true
	c, _, blobs := stocked(t, o)
	d := blobs[0]
	c.grants.Purge()
	c.doubt(d)
	stranger := newOrigin()
	for range 2 {
		if got, _, err := c.get(stranger.repo("stranger"), d); !errors.Is(err, oci.ErrNotFound) {
			t.Errorf("a stranger got %d bytes, %v", len(got), err)
		}
		c.idle()
	}
	if _, ok := c.findStored(d); !ok {
		t.Error("it was not proven")
	}
	c.want(o.repo("a"), d, OutcomeHit)
	if o.count("info") != 0 {
		t.Error("the holder had to prove it")
	}
	c.account()
}
