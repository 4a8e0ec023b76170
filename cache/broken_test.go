package cache

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cistern/cache/index"
	"cistern/internal/durable/durabletest"
	"cistern/internal/oci"
)

func recordsOf(recs ...index.Record) []index.Record { return recs }

// stocked is a cache that holds a tag, its manifest, a small blob and two large
// ones, all recorded.
func stocked(t *testing.T, o *origin) (c *rig, manifest oci.Digest, blobs []oci.Digest) {
	t.Helper()
	c = open(t, Options{})
	blobs = []oci.Digest{o.put(noise(3*mib, 30)), o.put(noise(40<<10, 31)), o.put(noise(2*mib, 32))}
	manifest = o.tag("v1", o.image(blobs...))
	if _, err := c.tagged(o, "v1", 0); err != nil {
		t.Fatal(err)
	}
	for _, d := range blobs {
		c.want(o.repo("a"), d, OutcomeMiss)
	}
	c.idle()
	c.checkpoint()
	return c, manifest, blobs
}

// rebuilt waits until each file has a record.
func (r *rig) rebuilt() {
	r.t.Helper()
	until(r.t, "all files are recorded", func() bool { return !r.rebuild.on.Load() })
}

// TestIndexBreaksInUse: hits go on from what lies on disk, upstream or no
// upstream, new blobs are kept, and there is a new index without a restart.
// FAULTS row 36.
func TestIndexBreaksInUse(t *testing.T) {
	t.Parallel()
	o := newOrigin()
	c, manifest, blobs := stocked(t, o)
	if err := os.Truncate(c.o.indexPath(), 0); err != nil {
		t.Fatal(err)
	}
	o.refuse = func(_ context.Context, kind, _ string) error {
		if kind == "blob" || kind == "info" {
			return fmt.Errorf("no %s: %w", kind, oci.ErrUnavailable)
		}
		return nil
	}
	for range 2 {
		for _, d := range blobs {
			c.want(o.repo("a"), d, OutcomeHit)
		}
	}
	c.checkpoint()
	if c.idx.Load().Broken() != nil {
		t.Fatal("the index was not replaced")
	}
	o.refuse = nil
	extra := o.put(noise(mib, 33))
	c.want(o.repo("a"), extra, OutcomeMiss)
	c.idle()
	c.rebuilt()
	for _, d := range append(blobs, extra) {
		if _, ok, err := c.idx.Load().Get(d); err != nil || !ok {
			c.checkpoint()
			if _, ok, err := c.idx.Load().Get(d); err != nil || !ok {
				t.Errorf("%s has no record: %v", d, err)
			}
		}
		c.want(o.repo("a"), d, OutcomeHit)
	}
	if _, err := c.Manifest(t.Context(), o.repo("a"), oci.Reference{Repository: o.repo("a").Repository, Digest: manifest}); err != nil {
		t.Error(err)
	}
	if s := c.Stats(); s.Degraded != "" {
		t.Error(s.Degraded)
	}
	c.idle()
	c.account()
}

