package cache

import (
	"errors"
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

	"cistern/internal/durable/durabletest"
	"cistern/internal/oci"
)

// What tags that move, sizes and moments may do to what is pinned, and what is said of it.

// indexOf is the text of an index of some manifests.
func indexOf(children ...oci.Digest) string {
	var all []string
	for _, d := range children {
		all = append(all, fmt.Sprintf(`{"digest":%q,"size":9}`, d))
	}
	return `{"manifests":[` + strings.Join(all, ",") + `]}`
}

// madeUp are digests of nothing that is here.
func madeUp(what string, n int) (all []oci.Digest) {
	for i := range n {
		all = append(all, oci.FromBytes(fmt.Appendf(nil, "%s %d", what, i)))
	}
	return all
}

// TestPinNamesOften: an image of which many manifests name the same layers does not make
// the file of pins too large to be written, or to be read again.
func TestPinNamesOften(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	s.image("good", 3)
	s.pin(s.ref("good"))
	names := s.o.image(madeUp("layer", 2000)...)
	var children []oci.Digest
	for i := range 40 {
		tag := fmt.Sprint("c", i)
		children = append(children, s.o.tag(tag, strings.Replace(names, "{", fmt.Sprintf(`{"n":%d,`, i), 1)))
		s.pull(tag, nil)
	}
	s.pin(s.ref("v1"))
	s.o.tag("v1", indexOf(children...))
	s.pull("v1", nil)
	s.repin()
	s.checkpoint()
	known := 0
	for _, n := range s.pins.links {
		known += len(n.Blobs) + len(n.Manifests)
	}
	s.pins.changing.Lock()
	if err := s.savePins(); err != nil {
		t.Errorf("%d names in memory: %v", known, err)
	}
	s.pins.changing.Unlock()
	if err := s.Unpin(s.ref("good")); err != nil {
		t.Error(err)
	}
}

// TestPinFollowsToNothing: what a tag named is not given up for what cannot be kept.
func TestPinFollowsToNothing(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]func(child oci.Digest) string{
		"many": func(d oci.Digest) string { return indexOf(append(madeUp("x", 4500), d)...) },
		"large": func(d oci.Digest) string {
			return fmt.Sprintf(`{"manifests":[{"digest":%q,"size":9},{"digest":%q,"size":99999999999}]}`, d, oci.FromBytes([]byte("y")))
		},
		"no json": func(d oci.Digest) string { return "<html>please log in</html>" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShelf(t)
			_, before := s.image("v1", 3)
			s.pin(s.ref("v1"))
			child, layers := s.image("child", 1)
			if name == "many" { // the child first, or it is not read
				s.o.tag("v1", indexOf(append([]oci.Digest{child}, madeUp("x", 4500)...)...))
			} else {
				s.o.tag("v1", text(child))
			}
			s.pull("v1", nil)
			s.checkpoint()
			s.pins.lookAgain()
			s.churn()
			s.pins.lookAgain()
			s.churn()
			if s.here(before...) != 1 {
				t.Errorf("what the tag named is gone, and of what it names %d of 1 layers are here", s.here(layers...))
			}
		})
	}
}

// TestPinNestedOften: what many indexes name that name the same is looked for once, not once
// for each way that leads there.
func TestPinNestedOften(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	s.image("v1", 1)
	s.pin(s.ref("v1"))
	s.close()
	below := madeUp("nothing", 20)
	last := below[0].Hex()
	var looked atomic.Int64
	s.rig = s.faulty(func(op durabletest.Op) *durabletest.Fault {
		if op.Kind == "open" && strings.HasSuffix(op.Name, last) {
			looked.Add(1)
		}
		return nil
	})
	for level := range 3 {
		var these []oci.Digest
		for i := range 20 {
			tag := fmt.Sprint("i", level, "-", i)
			these = append(these, s.o.tag(tag, strings.Replace(indexOf(below...), "{", fmt.Sprintf(`{"n":%d,`, i), 1)))
			s.pull(tag, nil)
		}
		below = these
	}
	s.o.tag("v1", indexOf(below...))
	s.pull("v1", nil)
	s.repin()
	if n := looked.Load(); n > 100 {
		t.Errorf("it was looked for %d times", n)
	}
}

