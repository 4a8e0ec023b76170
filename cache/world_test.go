package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cistern/cache/index"
	"cistern/internal/durable"
	"cistern/internal/durable/durabletest"
	"cistern/internal/oci"
)

// failer is what a world complains to.
type failer interface {
	Errorf(format string, args ...any)
}

// firstError keeps the first complaint; a life goes on behind it.
type firstError struct {
	mu   sync.Mutex
	text string
}

func (f *firstError) Errorf(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.text == "" {
		f.text = fmt.Sprintf(format, args...)
	}
}

// world is a cache in one process after another, on a disk in memory and an
// index in a real file, both of which fail, and outlive kills and power cuts as
// far as they would; with the truth about all bytes, and an upstream that has
// them.
type world struct {
	failer
	disk  *durabletest.FS
	seam  *durabletest.Faulty
	index *indexFile
	c     *Cache // nil: no process runs
	limit int64

	public, private, stranger *origin
	open                      []*Content // blobs that are being read, to be right to the end
	reading                   []int      // which they are

	recorded map[oci.Digest]index.Record // by the index when this process began, and not removed before
	tags     []index.Tag                 // in the index then
	granted  map[oci.Digest]bool
	faulted  bool // since this process began
	cut      bool // the power is gone, or the process was killed: see off
	killed   bool // it is to be
	dark     bool // the power is gone, and not only the process

	mu      sync.Mutex // guards all below: operations come from all sides
	fault   func(durabletest.Op) *durabletest.Fault
	removed map[oci.Digest]time.Time // when its file was last removed, or that was tried
	root    int64                    // what the files beside the trees took when the account began
	capped  bool                     // the cap is to hold from here on
	over    int64                    // the most by which it did not
}

// newWorld makes a world; end ends it.
func newWorld(f failer, dir string, limit int64) *world {
	w := &world{
		failer: f, disk: durabletest.New(durabletest.Options{}), index: &indexFile{root: dir, left: []folder{emptyIndex()}}, limit: limit,
		public: newOrigin(), private: newOrigin(), stranger: newOrigin(), removed: map[oci.Digest]time.Time{},
	}
	w.private.private = true
	for _, k := range library() {
		o := w.origin(k)
		if o.blobs[k.d] = k.data; k.manifest {
			m := &Manifest{Bytes: k.data, MediaType: oci.MediaTypeOCIManifest, Digest: k.d}
			o.named[k.tag()], o.named[k.d.String()] = m, m
		}
	}
	w.seam = &durabletest.Faulty{Choose: w.choose}
	return w
}

// inBubble tells a story in a bubble: time passes when all else is done, and no
// goroutine may be left at its end. It gives the first complaint.
func inBubble(t *testing.T, limit int64, tell func(w *world)) string {
	f, dir := &firstError{}, t.TempDir()
	defer os.RemoveAll(dir)
	synctest.Test(t, func(*testing.T) {
		w := newWorld(f, dir, limit)
		tell(w)
		w.end()
	})
	return f.text
}

// work is a content that upstream has.
type work struct {
	i        int
	d        oci.Digest
	data     []byte
	private  bool
	manifest bool
}

func (k work) tag() string { return fmt.Sprint("v", k.i) }

func (w *world) origin(k work) *origin {
	if k.private {
		return w.private
	}
	return w.public
}

// repo is the repository that k is pulled from.
func (w *world) repo(k work) *Repository {
	if k.private {
		return w.private.repo("private")
	}
	return w.public.repo("public")
}

func (w *world) ref(k work) oci.Reference {
	return oci.Reference{Repository: w.repo(k).Repository, Tag: k.tag()}
}

// library are the contents: of all the sizes that are treated in another way,
// some private, some manifests. Small where they can be: each is hashed often.
var library = sync.OnceValue(func() (all []work) {
	for i, size := range []int{1, 9000, 100 << 10, 260 << 10, 280 << 10, 270<<10 + 1, 500, 40 << 10, 265 << 10, 256<<10 + 1, 290 << 10, 300 << 10} {
		data := noise(size, uint64(500+i))
		all = append(all, work{i: i, d: oci.FromBytes(data), data: data, private: i == 5 || i == 7})
	}
	for i := len(all); i < 15; i++ {
		o := newOrigin()
		layers := o.image(o.put(all[(i*3)%12].data), o.put(all[(i*5+1)%12].data))
		data := []byte(strings.TrimSuffix(layers, "}") + `,"annotations":{"x":"` + strings.Repeat("x", (i-12)*20000) + `"}}`)
		all = append(all, work{i: i, d: oci.FromBytes(data), data: data, manifest: true, private: i == 14})
	}
	return all
})

