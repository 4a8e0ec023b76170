package cache

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"cistern/cache/index"
	"cistern/internal/durable"
	"cistern/internal/durable/durabletest"
	"cistern/internal/oci"
)

// others are blobs that fill a shelf and more; made once, as it takes its time.
var others = sync.OnceValue(func() map[oci.Digest][]byte {
	all := map[oci.Digest][]byte{}
	for i := range 8 {
		data := noise(10*mib, uint64(50000+i))
		all[oci.FromBytes(data)] = data
	}
	return all
})

// churn pushes everything out that may go.
func (s *shelf) churn() {
	s.t.Helper()
	for d, data := range others() {
		s.o.mu.Lock()
		s.o.blobs[d] = data
		s.o.mu.Unlock()
		if _, _, err := s.get(s.o.repo("a"), d); err != nil {
			s.t.Fatal(err)
		}
		s.idle()
	}
}

// faulty opens the directory again, with faults.
func (s *shelf) faulty(choose func(durabletest.Op) *durabletest.Fault) *rig {
	s.t.Helper()
	dir, err := durable.OpenDir(s.Cache.o.Dir)
	if err != nil {
		s.t.Fatal(err)
	}
	return open(s.t, Options{Dir: s.Cache.o.Dir, Limit: s.Cache.o.Limit, indexDir: s.Cache.o.Dir, fs: &durabletest.Faulty{FS: dir, Choose: choose}})
}

func (s *shelf) pinsOf() []Pin {
	s.t.Helper()
	l, err := s.Pins()
	if err != nil {
		s.t.Fatal(err)
	}
	return l
}

func (s *shelf) pin(ref oci.Reference) Pin {
	s.t.Helper()
	p, err := s.Pin(ref)
	if err != nil {
		s.t.Fatal(err)
	}
	return p
}

// TestPins: what is pinned stays whatever else comes, and over a restart; what is not
// goes, and so does what is unpinned.
func TestPins(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	m, kept := s.image("v1", 3, 2)
	_, other := s.image("v2", 4)
	if p := s.pin(s.ref("v1")); p.Bytes < 5*mib || p.Missing != 0 || p.Digest != m.String() || p.Since.IsZero() {
		t.Errorf("%+v", p)
	}
	s.pin(s.ref("v1"))
	if p := s.pin(s.ref("later")); p.Digest != "" {
		t.Errorf("%+v", p)
	}
	s.churn()
	_, later := s.image("later", 2)
	s.churn()
	if s.here(append(kept, m)...) != 3 || s.here(later...) != 1 || s.here(other...) != 0 {
		t.Errorf("%d of 3, %d of 1, %d of 0", s.here(append(kept, m)...), s.here(later...), s.here(other...))
	}
	s.checkpoint() // what is not on record is no candidate
	next, err := s.EvictNext(1 << 30)
	if err != nil || len(next) == 0 {
		t.Errorf("%+v, %v", next, err)
	}
	for _, n := range next {
		if n.Digest == kept[0].String() {
			t.Error("what is pinned would be evicted")
		}
	}
	if i := s.Image(s.ref("v1"), &Policy{}); len(i.Pins) != 1 || i.Pins[0] != "docker.io/a:v1" {
		t.Errorf("%q", i.Pins)
	}
	s.close()
	s.rig = open(t, Options{Dir: s.Cache.o.Dir, Limit: s.Cache.o.Limit})
	s.churn()
	if l := s.pinsOf(); len(l) != 2 || l[0].Image != "docker.io/a:later" || l[1].Digest != m.String() || s.here(kept...) != 2 {
		t.Errorf("%+v", l)
	}
	if err := s.Unpin(s.ref("v1")); err != nil {
		t.Fatal(err)
	}
	if err := s.Unpin(s.ref("v1")); !errors.Is(err, ErrNotPinned) {
		t.Error(err)
	}
	s.churn()
	if s.here(kept...) != 0 || s.here(later...) != 1 {
		t.Errorf("%d of 0, %d of 1", s.here(kept...), s.here(later...))
	}
	s.account()
}

