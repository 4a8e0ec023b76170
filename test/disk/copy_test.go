package disk_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cistern/test/lab"
)

// plant puts a file where the cache would keep a blob. Its bytes may be other ones.
func plant(t *testing.T, dir string, b *blob, data []byte) {
	t.Helper()
	file := filepath.Join(dir, b.file("blobs"))
	err := os.MkdirAll(filepath.Dir(file), 0o700)
	if err = errors.Join(err, os.WriteFile(file, data, 0o600), os.Chmod(file, 0o600|os.ModeSticky)); err != nil {
		t.Fatal(err)
	}
}

// wrong is what a blob is not, of the same length.
func (b *blob) wrong() []byte {
	w := bytes.Clone(b.data)
	w[len(w)/2] ^= 1
	return w
}

// copied starts a daemon on a copy of a rig's directory, in which files were planted, one right and two wrong. What lies whole in the copy
// is a hit at once, with upstream off; what was planted is adopted only if it is what its name says.
func copied(t *testing.T, o *origin, dir string, recorded []*blob) *rig {
	t.Helper()
	whole := slices.DeleteFunc(slices.Clone(recorded), func(b *blob) bool {
		_, err := os.Stat(filepath.Join(dir, b.file("blobs")))
		return err != nil
	})
	if len(whole) == 0 {
		t.Fatal("void: nothing was copied")
	}
	right, small, large := o.blob(400_000), o.blob(30_000), o.blob(2*mib)
	plant(t, dir, right, right.data)
	plant(t, dir, small, small.wrong())
	plant(t, dir, large, large.wrong())
	o.off.Store(true)
	r := start(t, settings{dir: dir, origin: o})
	r.hits(whole...)
	o.off.Store(false)
	r.pull(small, large, right)
	r.metric("cistern_rebuild_running", equal(0))
	r.keeps(small, large, right)
	return r
}

// stock has new blobs and an image of them recorded, and gives the blobs.
func (r *rig) stock() (recorded []*blob) {
	r.t.Helper()
	for i := range 12 {
		recorded = append(recorded, r.blob(1000+i*200_000))
	}
	image := r.image(fmt.Sprint("stock", r.offset.Load()), recorded...)
	r.keeps(append(recorded, image)...) // where the cache is full, one may go past the disk
	r.recorded(append(recorded, image)...)
	return recorded
}

// stockFull is stock for a cache that is full already.
func (r *rig) stockFull() (recorded []*blob) {
	r.t.Helper()
	for r.daemon.Metric(r.t, "cistern_evicted_blobs_total") == 0 {
		r.pull(r.blob(3 * mib))
	}
	return r.stock()
}

// copying are the ways of copying a directory that docs/operating.md names.
var copying = map[string][]string{
	"cp":    {"cp", "-a", "SOURCE/.", "TARGET"},
	"rsync": {"rsync", "-a", "SOURCE/", "TARGET"},
	"tar":   {"sh", "-c", "tar -C SOURCE -cf - . | tar -C TARGET -xf -"},
}

// duplicate copies a directory. Files that come and go meanwhile are complained about, and are no failure.
func duplicate(t *testing.T, how, source string) string {
	t.Helper()
	target := filepath.Join(lab.Dir(t), "copy")
	if err := os.Mkdir(target, 0o700); err != nil {
		t.Fatal(err)
	}
	var args []string
	for _, a := range copying[how] {
		args = append(args, strings.NewReplacer("SOURCE", source, "TARGET", target).Replace(a))
	}
	out, err := exec.Command(lab.Tool(t, args[0]), args[1:]...).CombinedOutput()
	for line := range strings.Lines(string(out)) {
		switch {
		case strings.Contains(line, "No such file"), strings.Contains(line, "vanished"), strings.Contains(line, "some files"),
			strings.Contains(line, "changed as we read"), strings.Contains(line, "removed before we read"), strings.Contains(line, "previous errors"):
		default:
			t.Errorf("%s: %v: %s", how, err, line)
		}
	}
	return target
}

// TestCopyOfAStopped is FAULTS row 50 for a copy of a directory that nobody uses.
func TestCopyOfAStopped(t *testing.T) {
	for how := range copying {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			r := start(t, settings{})
			recorded := r.stock()
			r.stop()
			dir, stray := duplicate(t, how, r.dir), r.blob(5*mib)
			plant(t, dir, stray, stray.data)
			c := copied(t, r.origin, dir, recorded)
			c.accounts() // of what nobody has asked for, too
			if c.hits(stray); r.asked(stray) != 0 {
				t.Error("a whole file was fetched")
			}
			for _, b := range recorded {
				if n := r.asked(b); n != 1 {
					t.Errorf("%d bytes were fetched %d times", len(b.data), n)
				}
			}
			// It is taken for a copy once.
			c.stop()
			c.restart()
			c.hits(recorded...)
			if n := c.daemon.Metric(t, "cistern_rebuild_files"); n != 0 {
				t.Errorf("%v files are looked for again", n)
			}
			// The original is none the worse.
			r.restart()
			r.hits(recorded...)
		})
	}
}

