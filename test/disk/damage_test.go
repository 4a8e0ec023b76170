package disk_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A damage is one thing that somebody else does to the file of a cached blob.
type damage struct {
	name string
	do   func(file string) error
}

// damages are what FAULTS row 35 names. Each blob is 3 MiB.
var damages = []damage{
	{"truncated", func(f string) error {
		fi, err := os.Stat(f)
		return errors.Join(err, os.Truncate(f, fi.Size()*3/4))
	}},
	{"emptied", func(f string) error { return os.Truncate(f, 0) }},
	{"extended", func(f string) error { return appendTo(f, "more") }},
	{"deleted", os.Remove},
	{"replaced by another file", func(f string) error {
		return errors.Join(os.Remove(f), os.WriteFile(f, []byte("something else"), 0o600))
	}},
	{"replaced by a folder", func(f string) error { return errors.Join(os.Remove(f), os.Mkdir(f, 0o700)) }},
	{"replaced by a full folder", func(f string) error { return errors.Join(os.Remove(f), os.MkdirAll(f+"/a/b", 0o700)) }},
	{"replaced by a link to itself, moved", func(f string) error {
		return errors.Join(os.Rename(f, f+".elsewhere"), os.Symlink(f+".elsewhere", f))
	}},
	{"replaced by a link to a device", func(f string) error { return errors.Join(os.Remove(f), os.Symlink("/dev/zero", f)) }},
	{"replaced by a fifo", func(f string) error { return errors.Join(os.Remove(f), unix.Mkfifo(f, 0o600)) }},
	{"its folder deleted", func(f string) error { return os.RemoveAll(filepath.Dir(f)) }},
	{"its folder replaced by a file", func(f string) error {
		return errors.Join(os.RemoveAll(filepath.Dir(f)), os.WriteFile(filepath.Dir(f), nil, 0o600))
	}},
	{"its folder replaced by a link", func(f string) error {
		dir := filepath.Dir(f)
		return errors.Join(os.Rename(dir, dir+".elsewhere"), os.Symlink(dir+".elsewhere", dir))
	}},
}

func appendTo(file, text string) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// TestDamagedIdle is FAULTS row 35, for a blob that nobody reads: it is found at the next request, whose answer is whole and from
// upstream; nothing is followed, nothing blocks; the blob is kept again where that is possible at all.
func TestDamagedIdle(t *testing.T) {
	for _, d := range damages {
		for _, size := range []int{3 * mib, 20_000} {
			name := d.name
			if size < mib {
				name += ", small"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				r := start(t, settings{})
				b, beside := r.blob(size), r.blob(300_000)
				r.recorded(b, beside)
				if size < mib { // else it is served from memory
					r.stop()
					r.restart()
				}
				file := r.in(b.file("blobs"))
				if err := d.do(file); err != nil {
					t.Fatal(err)
				}
				if r.misses(b); r.asked(b) != 2 {
					t.Errorf("upstream was asked %d times for it", r.asked(b))
				}
				r.pull(b, b)
				r.hits(beside)
				if strings.HasPrefix(d.name, "its folder") || d.name == "replaced by a full folder" {
					return // ours to leave alone: what cannot be kept there is streamed
				}
				r.keeps(b)
				if fi, err := os.Lstat(file); err == nil && !fi.Mode().IsRegular() {
					// It lies in fills/ until somebody takes the thing away.
					t.Logf("%s stays", fi.Mode())
				}
				r.stop()
				r.restart()
				r.keeps(b)
			})
		}
	}
}

// TestDamagedOpen is FAULTS rows 34 and 35, for a blob that a client is reading: it gets all of the right bytes, and the blob is
// fetched again.
func TestDamagedOpen(t *testing.T) {
	for _, d := range damages {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			r := start(t, settings{})
			b := r.blob(24 * mib) // more than all that lies in sockets
			r.recorded(b)
			reader := r.ask(b)
			defer reader.close()
			if a := reader.read(100_000); a.err != nil || !strings.Contains(a.outcome, "hit") {
				t.Fatalf("%q: %v", a.outcome, a.err)
			}
			if err := d.do(r.in(b.file("blobs"))); err != nil {
				t.Fatal(err)
			}
			if a := reader.read(-1); a.err != nil {
				t.Errorf("%v", a.err)
			}
			r.pull(b, b)
		})
	}
}