// choose sees each operation before it is done.
func (w *world) choose(op durabletest.Op) *durabletest.Fault {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cut || w.killed {
		return nil
	}
	if d, ok := digestIn(op.Name); ok && (op.Kind == "remove" || op.Kind == "rename" && strings.HasPrefix(op.Name, "fills/")) {
		w.removed[d] = time.Now()
	}
	if op.Kind == "readdir" && op.Name == "." {
		w.root = w.besides()
	}
	if w.capped {
		w.over = max(w.over, w.disk.Used()+w.index.size()-w.limit)
	}
	if w.fault == nil {
		return nil
	}
	return w.fault(op)
}

// faultAt sets what happens to operations from here on.
func (w *world) faultAt(choose func(durabletest.Op) *durabletest.Fault) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fault = choose
}

func digestIn(name string) (oci.Digest, bool) {
	parts := strings.Split(name, "/")
	if len(parts) != 4 {
		return oci.Digest{}, false
	}
	d, err := oci.ParseDigest(parts[1] + ":" + parts[3])
	return d, err == nil
}

// besides is what the files beside the two trees take: the account looks at
// them once, at the start.
func (w *world) besides() (n int64) {
	for _, name := range []string{"cistern.lock", "VERSION", "boot", "clean", "rebuild"} {
		if fi, err := w.disk.Lstat(name); err == nil {
			n += durable.Allocated(fi)
		}
	}
	return n
}

// start begins a process.
func (w *world) start() {
	w.mu.Lock()
	w.seam.FS, w.faulted, w.cut, w.killed, w.dark = w.disk, false, false, false, false
	w.mu.Unlock()
	w.look()
	o := Options{Dir: "memory", Limit: w.limit, fs: w.seam, indexDir: w.index.dir}
	o.index = index.Options{Hook: w.index.hook, NoSync: true}
	c, err := Open(o)
	if err != nil {
		w.Errorf("it does not start: %v", err)
		o.fs, o.Dir = nil, os.DevNull
		c, _ = Open(o)
	}
	w.c = c
}

// look reads what the index says: all that may be believed.
func (w *world) look() {
	w.recorded, w.granted, w.tags = map[oci.Digest]index.Record{}, map[oci.Digest]bool{}, nil
	path := filepath.Join(w.index.dir, indexName)
	if fi, err := os.Lstat(path); err != nil || fi.Size() == 0 {
		return
	}
	x, err := index.Open(path, index.Options{NoSync: true})
	if err != nil {
		return
	}
	defer x.Close()
	for _, k := range library() {
		if rec, ok, _ := x.Get(k.d); ok && rec.FirstSeen.After(w.removed[k.d]) {
			w.recorded[k.d] = rec
		}
		if ok, _ := x.Granted(w.repo(k).Repository, k.d); ok {
			w.granted[k.d] = true
		}
	}
	for t, err := range x.Tags() {
		if err == nil {
			w.tags = append(w.tags, t)
		}
	}
}

