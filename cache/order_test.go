package cache

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"cistern/cache/index"
	"cistern/internal/durable/durabletest"
	"cistern/internal/oci"
)

// watched is a cache of which each operation on files is noted, and how many of them came before the transactions that
// wrote the record of d and that deleted it.
type watched struct {
	*rig
	files *durabletest.Faulty
	d     oci.Digest

	mu               sync.Mutex // guards what follows
	recorded, forgot int        // 0: not yet
}

func watch(t *testing.T, data []byte, choose func(durabletest.Op) *durabletest.Fault) (*watched, *origin) {
	t.Helper()
	o := newOrigin()
	w := &watched{d: o.put(data)}
	options := Options{Limit: 64 * mib}
	options.index.Hook = func(op string, call func() error) error {
		if op != "apply" {
			return call()
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		before := w.files.Count()
		err := call()
		_, known, gerr := w.idx.Load().Get(w.d)
		switch {
		case gerr != nil:
			t.Error(gerr)
		case known && w.recorded == 0:
			w.recorded = before
		case !known && w.recorded > 0 && w.forgot == 0:
			w.forgot = before
		}
		return err
	}
	w.mu.Lock()
	w.rig = faultyRig(t, options, choose)
	w.files = w.o.fs.(*durabletest.Faulty)
	w.mu.Unlock()
	return w, o
}

// last is the number of the last operation of a kind on a name; 0 if there was none.
func (w *watched) last(kind, name string) int {
	ops := w.files.Trace()
	for _, op := range slices.Backward(ops) {
		if op.Kind == kind && op.Name == name {
			return op.N
		}
	}
	return 0
}

// place is the blob's name in one of the two trees.
func (w *watched) place(tree string) string {
	return path.Join(tree, w.d.Algorithm(), w.d.Hex()[:2], w.d.Hex())
}

// store fetches the blob and makes a checkpoint.
func (w *watched) fetch(o *origin) {
	w.t.Helper()
	w.want(o.repo("a"), w.d, OutcomeMiss)
	w.idle()
	w.checkpoint()
}

// remove drops the blob and makes a checkpoint.
func (w *watched) remove() {
	w.t.Helper()
	rec, ok := w.findStored(w.d)
	if !ok {
		w.t.Fatal("it is not here")
	}
	if _, ok := w.drop(rec, index.Removed); !ok {
		w.t.Fatal("it is not dropped")
	}
	w.checkpoint()
}

// TestOrderOfACheckpoint: a file and its name are on stable storage before the transaction with its record, and in their
// place after that; a removal is on stable storage before its record goes.
func TestOrderOfACheckpoint(t *testing.T) {
	t.Parallel()
	w, o := watch(t, noise(2*mib, 60), nil)
	w.fetch(o)
	fill, blob := w.place("fills"), w.place("blobs")
	synced, named, renamed := w.last("fsync", fill), w.last("syncdir", path.Dir(fill)), w.last("rename", blob)
	if w.recorded == 0 || synced == 0 || synced > w.recorded || named < synced || named > w.recorded || renamed <= w.recorded {
		t.Errorf("synced %d, its folder %d, recorded %d, renamed %d", synced, named, w.recorded, renamed)
	}
	w.remove()
	removed, synced := w.last("remove", blob), w.last("syncdir", path.Dir(blob))
	if w.forgot == 0 || removed == 0 || synced < removed || synced > w.forgot {
		t.Errorf("removed %d, its folder synced %d, forgotten %d", removed, synced, w.forgot)
	}
}

// failOnce fails the first operation of a kind in a tree.
func failOnce(kind, tree string) func(durabletest.Op) *durabletest.Fault {
	var once sync.Once
	return func(op durabletest.Op) (f *durabletest.Fault) {
		if op.Kind == kind && strings.HasPrefix(op.Name, tree+"/sha256/") {
			once.Do(func() { f = &durabletest.Fault{Err: syscall.EIO} })
		}
		return f
	}
}

// TestFsyncFails: a file whose fsync failed is dropped, and never synced again: it is neither served nor recorded, and
// fetched anew. FAULTS row 33.
func TestFsyncFails(t *testing.T) {
	t.Parallel()
	w, o := watch(t, noise(2*mib, 61), failOnce("fsync", "fills"))
	w.fetch(o)
	if _, here := w.findStored(w.d); here || w.recorded > 0 {
		t.Errorf("it is here: %v, recorded at %d", here, w.recorded)
	}
	if f, err := w.store.OpenFile(w.d); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its file lies there: %v, %v", f, err)
	}
	if w.Stats().Degraded == "" {
		t.Error("nobody was told")
	}
	w.fetch(o)
	w.want(o.repo("a"), w.d, OutcomeHit)
	if w.recorded == 0 || o.count("blob") != 2 {
		t.Errorf("recorded at %d after %d requests", w.recorded, o.count("blob"))
	}
}

// TestSyncOfRemovalFails: the record of what may come back stays, for another try, and is of no use meanwhile.
func TestSyncOfRemovalFails(t *testing.T) {
	t.Parallel()
	w, o := watch(t, noise(2*mib, 62), failOnce("syncdir", "blobs"))
	w.fetch(o)
	w.remove()
	if _, known, err := w.idx.Load().Get(w.d); !known || err != nil || w.forgot > 0 {
		t.Errorf("its record: %v, %v, gone at %d", known, err, w.forgot)
	}
	if _, here := w.findStored(w.d); here {
		t.Error("it is here")
	}
	w.checkpoint()
	if w.forgot == 0 {
		t.Error("its record stays for ever")
	}
}

