package disk_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"cistern/test/lab"
)

// filler is a file of another program's that takes what is free.
func filler(v *lab.Volume) string { return filepath.Join(v.Dir, "not-ours") }

// fill leaves at most so many bytes free on a volume.
func fill(t *testing.T, v *lab.Volume, leave int64) {
	t.Helper()
	_, free, err := v.Space()
	if err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(filler(v))
	at := int64(0)
	if err == nil {
		at = fi.Size()
	}
	if free > leave {
		if err := write(filler(v), at, free-leave); err != nil && !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
	}
}

// TestFull is FAULTS row 30: the file system is full at each class of position of a fill; the pulls are whole all the same, for
// who started it, who came along, and who comes later; what is cached stays a hit; with room again, blobs are kept again.
func TestFull(t *testing.T) {
	const size = 3*mib + 12345
	for _, kind := range []string{"tmpfs", "ext4"} {
		for _, c := range []struct {
			name  string
			held  int64 // upstream holds the blob back here, and then the disk becomes full; -1: it is full before
			spare int64 // bytes that stay free
		}{
			{"before the fill", -1, 0},
			{"room for a folder and no more", -1, 8 * kib},
			{"at the first write", 0, 0},
			{"after the first bytes", 1, 0},
			{"in the middle", size / 2, 0},
			{"in the middle, a little later", size / 2, mib},
			{"before the last byte", size - 1, 0},
			{"at the checkpoint", size, 0},
		} {
			t.Run(kind+", "+c.name, func(t *testing.T) {
				t.Parallel()
				v := lab.NewVolume(t, lab.VolumeOptions{Kind: kind, Size: 48 * mib})
				r := start(t, settings{dir: filepath.Join(v.Dir, "cache")})
				canary, small := r.blob(120_000), r.blob(1000)
				r.recorded(canary, small)
				b := r.gated(size, max(c.held, 0))
				if c.held < 0 {
					close(b.gate)
					fill(t, v, c.spare)
				}
				first := r.ask(b)
				defer first.close()
				if c.held >= 0 {
					// Upstream has sent what it may when the first reader has it, save what is held back until it is verified.
					if got := first.read(min(c.held, 1)); got.err != nil {
						t.Fatal(got.err)
					}
				}
				second := r.ask(b)
				defer second.close()
				if c.held >= 0 {
					fill(t, v, c.spare)
					close(b.gate)
				}
				for _, reader := range []*body{first, second} {
					if a := reader.read(-1); a.err != nil {
						t.Errorf("%q: %v", a.outcome, a.err)
					}
				}
				r.pull(b, r.blob(700), r.blob(100_000))
				r.hits(canary, small)
				if err := os.Remove(filler(v)); err != nil {
					t.Fatal(err)
				}
				another := r.blob(size)
				r.keeps(b, another, canary)
				r.isReady()
				r.stop()
				r.restart()
				r.off.Store(true)
				r.hits(b, another, canary, small)
			})
		}
	}
}

// TestFullIndex is FAULTS row 30 at the index: no room for its transaction. What was pulled is served meanwhile, and recorded
// once there is room.
func TestFullIndex(t *testing.T) {
	t.Parallel()
	v := lab.NewVolume(t, lab.VolumeOptions{Kind: "ext4", Size: 48 * mib})
	r := start(t, settings{dir: filepath.Join(v.Dir, "cache")})
	var bs []*blob
	for range 40 {
		bs = append(bs, r.blob(300_000))
	}
	// The disk fills up within the second in which they wait for the checkpoint.
	r.pull(bs...)
	fill(t, v, 0)
	r.pull(bs...)
	if err := os.Remove(filler(v)); err != nil {
		t.Fatal(err)
	}
	r.keeps(bs...)
	r.recorded(bs...)
	r.daemon.Kill()
	r.restart()
	r.off.Store(true)
	r.hits(bs...)
}

// TestNoInodes is FAULTS row 31: the file system has no inode left. Pulls go on, the daemon does not spin, and keeps blobs again
// when there are some.
func TestNoInodes(t *testing.T) {
	t.Parallel()
	v := lab.NewVolume(t, lab.VolumeOptions{Kind: "tmpfs", Size: 256 * mib, Options: "nr_inodes=1200"})
	r := start(t, settings{dir: filepath.Join(v.Dir, "cache")})
	canary := r.blob(300_000)
	r.recorded(canary)
	taken := 0
	for ; ; taken++ {
		if err := os.WriteFile(filepath.Join(v.Dir, fmt.Sprint("taken", taken)), nil, 0o600); err != nil {
			break
		}
	}
	if taken < 100 {
		t.Fatalf("only %d inodes were free", taken)
	}
	before := cpu(t, r)
	small, large := r.blob(1000), r.blob(2*mib)
	r.pull(small, large)
	r.misses(large)
	r.hits(canary)
	r.until(func() error { // a busy loop would show in what 100 hits take
		for range 100 {
			r.hits(canary)
		}
		if used := cpu(t, r) - before; used > 500 {
			return fmt.Errorf("%d ticks of processor time", used)
		}
		return nil
	})
	for i := range taken {
		if err := os.Remove(filepath.Join(v.Dir, fmt.Sprint("taken", i))); err != nil {
			t.Fatal(err)
		}
	}
	r.keeps(large, small)
}