// TestDamagedOpenAlone is FAULTS row 34 with upstream off: what is not there any more cannot be sent. The client sees a cut, and no
// wrong byte; when upstream is back the blob is whole again.
func TestDamagedOpenAlone(t *testing.T) {
	t.Parallel()
	r := start(t, settings{})
	b := r.blob(24 * mib)
	r.recorded(b)
	reader := r.ask(b)
	defer reader.close()
	if a := reader.read(100_000); a.err != nil {
		t.Fatal(a.err)
	}
	r.off.Store(true)
	if err := os.Truncate(r.in(b.file("blobs")), 18*mib); err != nil {
		t.Fatal(err)
	}
	if a := reader.read(-1); a.err == nil || errors.Is(a.err, errWrong) || a.n < 18*mib-mib {
		t.Errorf("not cut: %v", a.err)
	}
	r.off.Store(false)
	r.keeps(b)
}

// TestTruncatedInFlight is the one way in which a file that changes while it is sent reaches the client: what sendfile hands to a
// socket are the pages of the file, and a truncation zeroes the rest of the page in which the file now ends. The daemon sees the
// end before its own offset, and cuts: there is no complete answer.
func TestTruncatedInFlight(t *testing.T) {
	t.Parallel()
	r := start(t, settings{})
	b := r.blob(24 * mib)
	r.recorded(b)
	reader := r.ask(b)
	defer reader.close()
	if a := reader.read(100_000); a.err != nil {
		t.Fatal(a.err)
	}
	if err := os.Truncate(r.in(b.file("blobs")), 100_001); err != nil {
		t.Fatal(err)
	}
	if a := reader.read(-1); a.err == nil {
		t.Log("all of it was right")
	} else if n, err := io.Copy(io.Discard, reader.resp.Body); err == nil {
		t.Errorf("a complete answer with wrong bytes (%v), %d bytes behind them", a.err, n)
	}
	r.pull(b)
	r.keeps(b)
}

// TestFlipped is FAULTS row 35 for a byte that is another one: the size is right, so nobody notices before all of it is read. A
// small object is verified whenever it is read from disk; a large one is served as it lies there until a scrub finds it, which is
// for a later version. The test says so, to be turned round then.
func TestFlipped(t *testing.T) {
	t.Parallel()
	r := start(t, settings{})
	small, large := r.blob(20_000), r.blob(3*mib)
	r.recorded(small, large)
	r.stop() // the small one is in memory else
	for _, b := range []*blob{small, large} {
		f, err := os.OpenFile(r.in(b.file("blobs")), os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.WriteAt([]byte{^b.data[10_000]}, 10_000)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	r.restart()
	r.misses(small)
	r.keeps(small)
	if a := r.get(large); !errors.Is(a.err, errWrong) {
		t.Errorf("the flipped byte was found (%v): say so in docs/faults.md, and turn this test round", a.err)
	}
}

// TestDeletedTrees is FAULTS row 51: somebody deletes blobs/, fills/, the index or all of the cache directory under a daemon at
// work. Pulls go on, whole; what is gone is fetched again; no counter goes below zero.
func TestDeletedTrees(t *testing.T) {
	for _, c := range []struct{ name, what string }{
		{"blobs", "blobs"}, {"fills", "fills"}, {"index", "index.db"}, {"everything in it", "*"}, {"the directory itself", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "cache")
			r := start(t, settings{dir: dir})
			var bs []*blob
			for i := range 12 {
				bs = append(bs, r.blob(1000+i*200_000))
			}
			bs = append(bs, r.image("one", bs...))
			r.recorded(bs...)
			gated := r.gated(2*mib, mib)
			growing := r.ask(gated)
			defer growing.close()
			open := r.ask(bs[11])
			defer open.close()
			growing.read(100_000)
			open.read(1000)
			paths, err := filepath.Glob(filepath.Join(dir, c.what))
			if err != nil || len(paths) == 0 {
				t.Fatalf("nothing to delete: %v", err)
			}
			for _, p := range paths {
				if err := os.RemoveAll(p); err != nil {
					t.Fatal(err)
				}
			}
			close(gated.gate)
			for _, reader := range []*body{growing, open} {
				if a := reader.read(-1); a.err != nil {
					t.Errorf("%q: %v", a.outcome, a.err)
				}
			}
			for range 3 {
				for _, b := range bs {
					r.pull(b)
					if n := r.daemon.Metric(t, "cistern_cache_bytes"); n < 0 {
						t.Fatalf("the cache takes %v bytes", n)
					}
				}
			}
			r.pull(gated, r.blob(300_000), r.blob(3*mib))
			if c.what == "" {
				r.isNot("no such file")
				r.says("cache directory", "streamed")
				if _, err := os.Stat(dir); err == nil {
					t.Error("the directory was made again, perhaps over a mount point that has vanished")
				}
				r.down = true // it cannot leave a mark of a clean stop
				return
			}
			r.keeps(bs...)
			r.isReady()
			if c.what == "blobs" || c.what == "fills" { // else the index has no name any more
				r.accounts()
			}
		})
	}
}