// TestPinFollowsTag: what a tag named before is kept until what it names now is here, and
// also where upstream does not know the tag any more.
func TestPinFollowsTag(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	_, before := s.image("v1", 3)
	s.pin(s.ref("v1"))
	s.next++
	layer := s.o.put(noise(2*mib, s.next))
	s.o.tag("v1", s.o.image(layer))
	if _, err := s.head(s.o, "v1", 0); err != nil {
		t.Fatal(err)
	}
	s.churn()
	if s.here(before...) != 1 {
		t.Error("the tag has moved, its manifest is not here, and what it named before is gone")
	}
	s.pull("v1", []oci.Digest{layer})
	s.checkpoint()
	s.keepPins(followEvery)
	s.churn()
	if s.here(before...) != 0 || s.here(layer) != 1 {
		t.Errorf("%d of 0, %d of 1", s.here(before...), s.here(layer))
	}
	s.o.mu.Lock()
	now := s.o.named["v1"].Digest
	delete(s.o.named, "v1")
	s.o.mu.Unlock()
	if _, err := s.tagged(s.o, "v1", 0); !errors.Is(err, oci.ErrNotFound) {
		t.Fatal(err)
	}
	if i := s.Image(s.ref("v1"), &Policy{}); i.Digest != now.String() || !i.Gone || len(i.Pins) != 1 {
		t.Errorf("it is pinned, and not shown: %+v", i)
	}
	if b, err := s.Bundle(s.ref("v1")); err != nil || b.Target.Digest != now {
		t.Errorf("it is pinned, and cannot be exported: %v", err)
	}
	s.churn()
	s.close()
	s.rig = open(t, Options{Dir: s.Cache.o.Dir, Limit: s.Cache.o.Limit})
	s.churn()
	if s.here(layer) != 1 {
		t.Error("upstream does not know the tag any more, and what is pinned is gone")
	}
}

// TestPinnedPlatform: a platform that is pulled after its image was pinned is kept, with
// layers that were here before.
func TestPinnedPlatform(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	_, old := s.image("old", 3)
	child := s.o.tag("child", `{"config":null,`+strings.TrimPrefix(s.o.image(old...), "{"))
	m := s.o.tag("v1", fmt.Sprintf(`{"manifests":[{"digest":%q,"size":9},{"digest":%q,"size":9}]}`, child, oci.FromBytes([]byte("never here"))))
	s.pull("v1", nil)
	if p := s.pin(oci.Reference{Repository: s.o.repo("a").Repository, Digest: m}); p.Missing != 0 {
		t.Errorf("%+v", p)
	}
	s.checkpoint()
	victim, ok := s.findStored(old[0])
	if !ok {
		t.Fatal("the layer is not here")
	}
	s.pull("child", nil) // by a tag of its own
	if s.expel([]index.Record{victim}) {
		t.Error("it was chosen before, and removed after it was pinned")
	}
	s.churn()
	if s.here(old[0], child, m) != 3 {
		t.Errorf("%d of 3", s.here(old[0], child, m))
	}
}

// TestPinsWithoutIndex: what is pinned stays when the index is lost, however soon
// something is to be evicted.
func TestPinsWithoutIndex(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	m, kept := s.image("v1", 3, 2)
	s.pin(s.ref("v1"))
	s.churn()
	s.close()
	if err := os.Remove(filepath.Join(s.Cache.o.Dir, indexName)); err != nil {
		t.Fatal(err)
	}
	s.rig = open(t, Options{Dir: s.Cache.o.Dir, Limit: s.Cache.o.Limit})
	s.churn()
	until(t, "all is recorded", func() bool { return !s.Stats().Rebuild.Running })
	s.churn()
	if s.here(append(kept, m)...) != 3 {
		t.Errorf("%d of 3", s.here(append(kept, m)...))
	}
}

// TestPinsTooLarge: more than can be kept cannot be pinned, and is not then.
func TestPinsTooLarge(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	m, _ := s.image("v1", 30)
	s.pin(s.ref("v1"))
	huge := oci.FromBytes([]byte("huge"))
	s.o.tag("lie", fmt.Sprintf(`{"layers":[{"digest":%q,"size":9223372036854775807}]}`, huge))
	s.pull("lie", nil)
	_, layers := s.image("v2", 20, 15)
	for _, tag := range []string{"v2", "lie"} {
		if _, err := s.Pin(s.ref(tag)); err == nil || !strings.Contains(err.Error(), "cache.max_size") {
			t.Error(err)
		}
	}
	s.churn()
	if l := s.pinsOf(); len(l) != 1 || l[0].Digest != m.String() || s.here(layers...) != 0 {
		t.Errorf("%+v", l)
	}
}