// TestPinReadsOnce: what there is no room for is not read again and again.
func TestPinReadsOnce(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	s.close()
	var reads atomic.Int64
	var child atomic.Value
	child.Store("-")
	s.rig = s.faulty(func(op durabletest.Op) *durabletest.Fault {
		if op.Kind == "open" && strings.HasSuffix(op.Name, child.Load().(string)) {
			reads.Add(1)
		}
		return nil
	})
	// larger than what is kept in memory
	d := s.o.tag("c", strings.Replace(s.o.image(madeUp("x", 4500)...), "{", `{"n":"`+strings.Repeat("x", 2*mib)+`",`, 1))
	s.o.tag("v1", indexOf(d))
	s.pull("v1", nil)
	s.pin(s.ref("v1"))
	s.pull("c", nil)
	s.checkpoint()
	s.repin()
	child.Store(d.Hex())
	for range 10 {
		s.pins.lookAgain()
		s.repin()
	}
	if n := reads.Load(); n > 0 {
		t.Errorf("it was read %d times", n)
	}
}

// TestPinFollowsToSafety: what a tag named before is given up once what it names now is on
// stable storage.
func TestPinFollowsToSafety(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	_, before := s.image("v1", 3)
	s.pin(s.ref("v1"))
	s.checkpoint()
	func() {
		s.syncing.Lock() // no checkpoint meanwhile
		defer s.syncing.Unlock()
		s.image("v1", 2)
		s.repin()
		if !s.pins.holding(before[0]) {
			t.Error("a power cut now leaves neither")
		}
	}()
	s.checkpoint()
	s.pins.lookAgain()
	s.repin()
	if s.pins.holding(before[0]) {
		t.Error("it is kept for ever")
	}
}

// TestPinListedAtOnce: an image that is pinned before it is pulled is listed as pinned when
// it has come.
func TestPinListedAtOnce(t *testing.T) {
	t.Parallel()
	for name, pinned := range map[string]func(s *shelf) bool{
		"listed": func(s *shelf) bool {
			for i, err := range s.Images() {
				return err == nil && i.Pinned
			}
			return false
		},
		"shown": func(s *shelf) bool { return len(s.Image(s.ref("v1"), &Policy{}).Pins) == 1 },
	} {
		s := newShelf(t)
		s.pin(s.ref("v1"))
		s.image("v1", 1)
		if !pinned(s) {
			t.Error(name, "as one that is not pinned")
		}
	}
}

// TestPinToldAtOnce: what has come of a pinned image is pinned for whoever asks.
func TestPinToldAtOnce(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	_, layers := s.image("old", 3)
	child := s.o.tag("child", s.o.image(append(layers, madeUp("not here", 1)...)...))
	s.o.tag("v1", indexOf(child))
	s.pull("v1", nil)
	s.pin(s.ref("v1"))
	s.checkpoint()
	s.pull("child", nil)
	defer func() { // the last thing that a cache does is to write that down
		s.close()
		text, err := os.ReadFile(filepath.Join(s.Cache.o.Dir, pinsName))
		if err != nil || !strings.Contains(string(text), `"manifest":"`+child.String()) {
			t.Errorf("what its platform names is not written down: %v", err)
		}
	}()
	next, err := s.EvictNext(1 << 30)
	if err != nil {
		t.Error(err)
	}
	for _, n := range next {
		if n.Digest == layers[0].String() {
			t.Error("what is pinned would be evicted")
		}
	}
}

// TestPinToldInPart: of an image that is kept in part that is said.
func TestPinToldInPart(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	_, first := s.image("a", 30)
	m1 := s.o.tag("c1", s.o.image(first...))
	s.o.tag("v1", indexOf(m1, oci.FromBytes([]byte(`{"schemaVersion":2}`))))
	s.pull("c1", nil)
	m2text := `{"layers":[{"digest":"` + oci.FromBytes([]byte("big")).String() + `","size":50000000}]}`
	m2 := s.o.tag("c2", m2text)
	s.o.tag("v1", indexOf(m1, m2))
	s.pull("v1", nil)
	s.pin(s.ref("v1"))
	s.pull("c2", nil)
	if _, err := s.Pin(s.ref("v1")); err == nil || !s.pinsOf()[0].Partial {
		t.Error("nobody is told that not all is kept", err)
	}
}

