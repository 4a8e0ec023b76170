package disk_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cistern/test/lab"
)

// isGone waits until the cache has no file of a blob.
func (r *rig) isGone(b *blob) {
	r.t.Helper()
	r.until(func() error {
		for _, tree := range []string{"fills", "blobs"} {
			if _, err := os.Lstat(r.in(b.file(tree))); !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("it lies in %s (%v)", tree, err)
			}
		}
		return nil
	})
}

// TestWriteFails is FAULTS row 33 for a write: the disk refuses the first bytes of a blob, or those in its middle. Who reads it
// goes on without noticing, its file is dropped, the daemon says so; when the disk is well again the blob is kept.
func TestWriteFails(t *testing.T) {
	atWrites(t, "error=EIO", func(r *rig, b *blob, old []*blob, fault *injection) {
		r.isGone(b)
		r.says("does not take new blobs", "input/output error")
		if r.daemon.Metric(r.t, "cistern_cache_degraded") != 1 || r.daemon.Metric(r.t, "cistern_fills_unbacked_total") == 0 {
			r.t.Error("the metrics do not say that it went past the disk")
		}
		r.misses(b)
		r.hits(old...)
		fault.release()
		r.keeps(b)
		r.isReady()
		r.recorded(b)
	})
}

// atWrites has a fault happen to the first write of a blob, or to one in its middle. Hits of old blobs are served, and two who
// read the one that is written read it to its end; then comes after.
func atWrites(t *testing.T, what string, after func(r *rig, b *blob, old []*blob, fault *injection)) {
	for _, c := range []struct {
		name string
		held int64
	}{{"at the first byte", 0}, {"in the middle", mib + 5}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := start(t, settings{})
			old := []*blob{r.blob(5 * mib), r.blob(20_000)}
			r.recorded(old...)
			b := r.gated(3*mib, c.held)
			first, second := r.ask(b), r.ask(b)
			defer first.close()
			defer second.close()
			if a := first.read(min(c.held, 1)); a.err != nil {
				t.Fatal(a.err)
			}
			fault := r.inject(r.in(b.file("fills")), "pwrite64", what)
			close(b.gate)
			fault.meets()
			r.hits(old...)
			for _, reader := range []*body{first, second} {
				if a := reader.read(-1); a.err != nil {
					t.Errorf("%q: %v", a.outcome, a.err)
				}
			}
			after(r, b, old, fault)
		})
	}
}

// TestSyncFails is FAULTS row 33 for an fsync: of a blob's file (or the call that begins to write it out), of its folder, of the
// folder above a new one. Nobody notices, and the blob is dropped: it is neither recorded nor synced a second time, since a second
// fsync would say yes and lie. It is fetched again when it is asked for.
func TestSyncFails(t *testing.T) {
	for _, c := range []struct {
		name, calls string
		of          func(file string) string
		others      bool // other blobs are recorded meanwhile
	}{
		{"of the file", "fsync", func(f string) string { return f }, true},
		{"of the file, early", "sync_file_range", func(f string) string { return f }, true},
		{"of the folder", "fsync", path.Dir, true},
		{"of the folder above", "fsync", func(f string) string { return path.Dir(path.Dir(f)) }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := start(t, settings{})
			canary, b, other := r.blob(300_000), r.blob(3*mib), r.blob(400_000)
			r.recorded(canary)
			fault := r.inject(r.in(c.of(b.file("fills"))), c.calls, "error=EIO")
			r.misses(b)
			fault.meets()
			r.says("does not take new blobs", "syncing a blob")
			r.isGone(b)
			if c.others {
				r.recorded(other) // so another checkpoint has passed
				if n := fault.met(); n != 1 {
					t.Errorf("%d calls: it was tried again", n)
				}
			}
			r.hits(canary)
			if r.misses(b); r.asked(b) != 2 {
				t.Errorf("upstream was asked %d times", r.asked(b))
			}
			r.isGone(b)
			fault.release()
			r.keeps(b)
			r.isReady()
			r.recorded(b)
			r.accounts()
			r.daemon.Kill()
			r.restart()
			r.off.Store(true)
			r.hits(b, canary)
		})
	}
}

// TestIndexFails is FAULTS row 33 for the index: its commits fail, in the write or in the fsync, and so does each try to make a
// new one. Hits go on from what lies on disk and new blobs are streamed; once the disk is well there is a new index, of the blobs
// and of the tags of the old one.
func TestIndexFails(t *testing.T) {
	for _, c := range []struct{ name, calls string }{{"fsync", "fdatasync"}, {"write", "pwrite64"}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := start(t, settings{})
			layers := []*blob{r.blob(300_000), r.blob(20_000), r.blob(2 * mib)}
			cached := append(layers, r.image("one", layers...))
			r.recorded(cached...)
			fault := r.inject(r.in("index.db"), c.calls, "error=EIO")
			fresh := r.blob(mib)
			r.misses(fresh)
			r.isNot("the index failed")
			r.hits(append(cached, fresh)...)
			r.pull(r.blob(700), r.blob(3*mib))
			tries := func() int { return strings.Count(r.daemon.Output(), "the index failed and is built anew") }
			r.until(func() error { // not even a second try that fails may cost what the old one has
				if n := tries(); n < 2 {
					return fmt.Errorf("%d tries", n)
				}
				return nil
			})
			r.off.Store(true)
			r.hits(cached...)
			r.off.Store(false)
			fault.release()
			r.isReady()
			r.metric("cistern_rebuild_running", equal(0))
			if _, err := os.Stat(r.in("index.db.broken")); err != nil {
				t.Error(err)
			}
			r.recorded(r.blob(mib))
			r.stop()
			r.restart()
			r.off.Store(true)
			r.hits(append(cached, fresh)...)
			r.accounts()
		})
	}
}

// TestThinVolume is FAULTS row 33 on a device that lies: writes are taken into memory and find no room when they are to reach the
// disk (a file in a full file system below it). What comes back from such a disk may be wrong without any error: pulls are whole
// all the same, now, after a kill, and when the disk has its room again.
func TestThinVolume(t *testing.T) {
	t.Parallel()
	below := lab.NewVolume(t, lab.VolumeOptions{Kind: "tmpfs", Size: 40 * mib})
	v := lab.NewVolume(t, lab.VolumeOptions{Kind: "ext4", Size: 160 * mib, Within: below.Dir})
	r := start(t, settings{dir: filepath.Join(v.Dir, "cache")})
	canary := r.blob(300_000)
	r.recorded(canary)
	fill(t, below, 0)
	var bs []*blob
	for i := range 20 {
		bs = append(bs, r.blob(mib+i*100_000))
	}
	r.misses(bs...)
	r.pull(bs...)
	r.says("does not take new blobs")
	r.pull(append(bs, canary)...)
	r.daemon.Kill()
	r.forget() // from here on it reads what has reached the device
	r.restart()
	r.pull(append(bs, canary)...)
	r.pull(bs...)
	r.daemon.Kill()
	if err := os.Remove(filler(below)); err != nil {
		t.Fatal(err)
	}
	v.Mend(t)
	r.restart()
	r.pull(append(bs, canary)...)
	r.keeps(bs...)
	r.accounts()
}

// forget takes all files of the directory out of the page cache.
func (r *rig) forget() {
	r.t.Helper()
	err := filepath.WalkDir(r.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		return errors.Join(unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED), f.Close())
	})
	if err != nil {
		r.t.Fatal(err)
	}
}
