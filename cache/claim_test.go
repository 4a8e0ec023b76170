package cache

import (
	"context"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"cistern/cache/index"
	"cistern/internal/durable/durabletest"
	"cistern/internal/oci"
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

// TestManifestOnAClaim: a manifest is fetched while its file is being proven, in
// place or by a fill, or fetched by somebody who takes it for a blob. It is kept
// as a manifest, whoever has it then.
func TestManifestOnAClaim(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		size int
		kind string // of the operation that its proof, or what comes before that, stands at
	}{"in place": {100, "open"}, "by a fill": {maxCollect, "open"}, "not yet": {100, "readdir"}} {
		size, kind := c.size, c.kind
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o, c := newOrigin(), open(t, Options{})
			d := o.tag("v1", o.image()+strings.Repeat(" ", size))
			if _, err := c.tagged(o, "v1", 0); err != nil {
				t.Fatal(err)
			}
			c.close()
			if err := os.Remove(c.o.indexPath()); err != nil {
				t.Fatal(err)
			}
			var opens atomic.Int64
			proving, proven := make(chan struct{}), make(chan struct{})
			next := open(t, faultyDir(t, c.o.Dir, func(op durabletest.Op) *durabletest.Fault {
				at := map[string]string{"open": d.Hex(), "readdir": "blobs/sha256/" + d.Hex()[:2]}[kind]
				if op.Kind == kind && strings.HasSuffix(op.Name, at) && opens.Add(1) == 1 {
					close(proving)
					return &durabletest.Fault{Stall: proven}
				}
				return nil
			}))
			<-proving
			next.keptAsManifest(o, d, func() { close(proven) })
			next.rebuilt()
		})
	}
	t.Run("as a blob", func(t *testing.T) {
		t.Parallel()
		o, c := newOrigin(), open(t, Options{})
		d := o.tag("v1", o.image())
		data, rest := o.named["v1"].Bytes, make(chan struct{})
		o.blob = func(int, oci.Digest, int64, int64) (*Body, error) {
			return body(int64(len(data)), 0, step{wait: rest, data: data})
		}
		got := make(chan error)
		go func() {
			_, _, err := c.get(o.repo("a"), d)
			got <- err
		}()
		until(t, "a fill of it is under way", func() bool { return o.count("blob") == 1 })
		c.keptAsManifest(o, d, func() {
			close(rest)
			if err := <-got; err != nil {
				t.Error(err)
			}
		})
	})
}

// keptAsManifest fetches a manifest whose file is somebody else's, and expects
// it to be here when that one is done with it.
func (r *rig) keptAsManifest(o *origin, d oci.Digest, done func()) {
	r.t.Helper()
	m, err := r.tagged(o, "v1", 1<<40)
	if done(); err != nil || m.Outcome != OutcomeMiss {
		r.t.Fatalf("%+v, %v", m, err)
	}
	until(r.t, "it is kept as a manifest", func() bool {
		rec, ok := r.findStored(d)
		return ok && rec.Class == index.ClassManifest
	})
	r.idle()
	o.refuse = func(context.Context, string, string) error { return oci.ErrUnavailable }
	if m, err := r.tagged(o, "v1", 1<<40); err != nil || m.Outcome != OutcomeHit || m.Digest != d {
		r.t.Errorf("the manifest is not here: %+v, %v", m, err)
	}
	r.account()
}