// TestPinReadAgain: a manifest that the disk did not give once is looked at again.
func TestPinReadAgain(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	m, layers := s.image("v1", 3)
	s.close()
	var sick atomic.Bool
	s.rig = s.faulty(func(op durabletest.Op) *durabletest.Fault {
		if sick.Load() && op.Kind == "open" && strings.HasSuffix(op.Name, m.Hex()) {
			return &durabletest.Fault{Err: syscall.EIO}
		}
		return nil
	})
	sick.Store(true)
	s.pins.put(s.ref("v1"), root{since: time.Now()})
	s.repin()
	sick.Store(false)
	s.pins.lookAgain()
	s.repin()
	if _, here := s.findStored(m); here && !s.pins.holding(layers[0]) {
		t.Error("its manifest is here, and its layers are not pinned")
	}
}

// TestPinNextStays: what a tag names by now stays pinned over a 404 and a restart, also if it
// could not be pulled yet.
func TestPinNextStays(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	s.image("v1", 3)
	s.pin(s.ref("v1"))
	layer := s.o.put(noise(2*mib, 4444))
	s.o.tag("v1", s.o.image(append(madeUp("not here", 1), layer)...))
	s.pull("v1", []oci.Digest{layer})
	if s.repin(); len(s.pinnedBy(layer)) != 1 {
		t.Errorf("pinned by %q", s.pinnedBy(layer))
	}
	s.o.mu.Lock()
	delete(s.o.named, "v1")
	s.o.mu.Unlock()
	if _, err := s.tagged(s.o, "v1", 0); !errors.Is(err, oci.ErrNotFound) {
		t.Fatal(err)
	}
	s.close()
	s.rig = open(t, Options{Dir: s.Cache.o.Dir, Limit: s.Cache.o.Limit})
	s.churn()
	if s.here(layer) != 1 {
		t.Error("what the tag named last is not pinned any more")
	}
}

// TestPinWhileRemoved: a tag that is pinned while it is being removed stays a tag.
func TestPinWhileRemoved(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	_, layers := s.image("v1", 3)
	s.checkpoint()
	s.close()
	var armed atomic.Bool
	pinned := make(chan error, 1)
	s.rig = s.faulty(func(op durabletest.Op) *durabletest.Fault {
		if op.Kind == "remove" && strings.HasSuffix(op.Name, layers[0].Hex()) && armed.CompareAndSwap(true, false) {
			_, err := s.Pin(s.ref("v1"))
			pinned <- err
		}
		return nil
	})
	armed.Store(true)
	r, err := s.Remove(s.ref("v1"))
	if err := errors.Join(err, <-pinned); err != nil {
		t.Fatal(err)
	}
	if _, ok := s.tag(s.ref("v1")); !ok || r.Tags != 0 || r.Pinned != 1 {
		t.Errorf("it is pinned, and no tag any more: %+v", r)
	}
}

// TestCutPins: that something is missing of the file of pins, or is not what it was, is said
// also where each line can be read.
func TestCutPins(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(string) string{
		"empty":   func(string) string { return "" },
		"cut":     func(s string) string { return s[:strings.Index(s, "\n")+1] },
		"no end":  func(s string) string { return strings.TrimSuffix(s, "\n") },
		"flipped": func(s string) string { return strings.Replace(s, `"tag":"v1"`, `"tag":"v3"`, 1) },
		"intact":  func(s string) string { return s },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShelf(t)
			s.image("v1", 1)
			s.pin(s.ref("v1"))
			s.close()
			path := filepath.Join(s.Cache.o.Dir, pinsName)
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(damage(string(text))), 0o600); err != nil {
				t.Fatal(err)
			}
			core, logs := observer.New(zap.ErrorLevel)
			s.rig = open(t, Options{Dir: s.Cache.o.Dir, Limit: s.Cache.o.Limit, Log: zap.New(core)})
			if n := len(logs.FilterMessageSnippet("pins is damaged").All()); (n == 1) == (name == "intact") {
				t.Errorf("said %d times", n)
			}
		})
	}
}

