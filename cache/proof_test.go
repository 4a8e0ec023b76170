package cache

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"cistern/internal/durable/durabletest"
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

// TestRecordAndLeftover: what a fill left beside the record of an earlier blob of
// its digest, whose file is gone, or there still because a power cut has undone
// its removal.
func TestRecordAndLeftover(t *testing.T) {
	t.Parallel()
	const whole = 3 * mib
	for _, s := range []struct {
		name      string
		lies      bool // in blobs/, ...
		damaged   bool // ... and is not the blob
		left      int  // bytes that are in fills/
		otherBoot bool
		want      Outcome
		asks      string // of upstream
	}{
		{"whole, beside a damaged one", true, true, whole, true, OutcomeHit, ""},
		{"whole, beside a good one", true, false, whole, false, OutcomeHit, ""},
		{"a part, beside a good one", true, false, mib, true, OutcomeHit, ""},
		{"a part, same boot", false, false, mib, false, OutcomeMiss, "1048576-3145728"},
		{"a part, other boot", false, false, mib, true, OutcomeMiss, "0--1"},
	} {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			o := newOrigin()
			c, _, blobs := stocked(t, o)
			c.close()
			d := blobs[0]
			fill, lies := c.path("fills", d), c.path("blobs", d)
			err := errors.Join(os.MkdirAll(filepath.Dir(fill), 0o700), os.WriteFile(fill, o.blobs[d][:s.left], 0o600))
			switch {
			case !s.lies:
				err = errors.Join(err, os.Remove(lies))
			case s.damaged:
				err = errors.Join(err, os.WriteFile(lies, make([]byte, whole), 0o600))
			}
			if boot := filepath.Join(c.o.Dir, "boot"); s.otherBoot {
				text, rerr := os.ReadFile(boot)
				_, id, _ := strings.Cut(string(text), " ")
				err = errors.Join(err, rerr, os.WriteFile(boot, []byte("another "+id), 0o600))
			}
			if err != nil {
				t.Fatal(err)
			}
			o.ranges = nil
			next := open(t, Options{Dir: c.o.Dir})
			next.want(o.repo("a"), d, s.want)
			next.idle()
			if asked := strings.Join(o.ranges, " "); asked != s.asks {
				t.Errorf("asked for %q, not %q", asked, s.asks)
			}
			next.want(o.repo("a"), d, OutcomeHit)
			next.account()
			next.close()
			again := open(t, Options{Dir: c.o.Dir})
			again.want(o.repo("a"), d, OutcomeHit)
			again.account()
		})
	}
}

// TestStaleBeforeTheProof: while upstream is down, an image is served whose
// layers are here and yet to be proven: whoever asks for them has them proven.
func TestStaleBeforeTheProof(t *testing.T) {
	t.Parallel()
	o := newOrigin()
	c, manifest, blobs := stocked(t, o)
	stale := func(c *rig) {
		t.Helper()
		if m, err := c.tagged(o, "v1", 0); err != nil || m.Digest != manifest || m.Outcome != OutcomeStale {
			t.Errorf("%+v, %v", m, err)
		}
	}
	o.sick, o.refuse = true, func(context.Context, string, string) error { return oci.ErrUnavailable }
	for _, d := range blobs {
		c.doubt(d)
	}
	stale(c)
	for _, d := range blobs {
		c.want(o.repo("a"), d, OutcomeHit)
	}
	c.idle()
	c.checkpoint()
	c.close()
	spoil(t, c.o.indexPath(), false)
	for _, tree := range []string{"blobs/", "fills/"} { // where a small one is proven, and a large one
		proven, met := make(chan struct{}), make(chan struct{})
		var once sync.Once
		next := open(t, faultyDir(t, c.o.Dir, func(op durabletest.Op) *durabletest.Fault {
			if op.Kind == "open" && strings.HasPrefix(op.Name, tree) && !strings.HasSuffix(op.Name, manifest.Hex()) {
				once.Do(func() { close(met) })
				return &durabletest.Fault{Stall: proven}
			}
			return nil
		}))
		<-met
		stale(next)
		close(proven)
		next.rebuilt()
		next.close()
		spoil(t, c.o.indexPath(), false)
	}
}
