package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cistern/cache/blob"
	"cistern/cache/index"
	"cistern/internal/durable/durabletest"
	"cistern/internal/oci"
)

// account compares what the cache says it takes with what lies on disk. They
// differ by the index's margin, which is known, and by a few folders; and for a
// moment by what the evictor is just removing.
func (r *rig) account() {
	r.t.Helper()
	r.checkpoint()
	used, disk := r.taken()
	for range 500 {
		if !tooFar(used, disk) {
			return
		}
		<-time.After(10 * time.Millisecond) // also in a bubble, where no time passes for who does not wait
		used, disk = r.taken()
	}
	r.t.Errorf("the account says %d bytes, %d lie on disk: off by %d", used, disk, used-disk)
}

func tooFar(used, disk int64) bool { return used-disk < -64<<10 || used-disk > 64<<10 }

func (r *rig) taken() (used, disk int64) {
	r.t.Helper()
	err := filepath.WalkDir(r.o.Dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil // removed meanwhile
		}
		if fi, err := e.Info(); err == nil {
			disk += fi.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return nil
	})
	if err != nil {
		r.t.Error(err)
	}
	return r.store.Usage().Used - (r.idx.Load().Footprint() - r.idx.Load().FileSize()), disk
}

// TestIndexGrowthIsCounted: whatever makes the index grow.
func TestIndexGrowthIsCounted(t *testing.T) {
	t.Parallel()
	c := open(t, Options{index: index.Options{NoSync: true}})
	c.syncing.Lock() // no checkpoints
	defer c.syncing.Unlock()
	x := c.idx.Load()
	others, before := c.store.Usage().Used-x.Footprint(), x.Footprint()
	var b index.Batch
	for i := range 3000 {
		b.Put = append(b.Put, index.Record{Digest: oci.FromBytes(fmt.Append(nil, i)), Size: 1, Class: index.ClassSmall})
	}
	if err := x.Apply(b); err != nil {
		t.Fatal(err)
	}
	if x.Footprint() == before {
		t.Fatal("it did not grow")
	}
	if n := c.store.Usage().Used - x.Footprint(); n != others {
		t.Errorf("it grew by %d bytes, the account by %d", x.Footprint()-before, n-others+x.Footprint()-before)
	}
}

// path is where a blob lies.
func (r *rig) path(tree string, d oci.Digest) string {
	return filepath.Join(r.o.Dir, tree, d.Algorithm(), d.Hex()[:2], d.Hex())
}

// TestRemovedOnce: a file that vanished is noticed by many at once; its space
// is given back by one of them.
func TestRemovedOnce(t *testing.T) {
	t.Parallel()
	o, c := newOrigin(), open(t, Options{})
	d := o.put(noise(3*mib, 20))
	c.want(o.repo("a"), d, OutcomeMiss)
	c.idle()
	c.checkpoint()
	for range 5 {
		rec, ok := c.findStored(d)
		if !ok {
			t.Fatal("it is not here")
		}
		if err := os.Remove(c.path("blobs", d)); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if _, ok := c.openStored(rec); ok {
					t.Error("opened what is not there")
				}
			})
		}
		wg.Wait()
		c.account()
		c.want(o.repo("a"), d, OutcomeMiss)
		c.idle()
		c.account()
	}
}

// TestPlanted: a file that somebody puts where a blob belongs is no blob, it
// makes room for the right one, and nothing is given back that was never
// counted. FAULTS row 50.
func TestPlanted(t *testing.T) {
	t.Parallel()
	o, c := newOrigin(), open(t, Options{})
	for seed, size := range []int{3 * mib, 200 << 10} {
		d := o.put(noise(size, uint64(70+seed)))
		file := c.path("blobs", d)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, noise(size, 1), 0o600)); err != nil {
			t.Fatal(err)
		}
		c.want(o.repo("a"), d, OutcomeMiss)
		c.idle()
		c.want(o.repo("a"), d, OutcomeHit)
	}
	c.account()
}