// TestCopyOfARunning is FAULTS row 50 for a copy that is made while the daemon works, under a storm of pulls that evict.
func TestCopyOfARunning(t *testing.T) {
	for how := range copying {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			r := start(t, settings{cap: 96 * mib})
			recorded := r.stockFull()
			var dir string
			r.underLoad(func() { dir = duplicate(t, how, r.dir) })
			c := copied(t, r.origin, dir, recorded)
			c.pull(r.all()...)
			c.accounts()
		})
	}
}

// underLoad runs what beside pulls that evict.
func (r *rig) underLoad(what func()) {
	r.t.Helper()
	ctx, stop := context.WithCancel(r.t.Context())
	done := make(chan struct{})
	var pulled, wrong int
	go func() {
		defer close(done)
		for ; ctx.Err() == nil; pulled++ {
			if a := r.get(r.blob(20_000 + pulled%30*10_000)); a.err != nil {
				wrong++
			}
		}
	}()
	was := r.daemon.Metric(r.t, "cistern_evicted_blobs_total")
	r.metric("cistern_evicted_blobs_total", func(n float64) bool { return n > was })
	what()
	stop()
	<-done
	if wrong > 0 || pulled < 10 {
		r.t.Errorf("%d of %d pulls beside it went wrong", wrong, pulled)
	}
}

// all is every blob that the origin has, without those that are held back.
func (o *origin) all() (bs []*blob) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, b := range o.byDigest {
		if b.gate == nil {
			bs = append(bs, b)
		}
	}
	return bs
}

// TestSnapshot is FAULTS row 50 for a snapshot of the disk below a working daemon: nothing is flushed for it, so it is what a power
// cut leaves, though the kernel is still the one under which the original was written: of what was half fetched not a byte is believed.
func TestSnapshot(t *testing.T) {
	t.Parallel()
	below := lab.NewVolume(t, lab.VolumeOptions{Kind: "xfs", Size: 512 * mib}) // shares blocks between files
	v := lab.NewVolume(t, lab.VolumeOptions{Kind: "ext4", Size: 192 * mib, Within: below.Dir})
	r := start(t, settings{dir: filepath.Join(v.Dir, "cache"), cap: 64 * mib})
	recorded := r.stockFull()
	half := r.gated(4*mib, 2*mib)
	open := r.ask(half)
	defer open.close()
	if a := open.read(mib); a.err != nil {
		t.Fatal(a.err)
	}
	flush(t, r.in("boot")) // as it is when the daemon has run for a while
	var snapshot *lab.Volume
	r.underLoad(func() { snapshot = v.Snapshot(t) })
	close(half.gate)
	dir := filepath.Join(snapshot.Dir, "cache")
	zeros := filepath.Join(dir, half.file("fills"))
	if err := errors.Join(os.MkdirAll(filepath.Dir(zeros), 0o700), os.WriteFile(zeros, make([]byte, mib), 0o600)); err != nil {
		t.Fatal(err)
	}
	c := copied(t, r.origin, dir, recorded)
	c.pull(half)
	c.pull(r.all()...)
	c.accounts()
}

// flush puts a file on the disk.
func flush(t *testing.T, file string) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestMoved is FAULTS row 50 for a directory that gets another name. While the daemon runs it goes on with the one that it has; at
// the next start it is what it was, and nothing is hashed again.
func TestMoved(t *testing.T) {
	t.Parallel()
	parent := lab.Dir(t)
	r := start(t, settings{dir: filepath.Join(parent, "cache")})
	recorded := r.stock()
	moved := filepath.Join(parent, "moved")
	if err := os.Rename(r.dir, moved); err != nil {
		t.Fatal(err)
	}
	r.hits(recorded...)
	late := r.blob(2 * mib)
	r.keeps(late)
	r.stop()
	if _, err := os.Lstat(r.dir); err == nil {
		t.Error("something was made where it was")
	}
	r.off.Store(true)
	c := start(t, settings{dir: moved, origin: r.origin})
	c.hits(append(recorded, late)...)
	if n := c.daemon.Metric(t, "cistern_rebuild_hashed_files"); n != 0 {
		t.Errorf("%v files were hashed", n)
	}
	c.accounts()
}

// TestPlanted is FAULTS row 50 for files that somebody puts into a directory in use: none is adopted without its hash, nor in the way,
// and the account stays true.
func TestPlanted(t *testing.T) {
	t.Parallel()
	r := start(t, settings{})
	recorded := r.stock()
	for _, size := range []int{20_000, 3 * mib} {
		for _, b := range []*blob{r.blob(size), r.blob(size + 1)} {
			data := b.data
			if len(b.data) == size {
				data = b.wrong()
			}
			plant(t, r.dir, b, data)
			r.pull(b)
			r.keeps(b)
			r.recorded(b)
		}
	}
	r.accounts()
	r.stop()
	r.restart()
	r.off.Store(true)
	r.hits(recorded...)
	r.accounts()
}
