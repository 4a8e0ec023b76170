package cache

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"cistern/cache/index"
	"cistern/internal/durable/durabletest"
	"cistern/internal/oci"
)

// What upstreams, clients and disks may do to what is pinned, and to what is removed.

// TestPinNews: an index whose platforms are pulled one after the other, and a tag that goes
// to and fro, do not keep the cache from evicting for others.
func TestPinNews(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	var children []string
	for i := range 3000 {
		d := oci.FromBytes([]byte(fmt.Sprintf(`{"layers":[],"n":%d}`, i)))
		if i < 40 {
			d = s.o.tag(fmt.Sprint("c", i), fmt.Sprintf(`{"layers":[],"n":%d}`, i))
		}
		children = append(children, fmt.Sprintf(`{"digest":%q,"size":9}`, d))
	}
	index := s.o.tag("v1", `{"manifests":[`+strings.Join(children, ",")+`]}`)
	s.pull("v1", nil)
	s.pin(s.ref("v1"))
	s.churn()
	kept := 0
	for i := range 20 {
		for n := range 2 {
			s.pull(fmt.Sprint("c", 2*i+n), nil)
			s.setTag(s.ref("v1"), oci.Descriptor{Digest: oci.FromBytes([]byte{byte(n)})}, false)
		}
		d := s.o.put(noise(5*mib, uint64(123000+i)))
		_, _, _ = s.get(s.o.repo("a"), d)
		s.idle()
		kept += s.here(d)
	}
	// All are, on a quiet machine; on a busy one some come while it is found out anew what is pinned.
	if kept < 10 || s.here(index) != 1 {
		t.Errorf("%d of 20 new blobs were kept", kept)
	}
}

// TestPinNamesLittle: of a manifest with millions of entries that name nothing, or the
// same, or more than an image has, as much is remembered as it names, and no more.
func TestPinNamesLittle(t *testing.T) {
	t.Parallel()
	one := oci.FromBytes([]byte("one"))
	for text, want := range map[string]int{
		`{"layers":[` + strings.Repeat(`{},`, 1<<20) + `{}]}`:                                   0,
		`{"layers":[` + strings.Repeat(`{"digest":"`+one.String()+`"},`, 1000) + `7,"x",null]}`: 1,
		`{"config":{"digest":"` + one.String() + `","size":-5},"layers":5,"manifests":{}}`:      1,
		`[]`: 0, `"x"`: 0, ``: 0,
	} {
		if n := parseNamed([]byte(text)); len(n.Blobs) != want || len(n.Manifests) != 0 {
			t.Errorf("%.60s: %d blobs, %d manifests", text, len(n.Blobs), len(n.Manifests))
		}
	}
	var many []string
	for i := range 2 * maxParts {
		many = append(many, fmt.Sprintf(`{"digest":%q,"size":1e300}`, oci.FromBytes(fmt.Append(nil, i))))
	}
	if n := parseNamed([]byte(`{"layers":[` + strings.Join(many, ",") + `]}`)); len(n.Blobs) != maxParts || n.Blobs[0].Size != maxSaid {
		t.Errorf("%d blobs, the first of %d bytes", len(n.Blobs), n.Blobs[0].Size)
	}
}

// TestPinsOverTheCap: where the cap is lowered below what is pinned, that is said, and what
// is pinned stays.
func TestPinsOverTheCap(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	_, layers := s.image("v1", 20, 20)
	s.pin(s.ref("v1"))
	s.close()
	core, logs := observer.New(zap.ErrorLevel)
	s.rig = open(t, Options{Dir: s.Cache.o.Dir, Limit: 32 * mib, Log: zap.New(core)})
	for i := range 5 {
		_, _, _ = s.get(s.o.repo("a"), s.o.put(noise(5*mib, uint64(8000+i))))
		s.idle()
	}
	if n := len(logs.FilterMessageSnippet("more is pinned than there is room for").All()); n != 1 || s.here(layers...) != 2 {
		t.Errorf("said %d times, %d of 2 are here", n, s.here(layers...))
	}
}