// TestPinsReserve: the file of pins has its room reserved while it is written, and is
// written also where there is none.
func TestPinsReserve(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	s.image("v1", 30, 20)
	s.pin(s.ref("v1"))
	s.close()
	var reserved atomic.Int64
	s.rig = s.faulty(func(op durabletest.Op) *durabletest.Fault {
		if op.Kind == "create" && op.Name == pinsName+".tmp" {
			reserved.Store(s.store.Usage().Reserved)
		}
		return nil
	})
	s.pin(s.ref("v2"))
	if reserved.Load() == 0 {
		t.Error("nothing was reserved")
	}
	s.close()
	s.rig = open(t, Options{Dir: s.Cache.o.Dir, Limit: 32 * mib})
	if err := s.Unpin(s.ref("v1")); err != nil {
		t.Error(err)
	}
}

// TestPinArrivesMeanwhile: a platform that comes just after it was looked for is kept.
func TestPinArrivesMeanwhile(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	_, layers := s.image("old", 3)
	child := s.o.tag("child", s.o.image(append(layers, madeUp("not here", 1)...)...))
	s.o.tag("v1", indexOf(child))
	s.pull("v1", nil)
	s.close()
	var armed atomic.Bool
	s.rig = s.faulty(func(op durabletest.Op) *durabletest.Fault {
		if op.Kind == "open" && strings.HasSuffix(op.Name, child.Hex()) && armed.CompareAndSwap(true, false) {
			s.pull("child", nil)
			return &durabletest.Fault{Err: syscall.ENOENT}
		}
		return nil
	})
	armed.Store(true)
	s.pin(s.ref("v1"))
	s.repin()
	if armed.Load() || !s.pins.holding(layers[0]) {
		t.Error("its layer is not pinned")
	}
}

// TestPinIsLasting: what is here of an image that is pinned is on stable storage then, and
// counts as what it takes, whatever its manifest says.
func TestPinIsLasting(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	layer := s.o.put(noise(20*mib, 4545))
	s.o.tag("v1", fmt.Sprintf(`{"layers":[{"digest":%q,"size":1}]}`, layer))
	s.pull("v1", nil)
	s.pin(s.ref("v1"))
	s.pull("v1", []oci.Digest{layer})
	s.pins.lookAgain()
	s.repin()
	if n := s.pins.bytes(); n < 20*mib {
		t.Errorf("%d bytes are pinned", n)
	}
	m, layers := s.image("v2", 1)
	s.pin(s.ref("v2"))
	if !s.recorded(m) || !s.recorded(layers[0]) {
		t.Error("a power cut now leaves nothing of what is pinned")
	}
}

// TestPinHalfFails: where the file of pins was written and that failed all the same, it says
// soon what is pinned.
func TestPinHalfFails(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	s.close()
	var sick atomic.Bool
	s.rig = s.faulty(func(op durabletest.Op) *durabletest.Fault {
		if sick.Load() && op.Kind == "syncdir" && op.Name == "." {
			return &durabletest.Fault{Err: syscall.EIO}
		}
		return nil
	})
	written := func() string {
		text, err := os.ReadFile(filepath.Join(s.Cache.o.Dir, pinsName))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	sick.Store(true)
	if _, err := s.Pin(s.ref("v1")); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	sick.Store(false)
	until(t, "the file says that it is not pinned", func() bool { return s.keepPins(1) && !strings.Contains(written(), `"v1"`) })
	s.pin(s.ref("v1"))
	sick.Store(true)
	if err := s.Unpin(s.ref("v1")); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	sick.Store(false)
	until(t, "the file says that it is pinned", func() bool { return s.keepPins(1) && strings.Contains(written(), `"v1"`) })
}

// TestPinsNameTooMuch: of all pins together so many blobs are kept, and no more.
func TestPinsNameTooMuch(t *testing.T) {
	t.Parallel()
	s := &shelf{open(t, Options{Limit: 1 << 30}), t, newOrigin(), 0}
	refused := 0
	for i := range 6 {
		tag := fmt.Sprint("v", i)
		s.o.tag(tag, s.o.image(madeUp(tag, 4000)...))
		s.pull(tag, nil)
		if _, err := s.Pin(s.ref(tag)); err != nil && strings.Contains(err.Error(), "no room for all") {
			refused++
		}
	}
	if n := len(s.pins.holds); refused != 2 || n > maxPinned {
		t.Errorf("%d of 6 are refused, %d blobs are kept", refused, n)
	}
}