// TestEvictedWhileChosen: what one chooses to remove another has removed.
func TestEvictedWhileChosen(t *testing.T) {
	t.Parallel()
	o, c := newOrigin(), open(t, Options{})
	d := o.put(noise(3*mib, 21))
	c.want(o.repo("a"), d, OutcomeMiss)
	c.idle()
	c.checkpoint()
	rec, _ := c.findStored(d)
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() { c.drop(rec, index.Removed) })
		wg.Go(func() { c.expel([]index.Record{rec}) })
	}
	wg.Wait()
	c.account()
	if s := c.Stats(); s.EvictedBlobs > 1 {
		t.Errorf("evicted %d times", s.EvictedBlobs)
	}
	c.want(o.repo("a"), d, OutcomeMiss)
	c.idle()
	if c.expel([]index.Record{rec}) {
		t.Error("expelled what was fetched anew since")
	}
	c.want(o.repo("a"), d, OutcomeHit)
}

// TestEvictionThatCannotUnlink gives up instead of trying for ever, and the
// cache still closes.
func TestEvictionThatCannotUnlink(t *testing.T) {
	t.Parallel()
	var stuck atomic.Bool
	o, c := newOrigin(), faultyRig(t, Options{Limit: 64 * mib}, func(op durabletest.Op) *durabletest.Fault {
		if op.Kind == "remove" && stuck.Load() {
			return &durabletest.Fault{Err: syscall.EROFS}
		}
		return nil
	})
	d := o.put(noise(3*mib, 22))
	c.want(o.repo("a"), d, OutcomeMiss)
	c.idle()
	c.checkpoint()
	stuck.Store(true)
	defer stuck.Store(false)
	c.store.AddUsed(60 * mib)
	defer c.store.AddUsed(-60 * mib)
	if c.store.Wanted() == 0 {
		t.Fatal("nothing is wanted")
	}
	if c.evictSome() {
		t.Error("evictSome says that it freed something")
	}
	if c.Stats().Degraded == "" {
		t.Error("nobody was told")
	}
	c.want(o.repo("a"), d, OutcomeHit) // what lies there is as it was
}