// settle waits until nothing is under way.
func (w *world) settle() {
	time.Sleep(time.Millisecond) // what comes now is later than what was
	for range 10_000 {
		synctest.Wait()
		w.c.mu.Lock()
		busy := w.c.rebuild.running && !w.cut && !w.killed
		w.c.mu.Unlock()
		if !busy && len(w.c.flights.All()) == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	w.Errorf("it does not come to rest")
}

// pull reads a content to its end, which is to be right, whatever the disk does.
func (w *world) pull(k work) {
	got, err := w.fetch(w.repo(k), k)
	if errors.Is(err, errDamaged) { // a file that an old record vouched for was cut in time
		w.settle()
		got, err = w.fetch(w.repo(k), k)
	}
	if (err != nil || !bytes.Equal(got, k.data)) && !w.cut {
		w.Errorf("pulling content %d: %d bytes, %v", k.i, len(got), err)
	}
}

// fetch reads a blob, or a manifest by its tag. Bytes without an error are right.
func (w *world) fetch(repo *Repository, k work) ([]byte, error) {
	var c *Content
	var err error
	if k.manifest {
		c, err = w.c.Manifest(context.Background(), repo, oci.Reference{Repository: repo.Repository, Tag: k.tag()})
	} else {
		c, err = w.c.Blob(context.Background(), repo, k.d)
	}
	if err != nil {
		return nil, err
	}
	defer c.Close()
	got, err := readAll(c)
	if err == nil && !bytes.Equal(got, k.data) {
		w.Errorf("content %d: wrong bytes, %d of them, %v", k.i, len(got), c.Outcome)
	}
	if err == nil && !k.manifest && c.Size >= 0 && c.Size != int64(len(k.data)) {
		w.Errorf("content %d: a size of %d", k.i, c.Size)
	}
	return got, err
}

// pullPart begins to fetch a content, which upstream breaks off.
func (w *world) pullPart(k work) {
	if w.cut || k.manifest || len(k.data) < 2 {
		return
	}
	w.origin(k).blob = func(_ int, d oci.Digest, off, _ int64) (*Body, error) {
		half := int64(len(k.data) / 2)
		if d != k.d {
			return nil, nil
		}
		if off >= half {
			return nil, oci.ErrLimited
		}
		b, err := body(int64(len(k.data)), off, step{data: k.data[off:half]}, step{err: errReset})
		b.Private = k.private
		return b, err
	}
	got, err := w.fetch(w.repo(k), k)
	if err != nil && !bytes.HasPrefix(k.data, got) && !errors.Is(err, errDamaged) {
		w.Errorf("content %d, broken off: %d wrong bytes", k.i, len(got))
	}
	w.settle()
	w.origin(k).blob = nil
}

// ask has somebody ask for a content whom upstream does not know.
func (w *world) ask(k work) {
	if w.cut || !k.private {
		return
	}
	if got, err := w.fetch(w.stranger.repo("stranger"), k); err == nil || len(got) > 0 {
		w.Errorf("a stranger was given %d bytes of content %d", len(got), k.i)
	}
}

// begin begins to read a content; readOn reads it to its end.
func (w *world) begin(k work) {
	if w.cut || k.manifest {
		return
	}
	c, err := w.c.Blob(context.Background(), w.repo(k), k.d)
	if err != nil {
		if !w.cut && !errors.Is(err, errDamaged) {
			w.Errorf("opening content %d: %v", k.i, err)
		}
		return
	}
	w.open, w.reading = append(w.open, c), append(w.reading, k.i)
}

func (w *world) readOn(most int) {
	for len(w.open) > most {
		c, k := w.open[0], library()[w.reading[0]]
		w.open, w.reading = w.open[1:], w.reading[1:]
		got, err := readAll(c)
		if err == nil && !bytes.Equal(got, k.data) || err != nil && !w.cut && !w.killed && !errors.Is(err, errDamaged) {
			w.Errorf("content %d, read later: %d bytes, %v", k.i, len(got), err)
		}
		c.Close()
	}
}

// upstream is there or not.
func (w *world) upstream(there bool) {
	for _, o := range []*origin{w.public, w.private} {
		o.mu.Lock()
		o.sick = !there
		o.mu.Unlock()
		o.refuse = nil
		if !there {
			o.refuse = func(context.Context, string, string) error { return fmt.Errorf("cut off: %w", oci.ErrUnavailable) }
		}
	}
}

// stop ends the process in order.
func (w *world) stop() {
	if w.c == nil {
		return
	}
	w.readOn(0)
	w.settle()
	err := w.c.Close()
	if err != nil && !w.faulted && !w.cut && !w.killed {
		w.Errorf("close: %v", err)
	}
	w.atRest()
	w.c = nil
}

// atRest: nothing is promised, on its way or read.
func (w *world) atRest() {
	s := w.c.Stats()
	if s.FillsInFlight != 0 || s.FlightReaders != 0 || s.Reserved != 0 || s.EvictedOpen != 0 || s.Panics != 0 {
		w.Errorf("at rest: %d fills, %d readers, %d bytes reserved, %d evicted and open, %d panics", s.FillsInFlight, s.FlightReaders, s.Reserved, s.EvictedOpen, s.Panics)
	}
	if n := len(w.c.writing) + len(w.c.donors) + len(w.c.leaving); n != 0 {
		w.Errorf("at rest: %d digests claimed, %d donors, %d leaving", len(w.c.writing), len(w.c.donors), len(w.c.leaving))
	}
}

// end ends the world.
func (w *world) end() { w.stop() }

// off cuts the power, or kills the process, in the middle of whatever it does.
func (w *world) off(power bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = true
	w.index.freeze()
	if w.dark = power; power {
		w.disk.Crash(rand.New(rand.NewPCG(0, 0)))
	} else {
		w.disk = w.disk.Kill()
	}
}

// kill kills the process between two things that it does.
func (w *world) kill() {
	if w.cut {
		return
	}
	w.index.freeze()
	w.mu.Lock()
	w.killed, w.disk = true, w.disk.Kill()
	w.mu.Unlock()
}

// next begins the process after one that ended, in order or by off: rng says
// what is left after a power cut, nil is for all others.
func (w *world) next(rng *rand.Rand) {
	w.stop()
	if rng != nil {
		w.disk = w.disk.Crash(rng)
		w.rebooted()
	} else if !w.cut && !w.killed {
		w.disk = w.disk.Kill()
	}
	w.index.thaw(rng)
	w.start()
}

// rebooted makes the boot that the disk tells of another one than this.
func (w *world) rebooted() {
	text, err := durable.ReadFile(w.disk, "boot")
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if id = bytes.TrimSpace(id); err != nil || !bytes.HasPrefix(text, id) {
		return
	}
	f, err := w.disk.OpenFile("boot", os.O_RDWR, 0)
	if err == nil {
		_, err = f.Write(bytes.Repeat([]byte{'0'}, len(id)))
		err = errors.Join(err, f.Sync(), f.Close())
	}
	if err != nil {
		w.Errorf("a new boot: %v", err)
	}
}

// counted: the account is what lies on the disk, to the byte, and what records
// name that is not there any more.
func (w *world) counted() {
	if w.c.store == nil || w.c.rebuild.counting.Load() {
		return
	}
	w.mu.Lock()
	lies := w.disk.Used() - w.besides() + w.root
	w.mu.Unlock()
	for _, k := range library() {
		rec, ok := w.c.findStored(k.d)
		if f, err := w.c.store.OpenFile(k.d); err == nil {
			f.Close()
		} else if ok {
			lies += rec.Allocated
		}
	}
	used := w.c.store.Usage().Used - w.c.idx.Load().Footprint() - w.c.o.asideBytes()
	if used != lies && !w.cut && !w.faulted { // by this look
		w.Errorf("the account says %d bytes, %d lie there: off by %d", used, lies, used-lies)
	}
}

// kept: what was recorded is here, without upstream.
func (w *world) kept() {
	w.upstream(false)
	defer w.upstream(true)
	for _, k := range library() {
		rec, ok := w.recorded[k.d]
		switch {
		case !ok || rec.Class == index.ClassManifest != k.manifest || w.evicted(rec):
			continue
		case k.manifest:
			w.hasTag(k)
			data, rec, ok := w.c.small(k.d, maxManifest)
			if !ok || !bytes.Equal(data, k.data) || rec.Class != index.ClassManifest {
				w.Errorf("manifest %d was recorded, and is lost", k.i)
			}
		case !k.private || w.granted[k.d]:
			if got, err := w.fetch(w.repo(k), k); err != nil {
				w.Errorf("content %d was recorded, and is lost: %d bytes, %v", k.i, len(got), err)
			}
		}
	}
	w.settle()
}

// evicted tells whether a blob went since the process began. Where there is room
// for all nothing is to go.
func (w *world) evicted(rec index.Record) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.limit <= storyLimit && !rec.FirstSeen.After(w.removed[rec.Digest])
}