// TestTooManyPins: there may be so many, and no more.
func TestTooManyPins(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	for i := range maxPins {
		s.pins.put(s.ref(fmt.Sprint("v", i)), root{since: time.Unix(int64(i), 0)})
	}
	if _, err := s.Pin(s.ref("one-more")); err == nil || !strings.Contains(err.Error(), "cistern unpin") {
		t.Error(err)
	}
	if _, err := s.Pin(s.ref("v0")); err != nil {
		t.Error(err)
	}
}

// TestPinTakesNoOthersPlace: one pinned tag that moves to a manifest of more layers than may be pinned takes nothing from other pins.
func TestPinTakesNoOthersPlace(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	m, kept := s.image("v1", 3, 2)
	s.pin(s.ref("v1"))
	s.image("evil", 1)
	s.pin(s.ref("evil"))
	var b strings.Builder
	b.WriteString(`{"layers":[`)
	for i := range 70000 {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"digest":%q,"size":0}`, oci.FromBytes([]byte(fmt.Sprint(i))))
	}
	b.WriteString(`]}`)
	s.o.tag("evil", b.String())
	s.pull("evil", nil)
	for i := range 2 {
		s.pins.happened() // as any pinned tag that moves does
		s.churn()
		if n := s.here(append(kept, m)...); n != 3 {
			t.Fatalf("round %d: %d of 3 parts of the pinned image are here; settled: %v", i, n, s.pins.settled())
		}
	}
}

// TestPinKeepsWhatIsOnDisk: where the disk does not take the new manifest, what the tag named before stays.
func TestPinKeepsWhatIsOnDisk(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	_, before := s.image("v1", 3)
	s.pin(s.ref("v1"))
	s.next++
	layer := s.o.put(noise(2*mib, s.next))
	text := s.o.image(layer)
	now := oci.FromBytes([]byte(text))
	s.close()
	s.rig = s.faulty(func(op durabletest.Op) *durabletest.Fault {
		if op.Kind == "create" && strings.HasSuffix(op.Name, now.Hex()) {
			return &durabletest.Fault{Err: syscall.ENOSPC}
		}
		return nil
	})
	s.o.tag("v1", text)
	s.pull("v1", nil)
	s.churn()
	if _, ok := s.findStored(now); ok {
		t.Fatal("it was to fail")
	}
	if s.here(before...) != 1 {
		t.Error("the new manifest is not on disk, and what the tag named before is gone")
	}
}

// TestPinDoubted: a pinned manifest that lies in fills/ with a record, as after a power cut, does not keep a cache that is too full from evicting.
func TestPinDoubted(t *testing.T) {
	t.Parallel()
	for _, doubted := range []bool{false, true} {
		s := newShelf(t)
		m, _ := s.image("v1", 3)
		s.pin(s.ref("v1"))
		for range 8 {
			s.image("v2", 5)
		}
		s.checkpoint()
		s.close()
		if doubted {
			if err := os.MkdirAll(filepath.Dir(s.path("fills", m)), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(s.path("blobs", m), s.path("fills", m)); err != nil {
				t.Fatal(err)
			}
		}
		s.rig = open(t, Options{Dir: s.Cache.o.Dir, Limit: 32 * mib})
		until(t, "it is below its cap", func() bool { u := s.store.Usage(); return u.Used <= u.Limit })
		s.close()
	}
}

// TestRemoveShadow: an image that names another's manifest as a layer does not hide that from a removal.
func TestRemoveShadow(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	good, layers := s.image("good", 3)
	s.o.tag("evil", fmt.Sprintf(`{"layers":[{"digest":%q,"size":1}]}`, good))
	s.pull("evil", nil)
	s.o.tag("old", s.o.image(append(layers, s.o.put(noise(mib, 4242)))...))
	s.pull("old", nil)
	r, err := s.Remove(s.ref("old"))
	if err != nil || s.here(layers...) != 1 {
		t.Errorf("a layer that tag good uses went with tag old: %+v, %v", r, err)
	}
}

// TestRemoveWithoutLabels: manifests whose label was lost are manifests for a removal.
func TestRemoveWithoutLabels(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	_, layers := s.image("good", 3)
	old := s.o.tag("old", s.o.image(append(layers, s.o.put(noise(mib, 4242)))...))
	s.pull("old", nil)
	s.checkpoint()
	s.close()
	if err := os.Remove(filepath.Join(s.Cache.o.Dir, indexName)); err != nil {
		t.Fatal(err)
	}
	s.rig = open(t, Options{Dir: s.Cache.o.Dir, Limit: s.Cache.o.Limit})
	s.rebuilt()
	if _, err := s.head(s.o, "good", 0); err != nil { // a poller
		t.Fatal(err)
	}
	s.pull("old", nil)
	rec, _ := s.findStored(old)
	r, err := s.Remove(s.ref("old"))
	if err != nil || s.here(layers...) != 1 {
		t.Errorf("a layer that tag good uses went with tag old: %+v, %v (old is of class %v)", r, err, rec.Class)
	}
}

// TestRemoveUnreadable: where another tag's manifest cannot be read at the moment nothing is removed.
func TestRemoveUnreadable(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	good, layers := s.image("good", 3)
	s.o.tag("old", s.o.image(append(layers, s.o.put(noise(mib, 4242)))...))
	s.pull("old", nil)
	s.close()
	s.rig = s.faulty(func(op durabletest.Op) *durabletest.Fault {
		if op.Kind == "open" && strings.HasSuffix(op.Name, good.Hex()) {
			return &durabletest.Fault{Err: syscall.EMFILE}
		}
		return nil
	})
	r, err := s.Remove(s.ref("old"))
	if s.here(layers...) != 1 {
		t.Errorf("a layer that tag good uses went with tag old: %+v, %v", r, err)
	}
}

// TestRemoveCountsPinned: of an upstream the pinned tags are counted that stay.
func TestRemoveCountsPinned(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	_, layers := s.image("v1", 3)
	s.pin(s.ref("v1"))
	s.o.tag("v2", s.o.image(append(layers, s.o.put(noise(mib, 4242)))...))
	s.pull("v2", nil)
	r, err := s.Remove(oci.Reference{Repository: oci.Repository{Upstream: "docker.io"}})
	if err != nil || r.Pinned != 1 || r.Kept != 0 || r.Tags != 1 || r.Blobs != 1 {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestRemoveWhileTagMoves: a pinned tag that moves while something is removed does not stop it.
func TestRemoveWhileTagMoves(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	s.image("v1", 3)
	s.pin(s.ref("v1"))
	m2, layers := s.image("v2", 4)
	s.checkpoint()
	var armed atomic.Bool
	c := s
	dir, limit := s.Cache.o.Dir, s.Cache.o.Limit
	s.close()
	s.rig = open(t, Options{Dir: dir, Limit: limit, index: index.Options{Hook: func(op string, f func() error) error {
		if op == "tags" && armed.CompareAndSwap(true, false) { // a client's HEAD of v1, which has moved
			err := f()
			c.Cache.setTag(c.ref("v1"), oci.Descriptor{Digest: oci.FromBytes([]byte("new"))}, false)
			return err
		}
		return f()
	}}})
	s.Pins()
	armed.Store(true)
	r, err := s.Remove(s.ref("v2"))
	if err != nil || r.Blobs != 2 || s.here(append(layers, m2)...) != 0 {
		r2, err2 := s.Remove(s.ref("v2"))
		t.Errorf("%+v, %v; %d of 0 here; again: %+v, %v, %d of 0", r, err, s.here(append(layers, m2)...), r2, err2, s.here(append(layers, m2)...))
	}
}

// TestPinSweep: the sweep of old fills spares what is pinned, from the first on.
func TestPinSweep(t *testing.T) {
	t.Parallel()
	swept := 0
	for range 2 {
		s := newShelf(t)
		m, layers := s.image("v1", 3)
		s.pin(s.ref("v1"))
		s.checkpoint()
		s.close()
		// a power cut undid the rename and lost the index; the machine was down for four days
		d := layers[0]
		if err := os.MkdirAll(filepath.Dir(s.path("fills", d)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(s.path("blobs", d), s.path("fills", d)); err != nil {
			t.Fatal(err)
		}
		old := time.Now().Add(-96 * time.Hour)
		if err := os.Chtimes(s.path("fills", d), old, old); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(s.Cache.o.Dir, indexName)); err != nil {
			t.Fatal(err)
		}
		s.rig = open(t, Options{Dir: s.Cache.o.Dir, Limit: s.Cache.o.Limit, FillsKept: 72 * time.Hour})
		s.rebuilt()
		s.Pins()
		s.sweep(time.Now())
		if _, ok := s.findStored(m); !ok {
			t.Error("the manifest is gone")
		}
		if !s.rig.lies(d) {
			swept++
		}
	}
	if swept > 0 {
		t.Errorf("a pinned blob was swept in %d of 2 starts", swept)
	}
}

// TestRemoveAlias: another name of what is pinned goes, and its blobs stay.
func TestRemoveAlias(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	m, layers := s.image("v1", 3)
	s.o.tag("latest", s.o.image(layers...))
	s.pull("latest", nil)
	s.pin(s.ref("v1"))
	r, err := s.Remove(s.ref("latest"))
	if err != nil || r.Tags != 1 {
		t.Errorf("the tag latest, which is not pinned, stays: %+v, %v; unpin: %v (%s)", r, err, s.Unpin(s.ref("latest")), m)
	}
}

// TestPinDamagedManifest: what a pinned manifest names is known also where its file is damaged, after a restart.
func TestPinDamagedManifest(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	m, layers := s.image("v1", 3)
	s.pin(s.ref("v1"))
	s.checkpoint()
	s.close()
	if err := os.WriteFile(s.path("blobs", m), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.rig = open(t, Options{Dir: s.Cache.o.Dir, Limit: s.Cache.o.Limit})
	s.churn()
	if s.here(layers...) != 1 {
		t.Error("a layer of a pinned image is gone, since its manifest was damaged")
	}
}

// TestPinNesting: an image is kept however deep it lies in indexes.
func TestPinNesting(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	_, layers := s.image("v0", 3)
	child := s.o.tag("c", s.o.image(layers...))
	s.pull("c", nil)
	last := child
	for i := range 5 {
		last = s.o.tag(fmt.Sprint("i", i), fmt.Sprintf(`{"manifests":[{"digest":%q,"size":9}],"annotations":{"n":"%d"}}`, last, i))
		s.pull(fmt.Sprint("i", i), nil)
	}
	s.pin(s.ref("i4"))
	s.pin(s.ref("i0"))
	bad := 0
	for range 20 {
		s.pins.happened()
		s.repin()
		if !s.pins.holding(layers[0]) {
			bad++
		}
	}
	if bad > 0 {
		t.Errorf("not held after %d of 20 walks, though i0 is pinned", bad)
	}
}

// TestPinRollback: a tag that goes back to a manifest that is here, and whose layers are not, gives up nothing.
func TestPinRollback(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	old, oldLayers := s.image("v1", 3)
	s.churn()
	if s.here(old) != 1 || s.here(oldLayers...) != 0 {
		t.Fatal("the manifest was to stay, by its floor, and the layer to go")
	}
	_, layers := s.image("v1", 2)
	s.pin(s.ref("v1"))
	s.o.mu.Lock()
	s.o.named["v1"] = s.o.named[old.String()]
	s.o.mu.Unlock()
	if _, err := s.head(s.o, "v1", 0); err != nil {
		t.Fatal(err)
	}
	s.churn()
	if s.here(layers...) != 1 {
		t.Errorf("a HEAD gave up what was pinned and whole; of the other image %d of 1 layers are here", s.here(oldLayers...))
	}
}

// TestPinOddManifests: layers are kept that are called foreign and are here, that stand beside
// a digest that nobody knows, and that schema 1 names.
func TestPinOddManifests(t *testing.T) {
	t.Parallel()
	for name, form := range map[string]string{
		"foreign": `{"layers":[{"mediaType":"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip","digest":%q,"size":3145728}]}`,
		"unknown": `{"layers":[{"digest":%q,"size":3145728},{"digest":"sha384:` + strings.Repeat("a", 96) + `","size":1}]}`,
		"schema1": `{"schemaVersion":1,"fsLayers":[{"blobSum":%q}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShelf(t)
			d := s.o.put(noise(3*mib, 4243))
			s.o.tag("v1", fmt.Sprintf(form, d))
			s.pull("v1", []oci.Digest{d})
			p := s.pin(s.ref("v1"))
			s.churn()
			if s.here(d) != 1 {
				t.Errorf("a layer of a pinned image is gone: %+v", p)
			}
		})
	}
}