// TestOneManifestFromAllSides: by tag, by digest and from several repositories
// at once it is written once, and counted once.
func TestOneManifestFromAllSides(t *testing.T) {
	t.Parallel()
	for round := range 5 {
		o, c := newOrigin(), open(t, Options{})
		text := `{"schemaVersion":2,"annotations":{"x":"` + string(bytes.Repeat([]byte{'a' + byte(round)}, mib)) + `"}}`
		d := o.tag("v1", text)
		o.tag("v2", text)
		var wg sync.WaitGroup
		for i := range 24 {
			ref := []oci.Reference{{Tag: "v1"}, {Tag: "v2"}, {Digest: d}}[i%3]
			repo := o.repo([]string{"a", "b", "c"}[i/8])
			ref.Repository = repo.Repository
			wg.Go(func() {
				if m, err := c.Manifest(t.Context(), repo, ref); err != nil || m.Digest != d || string(m.Bytes) != text {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		c.account()
		if _, here := c.findStored(d); !here {
			t.Error("it was not kept")
		}
	}
}

// TestBlobThatIsAManifest: one that came as a blob first is a manifest from
// then on, and its bytes are there once.
func TestBlobThatIsAManifest(t *testing.T) {
	t.Parallel()
	o, c := newOrigin(), open(t, Options{})
	text := `{"schemaVersion":2,"annotations":{"x":"` + string(bytes.Repeat([]byte{'a'}, mib)) + `"}}`
	d := o.tag("v1", text)
	o.put([]byte(text))
	repo := o.repo("a")
	c.want(repo, d, OutcomeMiss)
	c.idle()
	c.checkpoint()
	for _, want := range []Outcome{OutcomeMiss, OutcomeHit} {
		m, err := c.Manifest(t.Context(), repo, oci.Reference{Repository: repo.Repository, Digest: d})
		if err != nil || m.Outcome != want || m.MediaType != oci.MediaTypeOCIManifest {
			t.Errorf("%v, %+v", err, m)
		}
		c.account()
	}
}

// TestRemove: shared layers stay, and what goes is counted, hot or not.
func TestRemove(t *testing.T) {
	t.Parallel()
	o, c := newOrigin(), open(t, Options{})
	repo := o.repo("a")
	shared, own, small := o.put(noise(mib, 23)), o.put(noise(2*mib, 24)), o.put(noise(1000, 25))
	o.tag("v1", o.image(shared, own, small))
	o.tag("v2", o.image(shared))
	for _, tag := range []string{"v1", "v2"} {
		if _, err := c.Manifest(t.Context(), repo, oci.Reference{Repository: repo.Repository, Tag: tag}); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []oci.Digest{shared, own, small} {
		c.want(repo, d, OutcomeMiss)
	}
	c.idle()
	removed, err := c.Remove(oci.Reference{Repository: repo.Repository, Tag: "v1"})
	if err != nil || removed.Tags != 1 || removed.Blobs != 3 || removed.Bytes < 2*mib+2*4096 {
		t.Errorf("%+v, %v", removed, err)
	}
	c.account()
	c.want(repo, shared, OutcomeHit)
	c.want(repo, own, OutcomeMiss)
	c.want(repo, small, OutcomeMiss)
	c.idle()
}

// TestEverythingAtOnce has fetches, removals, evictions and checkpoints run
// into each other; the account must be right afterwards and no byte wrong.
func TestEverythingAtOnce(t *testing.T) {
	t.Parallel()
	o, c := newOrigin(), open(t, Options{Limit: 64 * mib})
	var ds []oci.Digest
	for i := range 40 {
		ds = append(ds, o.put(noise(2*mib+i*1000, uint64(100+i))))
	}
	stop, others := make(chan struct{}), sync.WaitGroup{}
	for _, disturb := range []func(i int){
		func(int) { c.checkpoint() },
		func(i int) {
			if rec, ok := c.findStored(ds[i%len(ds)]); ok {
				c.drop(rec, index.Removed)
			}
		},
		func(i int) { c.freshVictimsOf(1 << 20) },
	} {
		others.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
					disturb(i)
				}
			}
		})
	}
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 15 {
				d := ds[(i*7+w*11)%len(ds)]
				data, _, err := c.get(o.repo("a"), d)
				if err != nil && !errors.Is(err, errUnsettled) || err == nil && oci.FromBytes(data) != d {
					t.Errorf("%d bytes, %v", len(data), err)
				}
				if used := c.Stats().Bytes; used > 64*mib || used < 0 {
					t.Errorf("%d bytes used", used)
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	others.Wait()
	c.idle()
	c.account()
}

// freshVictimsOf evicts as the evictor does when nothing is recorded yet.
func (r *rig) freshVictimsOf(want int64) { r.expel(r.freshVictims(want)) }

// TestNoRoom: a blob beyond the cap streams past the disk, for each reader by
// itself, with its last byte held back.
func TestNoRoom(t *testing.T) {
	t.Parallel()
	for _, unknown := range []bool{false, true} {
		for _, wrong := range []bool{false, true} {
			t.Run(fmt.Sprintf("unknown %v, wrong %v", unknown, wrong), func(t *testing.T) {
				t.Parallel()
				o, c := newOrigin(), open(t, Options{Limit: 12 * mib})
				const size = 20*mib + 3
				data := noise(size, 26)
				d := o.put(data)
				sent := bytes.Clone(data)
				if wrong {
					sent[size-1] ^= 1
				}
				said := int64(size)
				if unknown {
					said = -1
				}
				o.blob = func(_ int, _ oci.Digest, off, _ int64) (*Body, error) { return body(said, off, step{data: sent[off:]}) }
				var wg sync.WaitGroup
				for range 3 {
					wg.Go(func() {
						got, outcome, err := c.get(o.repo("a"), d)
						if wrong && (len(got) >= size || !errors.Is(err, oci.ErrCorrupt)) || !wrong && (err != nil || oci.FromBytes(got) != d) {
							t.Errorf("%d bytes, %v, %v", len(got), outcome, err)
						}
					})
				}
				wg.Wait()
				c.idle()
				if c.Stats().Unbacked == 0 {
					t.Error("the disk took it")
				}
				c.account()
			})
		}
	}
}

// TestRangeWithoutRoom: ranges past the disk are what they should be.
func TestRangeWithoutRoom(t *testing.T) {
	t.Parallel()
	o, c := newOrigin(), open(t, Options{Limit: 12 * mib})
	data := noise(20*mib, 27)
	d := o.put(data)
	content, err := c.Blob(t.Context(), o.repo("a"), d)
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	for _, off := range []int64{5 * mib, 0, 19 * mib, 1} {
		if _, err := content.Reader.Seek(off, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 100000)
		if _, err := io.ReadFull(content.Reader, got); err != nil || !bytes.Equal(got, data[off:off+100000]) {
			t.Errorf("at %d: %v", off, err)
		}
	}
}

// TestDiskFailsInTheMiddle: the file that grows cannot grow on; the readers do
// not notice, unless the bytes are wrong.
func TestDiskFailsInTheMiddle(t *testing.T) {
	t.Parallel()
	for _, wrong := range []bool{false, true} {
		o, c := newOrigin(), open(t, Options{Limit: 24 * mib})
		const size = 30 * mib
		data := noise(size, 28)
		d := o.put(data)
		sent := bytes.Clone(data)
		if wrong {
			sent[size-1] ^= 1
		}
		rest := make(chan struct{})
		o.blob = func(n int, _ oci.Digest, off, _ int64) (*Body, error) {
			if n == 1 { // no length: space is taken step by step, until there is none
				return body(-1, 0, step{data: sent[:2*mib]}, step{wait: rest, data: sent[2*mib:]})
			}
			return body(-1, off, step{data: sent[off:]})
		}
		content, err := c.Blob(t.Context(), o.repo("a"), d)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, mib)
		if _, err := io.ReadFull(content.Reader, got); err != nil {
			t.Fatal(err)
		}
		close(rest)
		more, err := io.ReadAll(content.Reader)
		got = append(got, more...)
		if wrong && (len(got) >= size || !errors.Is(err, oci.ErrCorrupt)) || !wrong && (err != nil || oci.FromBytes(got) != d) {
			t.Errorf("wrong %v: %d bytes, %v", wrong, len(got), err)
		}
		if n := o.count("blob"); n != 2 {
			t.Errorf("%d requests: the reader did not go past the disk", n)
		}
		content.Close()
		c.idle()
		c.account()
	}
}

func TestSecondProcess(t *testing.T) {
	t.Parallel()
	c := open(t, Options{})
	if _, err := Open(Options{Dir: c.o.Dir}); !errors.Is(err, blob.ErrLocked) {
		t.Errorf("%v", err)
	}
}

// TestNoDisk: everything streams, and nothing gathers in memory.
func TestNoDisk(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	o, c := newOrigin(), open(t, Options{Dir: file})
	o.private = true
	repo := o.repo("a")
	for i := range 50 {
		d := o.put(noise(100+i, uint64(i)))
		o.tag(fmt.Sprint("v", i), o.image(d))
		ref := oci.Reference{Repository: repo.Repository, Tag: fmt.Sprint("v", i)}
		if _, err := c.Manifest(context.Background(), repo, ref); err != nil {
			t.Fatal(err)
		}
		c.want(repo, d, OutcomeMiss)
		c.idle()
		c.want(repo, d, OutcomeHit)
	}
	big := o.put(noise(3*mib, 29))
	c.want(repo, big, OutcomePass)
	if n := len(c.touched) + len(c.newTags) + len(c.newGrant) + len(c.goneTags) + len(c.pending); n != 0 {
		t.Errorf("%d entries wait for a checkpoint that never comes", n)
	}
	if c.Ready() == nil {
		t.Error("ready")
	}
}
