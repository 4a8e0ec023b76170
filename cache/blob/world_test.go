package blob

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"cistern/internal/durable"
	"cistern/internal/durable/durabletest"
	"cistern/internal/oci"
)

// failer is what a world complains to: *testing.T or *rapid.T.
type failer interface {
	Helper()
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// volume is a file system whose process or machine can go: the twin in memory,
// or a real one, of which only processes go.
type volume interface {
	durable.FS
	next() volume     // for the next process: everything is there
	abandon(w *world) // closes what the kernel would close
}

// world is a Store with somebody who plays the cache's part: with an index that
// never fails and outlives everything, and with the truth about all bytes.
type world struct {
	failer
	seam *durabletest.Faulty
	disk volume
	boot int
	in   string // the boot that a process was last settled in; "": nobody knows
	s    *Store // nil: no process runs

	index map[oci.Digest]record // on stable storage
	fresh map[oci.Digest]record // committed by this process, without a record yet
	open  []*File

	closing bool                // the mark of a clean stop may be there
	doubted map[oci.Digest]bool // kept fills that could not be removed at the start
	stuck   map[oci.Digest]bool // blobs whose removal failed: they are not fetched again
	faulted bool                // since this process began
	root    int64               // what the files beside the trees took when it began
	atCut   *world              // index and closing at the power cut; nil: none yet
}

// record is what the index has.
type record struct {
	i         int // which content it is
	allocated int64
	gone      bool // removed since, or that was tried: the file may be anything, or none
	recorded  bool // of a fresh one: it is in the index, and not renamed yet
}

func newWorld(f failer, d volume) *world {
	return &world{failer: f, disk: d, seam: &durabletest.Faulty{}, index: map[oci.Digest]record{}}
}

// memory is the twin.
type memory struct{ *durabletest.FS }

func (m memory) next() volume   { return memory{m.Kill()} }
func (m memory) abandon(*world) {}

// real is a directory on a real file system.
type real struct {
	durable.FS
	dir string
	t   *testing.T
}

func newReal(t *testing.T, dir string) real {
	d, err := durable.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return real{d, dir, t}
}

func (r real) next() volume {
	_ = r.FS.Close() // closed already if the process ended in order
	return newReal(r.t, r.dir)
}

func (r real) abandon(w *world) {
	_ = w.s.lock.Close()
	for _, f := range w.open {
		_ = f.File.Close()
	}
}

// truths is how many contents there are.
const truths = 16

// truth is the i-th content and its digest. Sizes are of all kinds.
func truth(i int) (oci.Digest, []byte) { return library()[i].d, library()[i].data }

type work struct {
	d    oci.Digest
	data []byte
}

var library = sync.OnceValue(func() (all [truths]work) {
	for i := range all {
		data := content(i, []int{5000, 1, 4096, 9000, 12288}[i%5])
		for at := 4096; at < len(data); at += 4096 { // no page is like another, or all zeros
			copy(data[at:], fmt.Append(nil, i, at))
		}
		all[i] = work{oci.FromBytes(data), data}
	}
	return all
})

// mustBe accepts what a failing disk may be called: nothing or an ErrDisk.
func (w *world) mustBe(err error) bool {
	w.Helper()
	if err != nil && !errors.Is(err, ErrDisk) && !errors.Is(err, durabletest.ErrOff) {
		w.Errorf("not an ErrDisk: %v", err)
	}
	return err == nil
}

// start begins a process and does with what it finds what the cache does: what
// has a record is proven by its digest, what has none is trusted in the same
// boot only. It tells whether the process runs.
func (w *world) start() bool {
	w.Helper()
	if w.atCut != nil {
		return false
	}
	w.disk = w.disk.next()
	w.seam.FS = w.disk
	w.fresh, w.doubted, w.stuck, w.faulted = map[oci.Digest]record{}, map[oci.Digest]bool{}, map[oci.Digest]bool{}, false
	var used int64
	for _, rec := range w.index {
		used += rec.allocated
	}
	s, err := open(Options{Dir: "memory", FS: w.seam, Limit: 1 << 30, Used: used}, fmt.Sprint("boot-", w.boot))
	if !w.mustBe(err) {
		return false
	}
	if s.ReadOnly() { // that one is not to write
		w.s = s
		w.kill()
		return false
	}
	if s.Clean() && !w.closing {
		w.Errorf("a process was killed and the next one thinks that it ended by Close")
	}
	if w.in == fmt.Sprint(w.boot) && !s.SameBoot() && !w.faulted {
		w.Errorf("the boot goes on, and what is in fills/ is doubted")
	}
	w.closing, w.s, w.root = false, s, w.besides()
	w.settle()
	for _, d := range sorted(w.index) {
		if _, proven := w.fresh[d]; w.index[d].gone && !proven { // as the cache does when it meets it
			w.mustBe(w.s.Remove(d, w.index[d].allocated))
		}
	}
	w.takeUp()
	return true
}

func (w *world) settle() {
	w.Helper()
	settled := true
	for _, d := range sorted(maps.Collect(w.s.Fills())) {
		rec, known := w.index[d]
		_, data := truth(rec.i)
		switch {
		case known && w.s.Kept(d) == int64(len(data)):
			w.s.AddUsed(-rec.allocated) // the file counts, and not twice
			w.prove(d, rec)
		case !w.s.SameBoot() && !w.mustBe(w.s.DropKept(d)):
			w.doubted[d], settled = true, false
		}
	}
	if w.in = ""; settled && w.mustBe(w.s.Settle()) && !w.faulted {
		w.in = fmt.Sprint(w.boot)
	}
}

// takeUp makes fills of what lies in blobs/ without a record, if an earlier
// process has noted that there may be such.
func (w *world) takeUp() {
	w.Helper()
	if !w.s.Unproven() {
		return
	}
	var strays []oci.Digest
	for here, err := range w.s.Blobs() {
		if !w.mustBe(err) {
			return
		}
		for _, f := range here {
			if _, known := w.index[f.Digest]; known {
				continue
			}
			strays = append(strays, f.Digest)
			w.s.AddUsed(f.Allocated)
			if !w.mustBe(w.s.Demote(f.Digest)) {
				return
			}
		}
	}
	if failed := w.s.SyncRemoved(strays); len(failed) == 0 {
		w.mustBe(w.s.AllProven())
	}
}

// prove reads a file that has a record and was not renamed before the process
// ended, or is a later one of that digest.
func (w *world) prove(d oci.Digest, rec record) {
	w.Helper()
	r, err := w.s.Reserve(context.Background(), 0)
	if !w.mustBe(err) {
		return
	}
	in, err := w.s.Resume(d, r)
	if !w.mustBe(err) {
		return
	}
	n := in.Len()
	got := make([]byte, n)
	_, err = in.ReadAt(got, 0)
	switch {
	case err != nil:
		w.ended(in.Keep())
	case d.Verify(got):
		allocated, err := in.Commit()
		if w.mustBe(err) {
			w.fresh[d] = record{i: rec.i, allocated: allocated}
			return
		}
	default:
		if !rec.gone {
			w.Errorf("a record without its bytes: content %d, %d bytes", rec.i, n)
		}
		w.abort(in, nil)
	}
	rec.gone, rec.allocated = true, 0 // the account does not hold it any more
	w.index[d] = rec
}

// end is how a fill ends.
type end int

const (
	commit end = iota
	abort
	keep
)

// fill writes the i-th content to its end, or a part of it that is kept or
// aborted. What was kept before is gone on with, and must be what it was.
func (w *world) fill(i int, e end) {
	w.Helper()
	d, data := truth(i)
	if w.here(d) || w.stuck[d] {
		return
	}
	in := w.begin(d, data, i%2 == 1)
	if in == nil {
		return
	}
	most := len(data)
	if e != commit {
		most = len(data) / 2
	}
	var err error
	for int(in.Len()) < most && err == nil {
		_, err = in.Write(data[in.Len():min(most, int(in.Len())+4000)])
	}
	switch {
	case err != nil || e == abort:
		w.abort(in, err)
	case e == keep:
		w.ended(in.Keep())
	default:
		allocated, err := in.Commit()
		if w.mustBe(err) {
			w.fresh[d] = record{i: i, allocated: allocated}
		}
	}
}

func (w *world) begin(d oci.Digest, data []byte, public bool) *Ingest {
	w.Helper()
	kept := w.s.Kept(d)
	r, err := w.s.Reserve(context.Background(), int64(len(data))-kept)
	if !w.mustBe(err) {
		return nil
	}
	create := w.s.Create
	if public {
		create = w.s.CreatePublic
	}
	if kept == 0 {
		in, err := create(d, r)
		w.mustBe(err)
		return in
	}
	if w.s.KeptPublic(d) != public && !w.faulted {
		w.Errorf("public: %v, made with %v", !public, public)
	}
	in, err := w.s.Resume(d, r)
	if !w.mustBe(err) {
		return nil
	}
	n := in.Len()
	got := make([]byte, n)
	if _, err := in.ReadAt(got, 0); err != nil && !w.mustBeInjected(err) {
		w.Errorf("reading what was kept: %v", err)
	} else if wrong := len(got) > len(data) || !bytes.Equal(got, data[:n]); err == nil && wrong {
		if w.doubted[d] {
			w.abort(in, nil)
			return nil
		}
		w.Errorf("trusted what was not written: %d bytes of %d", n, len(data))
	}
	if err != nil || int(n) > len(data) {
		w.abort(in, nil)
		return nil
	}
	return in
}

// abort gives a fill up, which may have failed before. What its close says is
// nobody's trouble, and is passed on as it is.
func (w *world) abort(in *Ingest, err error) {
	w.Helper()
	w.mustBe(err)
	w.ended(in.Abort())
}

func (w *world) ended(err error) {
	w.Helper()
	if err != nil && !w.mustBeInjected(err) {
		w.Errorf("ending a fill: %v", err)
	}
}

// mustBeInjected: errors of reading come as the file system says them.
func (w *world) mustBeInjected(err error) bool {
	return errors.Is(err, durabletest.ErrOff) || errors.Is(err, errInjected) || errors.Is(err, ErrDisk)
}

// errInjected is in every error that a test injects.
var errInjected = errors.New("injected")

// here tells whether the digest is a blob that nobody removed.
func (w *world) here(d oci.Digest) bool {
	_, fresh := w.fresh[d]
	rec, known := w.index[d]
	return fresh || known && !rec.gone
}

// checkpoint makes what is fresh last, and forgets what is gone. It may be
// broken off before the transaction, or before the renames.
func (w *world) checkpoint(steps int) {
	w.Helper()
	left := maps.Clone(w.index)
	maps.DeleteFunc(left, func(d oci.Digest, rec record) bool { return !rec.gone || w.stuck[d] })
	for d, err := range w.s.SyncRemoved(sorted(left)) {
		w.mustBe(err)
		delete(left, d)
	}
	synced := maps.Clone(w.fresh)
	maps.DeleteFunc(synced, func(_ oci.Digest, rec record) bool { return rec.recorded })
	for d, err := range w.s.Sync(sorted(synced)) {
		w.mustBe(err)
		w.remove(d) // never tried again
		delete(synced, d)
	}
	if steps < 2 {
		return
	}
	for d := range left {
		delete(w.index, d)
	}
	for d, rec := range synced { // one transaction, with those that go
		w.index[d] = rec
		rec.recorded = true
		w.fresh[d] = rec
	}
	if steps < 3 {
		return
	}
	for _, d := range sorted(w.fresh) {
		w.mustBe(w.s.Promote(d))
		delete(w.fresh, d)
	}
}

// remove evicts a blob; its record goes with the next checkpoint.
func (w *world) remove(d oci.Digest) {
	w.Helper()
	if !w.here(d) {
		return
	}
	rec, fresh := w.fresh[d]
	if !fresh {
		rec = w.index[d]
	}
	if known, ok := w.index[d]; ok {
		known.gone = true
		w.index[d] = known
	}
	delete(w.fresh, d)
	w.stuck[d] = !w.mustBe(w.s.Remove(d, rec.allocated))
}

// lose loses a record, as a broken index does; the file is gone on with.
func (w *world) lose(i int) {
	w.Helper()
	d, _ := truth(i)
	rec, known := w.index[d]
	_, fresh := w.fresh[d]
	if !known || rec.gone || fresh || !w.mustBe(w.s.MarkUnproven()) {
		return
	}
	delete(w.index, d)
	if err := w.s.Demote(d); err != nil {
		if errors.Is(err, fs.ErrNotExist) && !w.faulted { // else its promotion may have failed
			w.Errorf("no file to go on with: %v", err)
		}
		w.index[d] = rec // it was not lost after all
		return
	}
	w.fill(i, commit)
	w.checkpoint(3)
	w.mustBe(w.s.AllProven())
}

// read checks a blob, which is to be there; the file stays open.
func (w *world) read(d oci.Digest) {
	w.Helper()
	f, err := w.s.OpenFile(d)
	if err != nil {
		if !errors.Is(err, ErrDisk) && w.here(d) {
			w.Errorf("lost: content %d: %v", w.index[d].i, err)
		}
		return
	}
	w.open = append(w.open, f)
	if w.here(d) { // else it is a part, or what nobody has removed yet
		w.sound(f)
	}
}

// sound checks all bytes of an open blob.
func (w *world) sound(f *File) {
	w.Helper()
	got := make([]byte, f.Size)
	if _, err := f.ReadAt(got, 0); err == nil && !f.d.Verify(got) {
		w.Errorf("wrong bytes: %d of them", len(got))
	} else if err != nil && !w.mustBeInjected(err) {
		w.Errorf("reading: %v", err)
	}
}

func (w *world) closeReaders() { w.closeReadersBut(0) }

func (w *world) closeReadersBut(n int) {
	w.Helper()
	for len(w.open) > n {
		if err := w.open[0].Close(); err != nil && !w.mustBeInjected(err) {
			w.Errorf("closing a reader: %v", err)
		}
		w.open = w.open[1:]
	}
}

// stop ends the process in order.
func (w *world) stop() {
	w.Helper()
	w.closeReaders()
	w.balanced()
	w.closing = true
	w.mustBe(w.s.Close())
	w.s = nil
}

// kill ends it without.
func (w *world) kill() {
	w.disk.abandon(w)
	w.s, w.open = nil, nil
}

// cut is the fault that cuts the power once an operation is over.
func (w *world) cut() durabletest.Fault {
	return durabletest.Fault{After: func() {
		w.disk.(memory).Crash(rand.New(rand.NewPCG(0, 0)))
		w.cutNow()
	}}
}

// cutNow remembers what was true when the power went, or the process.
func (w *world) cutNow() {
	w.atCut = &world{index: maps.Clone(w.index), closing: w.closing, boot: w.boot}
}

// after is the world that the next boot finds, by one of its possible outcomes.
func (w *world) after(f failer, seed uint64) *world {
	next := newWorld(f, memory{w.disk.(memory).Crash(rand.New(rand.NewPCG(seed, 1)))})
	next.index, next.closing, next.boot = maps.Clone(w.atCut.index), w.atCut.closing, w.atCut.boot+1
	return next
}

// balanced: nothing is promised or read, and the account holds what lies there.
func (w *world) balanced() {
	w.Helper()
	l := w.s.ledger
	if l.reserved != 0 || l.written != 0 || l.evictedOpen != 0 || l.used < 0 || len(l.waiting) != 0 || len(w.s.opens.m) != 0 {
		w.Errorf("reserved %d, written %d, evicted but open %d, used %d, waiting %d, readers %d",
			l.reserved, l.written, l.evictedOpen, l.used, len(l.waiting), len(w.s.opens.m))
	}
}

// counted: the account is what lies on the disk, to the byte, once no fill is
// under way.
func (w *world) counted() {
	w.Helper()
	m, ok := w.disk.(memory)
	if !ok {
		return
	}
	lies := m.Used() - w.besides() + w.root
	if used := w.s.Usage().Used; used != lies {
		w.Errorf("the account says %d bytes, %d lie there", used, lies)
	}
}

// besides is what the files beside the two trees take: the boot id and the marks
// are counted by the next start.
func (w *world) besides() (n int64) {
	for _, name := range []string{lockName, versionName, bootName, cleanName, unprovenName} {
		if fi, err := w.disk.Lstat(name); err == nil {
			n += durable.Allocated(fi)
		}
	}
	return n
}

// wellAfter starts without faults and finds all that has a record, and the
// account right.
func (w *world) wellAfter() {
	w.Helper()
	w.seam.Choose = nil
	if !w.start() {
		w.Fatalf("it does not start")
	}
	for _, d := range sorted(w.index) {
		w.read(d)
	}
	w.closeReaders()
	w.counted()
	w.checkpoint(3)
	for _, d := range sorted(w.index) {
		w.read(d)
	}
	w.closeReaders()
	w.counted()
	w.stop()
}

// sorted are the keys of a map in an order that does not change from run to run.
func sorted[V any](m map[oci.Digest]V) []oci.Digest {
	return slices.SortedFunc(maps.Keys(m), func(a, b oci.Digest) int { return bytes.Compare([]byte(a.Hex()), []byte(b.Hex())) })
}