func (w *world) hasTag(k work) {
	for _, t := range w.tags {
		if t.Reference != w.ref(k) {
			continue
		}
		if now, ok := w.c.tag(t.Reference); !ok || now.Target.Digest != t.Target.Digest {
			w.Errorf("tag %s was recorded, and is lost", t.Reference)
		}
	}
}

// well: a process without faults finds what was recorded, has the account right
// and the cap kept, and can get everything.
func (w *world) well() {
	if w.c.store == nil {
		w.Errorf("no disk: %s", w.c.degraded)
		return
	}
	w.settle()
	w.counted()
	w.kept()
	w.counted()
	for _, k := range library() {
		w.ask(k)
		w.pull(k)
		w.settle()
	}
	w.checkpoint()
	w.counted()
	if u := w.c.store.Usage(); u.Limit > 0 && u.Used > u.Limit {
		w.Errorf("%d bytes used of %d", u.Used, u.Limit)
	}
	w.sound()
}

// sound: a record means a right file.
func (w *world) sound() {
	for _, k := range library() {
		rec, ok := w.c.findStored(k.d)
		if !ok {
			continue
		}
		f, err := w.c.store.OpenFile(k.d)
		if err != nil {
			w.Errorf("content %d has a record and no file: %v", k.i, err)
			continue
		}
		got := make([]byte, f.Size)
		_, err = io.ReadFull(f, got)
		if err != nil || !bytes.Equal(got, k.data) || rec.Size != int64(len(got)) {
			w.Errorf("content %d has a record and a wrong file: %d bytes, %v", k.i, len(got), err)
		}
		f.Close()
	}
}