// spoil zeroes pages of an index: both meta pages, without which nobody knows
// where anything is, or the page of free pages, which nobody but bbolt misses.
func spoil(t *testing.T, path string, metas bool) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	size := uint64(os.Getpagesize())
	for meta := range uint64(2) {
		page := meta
		if !metas {
			page = binary.NativeEndian.Uint64(data[meta*size+48:])
		}
		clear(data[page*size : (page+1)*size])
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestSalvage: what can be read of a broken index goes on. Tags are found even
// where nobody knows any more where they were; what blobs are, and who may have
// them, where the old index can still be looked things up in. FAULTS row 36.
func TestSalvage(t *testing.T) {
	t.Parallel()
	for _, metas := range []bool{true, false} {
		for _, private := range []bool{false, true} {
			t.Run(fmt.Sprintf("metas=%v private=%v", metas, private), func(t *testing.T) {
				t.Parallel()
				o := newOrigin()
				o.private = private
				c, manifest, blobs := stocked(t, o)
				c.close()
				spoil(t, c.o.indexPath(), metas)
				next := open(t, Options{Dir: c.o.Dir})
				if tag, ok := next.tag(oci.Reference{Repository: o.repo("a").Repository, Tag: "v1"}); !ok || tag.Target.Digest != manifest {
					t.Errorf("the tag: %+v, %v", tag, ok)
				}
				if !metas {
					o.refuse = func(context.Context, string, string) error { return oci.ErrUnavailable }
					m, err := next.tagged(o, "v1", 1<<40)
					if err != nil || m.Digest != manifest || m.Outcome != OutcomeHit {
						t.Errorf("the tag: %+v, %v", m, err)
					}
				}
				for range 2 {
					for _, d := range blobs {
						next.want(o.repo("a"), d, OutcomeHit)
					}
					next.idle()
					next.rebuilt()
				}
				stranger := newOrigin()
				for _, d := range blobs {
					if _, _, err := next.get(stranger.repo("stranger"), d); private != errors.Is(err, oci.ErrNotFound) {
						t.Errorf("a stranger: %v", err)
					}
				}
				next.idle()
				next.account()
			})
		}
	}
}

// TestIndexCannotBeReplaced: a new index fails in the making, and the one after
// it does not. What the old one knew is not lost by that. FAULTS row 33.
func TestIndexCannotBeReplaced(t *testing.T) {
	t.Parallel()
	var sick atomic.Bool
	co := Options{}
	co.index.Hook = func(op string, call func() error) error {
		if sick.Load() && (op == "apply" || op == "create") {
			panic("the disk fails")
		}
		return call()
	}
	o, c := newOrigin(), open(t, co)
	manifest := o.tag("v1", o.image())
	if _, err := c.tagged(o, "v1", time.Hour); err != nil {
		t.Fatal(err)
	}
	c.checkpoint()
	sick.Store(true)
	c.want(o.repo("a"), o.put(noise(mib, 35)), OutcomeMiss)
	c.idle()
	for range 3 {
		c.checkpoint()
		c.syncing.Lock()
		c.renewed = time.Time{}
		c.syncing.Unlock()
	}
	if c.idx.Load().Broken() == nil || c.Stats().Degraded == "" {
		t.Fatal("the index is not broken")
	}
	sick.Store(false)
	c.checkpoint()
	c.rebuilt()
	c.checkpoint()
	c.close()
	next := open(t, Options{Dir: c.o.Dir})
	if tag, ok := next.tag(oci.Reference{Repository: o.repo("a").Repository, Tag: "v1"}); !ok || tag.Target.Digest != manifest {
		t.Errorf("the tag: %+v, %v", tag, ok)
	}
}

// TestCopiedDirectory: files that a copied index knows nothing of are counted
// and recorded, and what was half fetched in the original is not believed.
// FAULTS row 50.
func TestCopiedDirectory(t *testing.T) {
	t.Parallel()
	o := newOrigin()
	c, _, blobs := stocked(t, o)
	dir := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(dir, os.DirFS(c.o.Dir)); err != nil {
		t.Fatal(err)
	}
	late := []oci.Digest{o.put(noise(2*mib+5, 34)), o.put(noise(20<<10, 35))} // land in the copy after the index was copied
	for _, d := range late {
		stray := filepath.Join(dir, "blobs/sha256", d.Hex()[:2], d.Hex())
		if err := errors.Join(os.MkdirAll(filepath.Dir(stray), 0o700), os.WriteFile(stray, o.blobs[d], 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	onto := faultyDir(t, dir, nil)
	copied := open(t, onto)
	copied.rebuilt()
	for _, d := range late {
		if _, ok := copied.findStored(d); !ok {
			t.Error("a file without a record was not taken up")
		}
	}
	if !slices.ContainsFunc(onto.fs.(*durabletest.Faulty).Trace(), func(op durabletest.Op) bool { return op.Kind == "syncall" }) {
		t.Error("a copy need not be on stable storage, and nobody has put it there")
	}
	for _, d := range blobs {
		copied.want(o.repo("a"), d, OutcomeHit)
	}
	copied.account()
	copied.close()
	again := open(t, Options{Dir: dir})
	if again.store.Moved() || again.rebuild.on.Load() {
		t.Error("it is taken for a copy for ever")
	}
}

// TestHitBreaks: a blob whose file ends early is sent whole all the same, to all
// who read it, and fetched from where it broke. FAULTS rows 34, 35.
func TestHitBreaks(t *testing.T) {
	t.Parallel()
	for _, at := range []int64{0, 1, 100 << 10, mib, 3*mib - 1} {
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			t.Parallel()
			o := newOrigin()
			c, _, blobs := stocked(t, o)
			d := blobs[0]
			var open []*Content
			for range 5 {
				content, err := c.Blob(t.Context(), o.repo("a"), d)
				if err != nil || content.Outcome != OutcomeHit {
					t.Fatal(content, err)
				}
				open = append(open, content)
			}
			if err := os.Truncate(c.path("blobs", d), at); err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			for i, content := range open {
				wg.Go(func() {
					defer content.Close()
					var data []byte
					var err error
					if i%2 == 0 {
						data, err = readAll(content)
					} else {
						w := &memory{}
						_, err = content.Reader.SendTo(w, 3*mib)
						data = w.data
					}
					if err != nil || oci.FromBytes(data) != d {
						t.Errorf("%d bytes, %v", len(data), err)
					}
				})
			}
			wg.Wait()
			c.idle()
			c.want(o.repo("a"), d, OutcomeHit)
			if at > maxCollect && o.ranges[len(o.ranges)-1] != fmt.Sprintf("%d-%d", at, 3*mib) {
				t.Errorf("asked upstream for %v", o.ranges)
			}
			if n := o.count("blob"); n != len(blobs)+1 {
				t.Errorf("%d requests upstream", n)
			}
			if s := c.Stats(); s.Mended == 0 || s.Damaged != 1 {
				t.Errorf("%+v", s)
			}
			c.account()
		})
	}
}

// memory is an io.Writer that takes a file as a socket does.
type memory struct{ data []byte }

func (m *memory) Write(p []byte) (int, error) {
	m.data = append(m.data, p...)
	return len(p), nil
}

// cutHit opens a hit of three MiB, whose file is then cut to one.
func cutHit(t *testing.T, o *origin) (*rig, oci.Digest, *Content) {
	t.Helper()
	c, _, blobs := stocked(t, o)
	content, err := c.Blob(t.Context(), o.repo("a"), blobs[0])
	if err == nil {
		err = os.Truncate(c.path("blobs", blobs[0]), mib)
	}
	if err != nil {
		t.Fatal(err)
	}
	return c, blobs[0], content
}

// TestHitBreaksWithoutUpstream: then it is cut, and what is left of it goes on
// when upstream is back.
func TestHitBreaksWithoutUpstream(t *testing.T) {
	t.Parallel()
	o := newOrigin()
	c, d, content := cutHit(t, o)
	o.refuse = func(context.Context, string, string) error { return oci.ErrNotFound }
	data, err := readAll(content)
	content.Close()
	if err == nil || len(data) > mib {
		t.Errorf("%d bytes, %v", len(data), err)
	}
	c.idle()
	c.negative.Purge()
	o.refuse = nil
	c.want(o.repo("a"), d, OutcomeMiss)
	if last := o.ranges[len(o.ranges)-1]; last != fmt.Sprintf("%d-%d", mib, 3*mib) {
		t.Errorf("asked for %s", last)
	}
	c.idle()
	c.account()
}

// TestHitBreaksAndUpstreamLies: the end of what was cut is never given out.
func TestHitBreaksAndUpstreamLies(t *testing.T) {
	t.Parallel()
	o := newOrigin()
	c, _, content := cutHit(t, o)
	defer content.Close()
	o.blob = func(_ int, _ oci.Digest, off, _ int64) (*Body, error) {
		return body(3*mib, off, step{data: make([]byte, 3*mib-off)})
	}
	if data, err := readAll(content); err == nil || len(data) == 3*mib {
		t.Errorf("%d bytes, %v", len(data), err)
	}
	c.idle()
}

// TestHitBreaksOnAFullDisk: two faults at once. The rest comes by a stream of the
// reader's own, and is proven with what was sent.
func TestHitBreaksOnAFullDisk(t *testing.T) {
	t.Parallel()
	o := newOrigin()
	c, d, content := cutHit(t, o)
	defer content.Close()
	c.mu.Lock()
	c.degraded = "a disk that takes nothing"
	c.mu.Unlock()
	if data, err := readAll(content); err != nil || oci.FromBytes(data) != d {
		t.Errorf("%d bytes, %v", len(data), err)
	}
	c.idle()
}

// TestStaleRecord: a file in fills/ of the size that an old record names is not
// that blob before its digest says so: a process may have ended after the blob
// was evicted, and fetched again, and before its record was deleted.
func TestStaleRecord(t *testing.T) {
	t.Parallel()
	for _, right := range []bool{true, false} {
		t.Run(fmt.Sprintf("right=%v", right), func(t *testing.T) {
			t.Parallel()
			o := newOrigin()
			c, _, blobs := stocked(t, o)
			c.close()
			d := blobs[0]
			data := o.blobs[d]
			if !right {
				data = make([]byte, len(data)) // as a power cut leaves it
			}
			fill := c.path("fills", d)
			if err := errors.Join(os.Remove(c.path("blobs", d)), os.MkdirAll(filepath.Dir(fill), 0o700), os.WriteFile(fill, data, 0o600)); err != nil {
				t.Fatal(err)
			}
			next := open(t, Options{Dir: c.o.Dir})
			got, outcome, err := next.get(o.repo("a"), d)
			if err == nil && oci.FromBytes(got) != d || right && (err != nil || outcome != OutcomeHit) || err != nil && len(got) == len(data) {
				t.Errorf("%d bytes, %v, %v", len(got), outcome, err)
			}
			next.idle()
			if got, _, err := next.get(o.repo("a"), d); err != nil || oci.FromBytes(got) != d {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			next.idle()
			next.account()
		})
	}
}

// TestDoubtedWithoutUpstream: what a process has recorded and did not come to rename is there at once after the next start,
// a tag and its manifest too, however much is to be hashed.
func TestDoubtedWithoutUpstream(t *testing.T) {
	t.Parallel()
	for range 5 {
		o := newOrigin()
		c, manifest, blobs := stocked(t, o)
		c.close()
		for _, d := range append(blobs, manifest) {
			fill := c.path("fills", d)
			if err := errors.Join(os.MkdirAll(filepath.Dir(fill), 0o700), os.Rename(c.path("blobs", d), fill)); err != nil {
				t.Fatal(err)
			}
		}
		next := open(t, Options{Dir: c.o.Dir})
		next.hasWithoutUpstream(o, manifest, blobs)
		next.idle()
		next.account()
	}
}

// hasWithoutUpstream: what was stocked is all hits, with upstream down.
func (r *rig) hasWithoutUpstream(o *origin, manifest oci.Digest, blobs []oci.Digest) {
	r.t.Helper()
	o.refuse = func(context.Context, string, string) error { return oci.ErrUnavailable }
	if m, err := r.tagged(o, "v1", 1<<40); err != nil || m.Digest != manifest || m.Outcome != OutcomeHit {
		r.t.Errorf("the tag: %+v, %v", m, err)
	}
	for _, d := range blobs {
		r.want(o.repo("a"), d, OutcomeHit)
	}
}

// TestEvictedAndBack: a blob that is evicted and fetched again before a
// checkpoint is one blob, with one record, and private grants of its past are
// gone.
func TestEvictedAndBack(t *testing.T) {
	t.Parallel()
	o := newOrigin()
	o.private = true
	c, _, blobs := stocked(t, o)
	c.syncing.Lock() // no checkpoints
	d := blobs[0]
	for range 3 {
		rec, ok := c.findStored(d)
		if !ok || !c.expel(recordsOf(rec)) {
			t.Fatal("it is not evicted")
		}
		if _, ok := c.findStored(d); ok || c.granted(o.repo("a").Repository, d) {
			t.Fatal("it is here, or granted")
		}
		c.want(o.repo("a"), d, OutcomeMiss)
		c.idle()
	}
	if used, all := c.held(), c.idx.Load().Totals().Allocated; used[0] != all[0]-3*mib {
		t.Errorf("held %v of %v", used, all)
	}
	c.syncing.Unlock()
	c.checkpoint()
	if !c.granted(o.repo("a").Repository, d) {
		t.Error("who fetched it is not granted it")
	}
	if n, _ := c.idx.Load().Totals().Sum(); n != 4 {
		t.Errorf("%d records", n)
	}
	c.want(o.repo("a"), d, OutcomeHit)
	c.account()
}

// TestEvictedInACheckpoint: what goes while its record is being written does not
// come back with it, whatever has taken its place.
func TestEvictedInACheckpoint(t *testing.T) {
	t.Parallel()
	o, during := newOrigin(), func() {}
	var mu sync.Mutex
	co := Options{}
	co.index.Hook = func(op string, call func() error) error {
		err := call()
		if op == "apply" {
			mu.Lock()
			run := during
			during = func() {}
			mu.Unlock()
			run()
		}
		return err
	}
	c := open(t, co)
	d := o.put(noise(2*mib, 40))
	c.want(o.repo("a"), d, OutcomeMiss)
	c.idle()
	half := make(chan struct{})
	mu.Lock()
	during = func() {
		rec, _ := c.findStored(d)
		if !c.expel(recordsOf(rec)) {
			t.Error("not evicted")
		}
		data := o.blobs[d]
		o.blob = func(int, oci.Digest, int64, int64) (*Body, error) {
			return body(2*mib, 0, step{data: data[:mib]}, step{wait: half}, step{data: data[mib:]})
		}
		content, err := c.Blob(t.Context(), o.repo("a"), d)
		if err != nil {
			t.Error(err)
			return
		}
		if _, err := io.CopyN(io.Discard, content.Reader, 1000); err != nil {
			t.Error(err)
		}
		content.Close()
	}
	mu.Unlock()
	c.checkpoint()
	if _, err := os.Lstat(c.path("blobs", d)); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("a half fetched file was put in the place of a blob: %v", err)
	}
	if _, ok := c.findStored(d); ok {
		t.Error("it is found")
	}
	if held := c.held(); held != ([index.Classes]int64{}) {
		t.Errorf("of what the index counts %v are held to be here", held)
	}
	close(half)
	c.idle()
	c.want(o.repo("a"), d, OutcomeHit)
	c.checkpoint()
	c.want(o.repo("a"), d, OutcomeHit)
	c.account()
}