// cpu is the processor time that the daemon has used, in hundredths of a second.
func cpu(t *testing.T, r *rig) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", r.pid()))
	if err != nil {
		t.Fatal(err)
	}
	var user, system int64
	rest := text[len(fmt.Sprintf("%d (cistern) ", r.pid())):]
	var skip string
	if _, err := fmt.Sscan(string(rest), &skip, &skip, &skip, &skip, &skip, &skip, &skip, &skip, &skip, &skip, &skip, &user, &system); err != nil {
		t.Fatal(err)
	}
	return user + system
}

// TestReadOnly is FAULTS row 32, in mid flight: the kernel meets an error of the disk and makes the file system read-only (a person
// cannot: a mount with files that are open for writing is busy). The fill that is under way ends whole, hits are served, the daemon
// says that it is degraded; mended and mounted again, all that was recorded is there.
func TestReadOnly(t *testing.T) {
	t.Parallel()
	v := lab.NewVolume(t, lab.VolumeOptions{Kind: "ext4", Size: 64 * mib, Options: "errors=remount-ro"})
	r := start(t, settings{dir: filepath.Join(v.Dir, "cache")})
	canary, tagged := r.blob(300_000), r.image("one", r.blob(1000))
	r.recorded(canary, tagged)
	b := r.gated(3*mib, mib)
	first := r.ask(b)
	defer first.close()
	if a := first.read(mib / 2); a.err != nil {
		t.Fatal(a.err)
	}
	v.Fail(t)
	close(b.gate)
	if a := first.read(-1); a.err != nil {
		t.Errorf("%q: %v", a.outcome, a.err)
	}
	r.isNot("read-only")
	r.misses(r.blob(2*mib), r.blob(900))
	r.hits(canary, tagged)
	if r.daemon.Metric(t, "cistern_cache_degraded") != 1 {
		t.Error("the metric does not say that it is degraded")
	}
	r.stop()
	v.Mend(t)
	r.restart()
	r.isReady()
	r.keeps(r.blob(2 * mib))
	r.off.Store(true)
	r.hits(canary, tagged)
}

// TestReadOnlyAtStart is FAULTS row 32 at the start: what was cached before is served, upstream or no upstream, all else is streamed,
// nothing is written, and the daemon says so. After a start on a disk that can be written all is as before.
func TestReadOnlyAtStart(t *testing.T) {
	t.Parallel()
	v := lab.NewVolume(t, lab.VolumeOptions{Kind: "ext4", Size: 64 * mib})
	r := start(t, settings{dir: filepath.Join(v.Dir, "cache")})
	large, small := r.blob(3*mib), r.blob(20_000)
	tagged := r.image("one", large, small)
	r.recorded(large, small, tagged)
	r.stop()
	v.Remount(t, "ro")
	r.off.Store(true)
	r.restart()
	r.isNot("read-only")
	r.says("read-only", "streamed")
	r.hits(large, small, tagged)
	r.off.Store(false)
	fresh := r.blob(2 * mib)
	r.misses(fresh, fresh, r.blob(900), r.image("two", r.blob(1000)))
	if r.daemon.Metric(t, "cistern_cache_degraded") != 1 {
		t.Error("the metric does not say that it is degraded")
	}
	r.stop()
	v.Remount(t, "rw")
	r.restart()
	r.isReady()
	r.keeps(fresh)
	r.off.Store(true)
	r.hits(large, small, tagged)
	r.accounts()
}

// TestReadOnlyAndEmpty is FAULTS row 32 for a directory that holds no cache: the daemon runs, and streams.
func TestReadOnlyAndEmpty(t *testing.T) {
	t.Parallel()
	v := lab.NewVolume(t, lab.VolumeOptions{Kind: "ext4", Size: 64 * mib})
	v.Remount(t, "ro")
	r := start(t, settings{dir: filepath.Join(v.Dir, "cache")})
	r.isNot("read-only")
	b := r.blob(2 * mib)
	r.misses(b, b, r.image("one", b))
}