// TestPinsLeaveRoom: what is pinned can lie here, with what a reservation leaves free beside it.
func TestPinsLeaveRoom(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	for _, tag := range []string{"v1", "v2"} {
		s.image(tag, 20)
		s.pin(s.ref(tag))
	}
	_, layers := s.image("v3", 14)
	if _, err := s.Pin(s.ref("v3")); err == nil {
		s.pull("v3", layers)
		t.Errorf("14 MiB are pinned as well, and %d of 1 layers are here", s.here(layers...))
	}
	_, layers = s.image("v4", 8)
	s.pin(s.ref("v4"))
	s.pull("v4", layers)
	if s.here(layers...) != 1 {
		t.Error("what is pinned is not kept")
	}
}

// TestPinTooLargeLater: what was pinned before it came and does not fit is no room's error
// when it is pinned again, and is listed as such.
func TestPinTooLargeLater(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	s.pin(s.ref("v1"))
	s.image("v1", 30, 30)
	s.churn()
	if _, err := s.Pin(s.ref("v1")); err == nil || !strings.Contains(err.Error(), "cache.max_size") {
		t.Errorf("%v", err)
	}
	if l := s.pinsOf(); len(l) != 1 || !l[0].Partial {
		t.Errorf("%+v", l)
	}
}

// TestDamagedPins: of a file of pins that is damaged the other lines hold, a copy is put
// aside, and it is said.
func TestDamagedPins(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	_, kept := s.image("v1", 3)
	_, lost := s.image("v2", 3)
	s.pin(s.ref("v1"))
	s.pin(s.ref("v2"))
	s.close()
	path := filepath.Join(s.Cache.o.Dir, pinsName)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	bad := strings.Replace(string(text), `"tag":"v2"`, `"tag":"v2`, 1)
	if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
		t.Fatal(err)
	}
	core, logs := observer.New(zap.ErrorLevel)
	s.rig = open(t, Options{Dir: s.Cache.o.Dir, Limit: s.Cache.o.Limit, Log: zap.New(core)})
	s.churn()
	if s.here(kept...) != 1 || s.here(lost...) != 0 || len(logs.FilterMessageSnippet("pins is damaged").All()) != 1 {
		t.Errorf("%d of 1, %d of 0: %v", s.here(kept...), s.here(lost...), logs.All())
	}
	if copied, err := os.ReadFile(path + brokenSuffix); err != nil || string(copied) != bad {
		t.Errorf("%q, %v", copied, err)
	}
}

