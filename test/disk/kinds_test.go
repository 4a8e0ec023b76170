package disk_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"cistern/test/lab"
)

// TestKinds has a life of a cache on file systems that lack something: sparse files, modes, inode numbers that last, names that
// differ by case, stable storage. Cold pulls, hits, a start, a kill, and more than fits: each byte right, the cap kept, the account true.
func TestKinds(t *testing.T) {
	for _, kind := range []string{"tmpfs", "ext4-casefold", "vfat", "exfat"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			const limit = 128 * mib // without holes the index alone is counted with 41
			v := lab.NewVolume(t, lab.VolumeOptions{Kind: kind, Size: 256 * mib})
			empty := v.Used(t)
			r := start(t, settings{dir: filepath.Join(v.Dir, "cache"), cap: limit})
			w := watch(t, v, r.daemon, 0)
			bs := []*blob{r.blob(100), r.blob(20_000), r.blob(300_000), r.blob(3*mib + 7), r.blob(9 * mib)}
			bs = append(bs, r.image("one", bs...))
			r.misses(bs...)
			r.recorded(bs...)
			r.hits(bs...)
			r.stop()
			r.restart()
			r.isReady()
			r.off.Store(true)
			r.hits(bs...)
			r.off.Store(false)

			half := r.gated(4*mib, 2*mib)
			open := r.ask(half)
			open.read(mib)
			young := []*blob{r.blob(2 * mib), r.blob(30_000)}
			r.pull(young...)
			r.daemon.Kill()
			open.close()
			close(half.gate)
			r.restart()
			r.pull(append(young, half)...)
			r.off.Store(true)
			r.hits(bs...)
			r.off.Store(false)
			r.keeps(append(young, half)...)
			r.accounts()

			for i := range 45 {
				more := r.blob(3*mib + i)
				r.pull(more, more)
			}
			w.end()
			if over := w.used.Load() - empty - limit; over > 0 {
				t.Errorf("%d bytes over the cap", over)
			}
			if n := r.daemon.Metric(t, "cistern_evicted_blobs_total"); n < 5 {
				t.Errorf("%v were evicted", n)
			}
			r.accounts()
			t.Log(fmt.Sprint(w))
		})
	}
}