// TestEvictedAndBackWithinACheckpoint: a blob that goes after a checkpoint has taken what is gone, and is back before it takes
// what is new, is there and not gone; who could have it before may not.
func TestEvictedAndBackWithinACheckpoint(t *testing.T) {
	t.Parallel()
	during := func() {}
	w, o := watch(t, noise(2*mib, 68), func(op durabletest.Op) *durabletest.Fault {
		if op.Kind == "syncdir" && strings.HasPrefix(op.Name, "blobs/sha256/") {
			during() // what is gone is being synced
		}
		return nil
	})
	o.private = true
	w.fetch(o)
	other := o.put(noise(2*mib, 69))
	w.want(o.repo("a"), other, OutcomeMiss)
	w.idle()
	w.checkpoint()
	drop := func(d oci.Digest) {
		rec, _ := w.findStored(d)
		w.drop(rec, index.Removed)
	}
	w.syncing.Lock() // no checkpoint but ours
	during = func() {
		during = func() {}
		drop(w.d)
		w.want(o.repo("b"), w.d, OutcomeMiss)
		w.idle()
	}
	drop(other)
	w.syncing.Unlock()
	w.checkpoint()
	for range 2 {
		w.want(o.repo("b"), w.d, OutcomeHit)
		if _, known, err := w.idx.Load().Get(w.d); !known || err != nil {
			t.Errorf("its file lies there without a record, %v", err)
		}
		if w.granted(o.repo("a").Repository, w.d) {
			t.Error("a grant of its past is there")
		}
		w.checkpoint()
	}
	if n, _ := w.idx.Load().Totals().Sum(); n != 1 {
		t.Errorf("%d records", n)
	}
}

// TestBusyIsNotEvicted: what somebody reads is passed over, however long ago it was used.
func TestBusyIsNotEvicted(t *testing.T) {
	t.Parallel()
	o, c := newOrigin(), open(t, Options{Limit: 64 * mib})
	read, idle := o.put(noise(3*mib, 63)), o.put(noise(3*mib, 64))
	c.want(o.repo("a"), read, OutcomeMiss)
	c.want(o.repo("a"), idle, OutcomeMiss)
	c.idle()
	c.checkpoint()
	content, err := c.Blob(t.Context(), o.repo("a"), read)
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	rec, _ := c.findStored(idle)
	c.touch(idle, rec.LastUsed.Add(1<<40)) // it is the younger one
	c.store.AddUsed(56 * mib)
	defer c.store.AddUsed(-56 * mib)
	until(t, "something is evicted", func() bool { return c.Stats().EvictedBlobs > 0 })
	if _, here := c.findStored(read); !here {
		t.Error("what is read was evicted")
	}
	if data, err := io.ReadAll(struct{ io.Reader }{content.Reader}); err != nil || oci.FromBytes(data) != read {
		t.Errorf("%d bytes, %v", len(data), err)
	}
}

// TestCheckpointIsPutBack: what a full disk did not take is recorded by a later checkpoint. FAULTS row 30.
func TestCheckpointIsPutBack(t *testing.T) {
	t.Parallel()
	var full atomic.Bool
	options := Options{}
	options.index.Hook = func(op string, call func() error) error {
		if op == "apply" && full.Load() {
			return syscall.ENOSPC
		}
		return call()
	}
	o, c := newOrigin(), open(t, options)
	old, d := o.put(noise(2*mib, 65)), o.put(noise(2*mib, 66))
	c.want(o.repo("a"), old, OutcomeMiss)
	c.idle()
	c.checkpoint()
	o.tag("v1", o.image(d))
	full.Store(true)
	if _, err := c.tagged(o, "v1", 0); err != nil {
		t.Fatal(err)
	}
	c.want(o.repo("a"), d, OutcomeMiss)
	c.idle()
	rec, _ := c.findStored(old)
	c.drop(rec, index.Removed)
	if c.checkpoint() {
		t.Fatal("void: the disk is not full")
	}
	full.Store(false)
	c.checkpoint()
	x := c.idx.Load()
	_, gone, err1 := x.Get(old)
	_, kept, err2 := x.Get(d)
	_, tagged, err3 := x.Tag(oci.Reference{Repository: o.repo("a").Repository, Tag: "v1"})
	if err := errors.Join(err1, err2, err3); gone || !kept || !tagged || err != nil {
		t.Errorf("removed: %v, recorded: %v, its tag: %v, %v", !gone, kept, tagged, err)
	}
	c.account()
}

// TestNoFileBesideAnother: a file that lies in a blob's place without a record would be found instead of a new one. So it
// goes first; while it is not known whether it is the blob, no new one is made.
func TestNoFileBesideAnother(t *testing.T) {
	t.Parallel()
	o, c := newOrigin(), open(t, Options{})
	data := noise(2*mib, 67)
	d := o.put(data)
	lies := c.path("blobs", d)
	if err := errors.Join(os.MkdirAll(filepath.Dir(lies), 0o700), os.WriteFile(lies, make([]byte, len(data)), 0o600)); err != nil {
		t.Fatal(err)
	}
	c.rebuild.on.Store(true)
	if in, err := c.create(t.Context(), d, int64(len(data)), true); !errors.Is(err, errUnbacked) {
		t.Errorf("a file is made beside one that is to be proven: %v, %v", in, err)
	}
	c.rebuild.on.Store(false)
	c.want(o.repo("a"), d, OutcomeMiss)
	c.idle()
	c.checkpoint()
	c.want(o.repo("a"), d, OutcomeHit)
	c.account()
}