// forgetLinks takes out of a file of pins what their manifests name.
func forgetLinks(t *testing.T, path string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := slices.DeleteFunc(strings.SplitAfter(string(text), "\n"), func(l string) bool { return strings.Contains(l, `"manifest"`) })
	if err := os.WriteFile(path, []byte(strings.Join(lines, "")), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestUnreadablePins: while a manifest that is pinned cannot be read nothing is evicted,
// and afterwards it is as if nothing had been; a file of pins that cannot be read leaves a
// cache that serves and keeps nothing.
func TestUnreadablePins(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	m, kept := s.image("v1", 3)
	s.pin(s.ref("v1"))
	_, other := s.image("v2", 4)
	s.close()
	var sick atomic.Bool
	sick.Store(true)
	fault := func(op durabletest.Op) *durabletest.Fault {
		if sick.Load() && op.Kind == "open" && strings.HasSuffix(op.Name, m.Hex()) {
			return &durabletest.Fault{Err: syscall.EMFILE}
		}
		return nil
	}
	forgetLinks(t, filepath.Join(s.Cache.o.Dir, pinsName))
	s.rig = s.faulty(fault)
	for i := range 20 {
		_, _, _ = s.get(s.o.repo("a"), s.o.put(noise(5*mib, uint64(9000+i))))
		s.idle()
	}
	if s.here(kept...) != 1 || s.here(other...) != 1 {
		t.Errorf("%d of 1, %d of 1", s.here(kept...), s.here(other...))
	}
	sick.Store(false)
	s.churn()
	if s.here(append(kept, m)...) != 2 || s.here(other...) != 0 {
		t.Errorf("%d of 2, %d of 0", s.here(append(kept, m)...), s.here(other...))
	}
	s.close()
	s.rig = s.faulty(func(op durabletest.Op) *durabletest.Fault {
		if op.Kind == "open" && op.Name == pinsName {
			return &durabletest.Fault{Err: syscall.EIO}
		}
		return nil
	})
	s.want(s.o.repo("a"), kept[0], OutcomePass)
	if _, err := s.Pin(s.ref("v1")); err == nil {
		t.Error("pinned in a cache that keeps nothing")
	}
	s.close()
	s.rig = open(t, Options{Dir: s.Cache.o.Dir, Limit: s.Cache.o.Limit})
	if s.here(kept...) != 1 {
		t.Error("what was pinned is gone")
	}
}

// TestPinFails: a pin that cannot be written down is none, and an unpin leaves it.
func TestPinFails(t *testing.T) {
	t.Parallel()
	var sick atomic.Bool
	s := newShelf(t)
	_, layers := s.image("v1", 3)
	s.close()
	s.rig = s.faulty(func(op durabletest.Op) *durabletest.Fault {
		if sick.Load() && op.Kind == "create" && strings.HasPrefix(op.Name, pinsName) {
			return &durabletest.Fault{Err: syscall.EIO}
		}
		return nil
	})
	sick.Store(true)
	if _, err := s.Pin(s.ref("v1")); !errors.Is(err, syscall.EIO) {
		t.Error(err)
	}
	sick.Store(false)
	if l := s.pinsOf(); len(l) != 0 {
		t.Errorf("%+v", l)
	}
	s.pin(s.ref("v1"))
	sick.Store(true)
	if err := s.Unpin(s.ref("v1")); !errors.Is(err, syscall.EIO) {
		t.Error(err)
	}
	sick.Store(false)
	s.churn()
	if s.here(layers...) != 1 || len(s.pinsOf()) != 1 {
		t.Error("it is pinned no longer")
	}
}

// TestPurge: an upstream goes with what came from it, and a digest wherever it came from;
// what others use, and what is pinned, stays.
func TestPurge(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	_, pinned := s.image("v1", 3)
	s.pin(s.ref("v1"))
	m2, loose := s.image("v2", 2, 1)
	single := s.o.put(noise(mib, 7777))
	if _, _, err := s.get(s.o.repo("a"), single); err != nil {
		t.Fatal(err)
	}
	s.idle()
	if r, err := s.Remove(oci.Reference{Digest: loose[1]}); err != nil || r.Blobs != 1 || r.Tags != 0 || s.here(loose...) != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err := s.Remove(oci.Reference{Digest: pinned[0]}); err != nil || r.Blobs != 0 || r.Kept != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err := s.Remove(oci.Reference{Digest: m2}); err != nil || r.Blobs != 2 || r.Tags != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	_, loose = s.image("v3", 2)
	if r, err := s.Remove(oci.Reference{Repository: oci.Repository{Upstream: "quay.io"}}); err != nil || r.Blobs+r.Tags+r.Kept != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	r, err := s.Remove(oci.Reference{Repository: oci.Repository{Upstream: "docker.io"}})
	if err != nil || r.Tags != 1 || r.Blobs != 3 || r.Pinned != 1 || s.here(single, loose[0]) != 0 || s.here(pinned...) != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	s.account()
}

// TestPurgeImported: what was imported goes with the upstream under whose name it was; what
// another one's digest pulls use stays.
func TestPurgeImported(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	_, layers := s.image("v1", 2)
	b, err := s.Bundle(s.ref("v1"))
	if err != nil {
		t.Fatal(err)
	}
	there := open(t, Options{})
	carry(t, s.rig, there, s.o.repo("a").Repository, b)
	elsewhere := s.o.repo("a")
	elsewhere.Upstream = "quay.io"
	other := s.o.put(noise(mib, 7979))
	m := s.o.tag("other", s.o.image(other))
	if _, err := there.Manifest(t.Context(), elsewhere, oci.Reference{Repository: elsewhere.Repository, Digest: m}); err != nil {
		t.Fatal(err)
	}
	there.want(s.o.repo("a"), other, OutcomeMiss)
	there.idle()
	r, err := there.Remove(oci.Reference{Repository: oci.Repository{Upstream: "docker.io"}})
	if err != nil || r.Tags != 1 || r.Blobs != 2 {
		t.Errorf("%+v, %v", r, err)
	}
	for d, want := range map[oci.Digest]bool{layers[0]: false, other: true, m: true} {
		if _, here := there.find(d); here != want {
			t.Errorf("%s: %v", d, here)
		}
	}
}
