package disk_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"cistern/test/lab"
)

// TestCapLowered is FAULTS row 49: the cap is lower than what the cache holds when it starts. It evicts down to it in the background, the
// least recently used first; hits are served meanwhile, and who reads a blob that goes is not cut.
func TestCapLowered(t *testing.T) {
	t.Parallel()
	const low = 32 * mib
	v := lab.NewVolume(t, lab.VolumeOptions{Kind: "ext4", Size: 256 * mib})
	empty := v.Used(t)
	s := settings{dir: filepath.Join(v.Dir, "cache"), cap: 192 * mib, origin: startOrigin(t)}
	r := start(t, s)
	var bs []*blob
	for range 40 {
		bs = append(bs, r.blob(3*mib))
	}
	r.recorded(bs...)
	r.stop()

	s.cap = low
	r = start(t, s)
	r.off.Store(true)
	last := bs[len(bs)-1]
	open := r.ask(last)
	defer open.close()
	if a := open.read(1000); a.err != nil {
		t.Fatal(a.err)
	}
	r.hits(last) // at any moment of it
	r.until(func() error {
		if used := v.Used(t) - empty; used > low {
			return fmt.Errorf("%d bytes are in use", used)
		}
		return nil
	})
	r.hits(last)
	if a := open.read(-1); !a.hit() {
		t.Errorf("%q: %v", a.outcome, a.err)
	}
	r.off.Store(false)
	if n := r.daemon.Metric(t, "cistern_evicted_blobs_total"); n < 28 || n > 34 {
		t.Errorf("%v were evicted", n)
	}
	r.misses(bs[0])
	w := watch(t, v, r.daemon, 0)
	r.pull(bs...)
	w.end()
	if over := w.used.Load() - empty - low; over > 0 {
		t.Errorf("%d bytes over the cap", over)
	}
	r.accounts()
}

// TestLargerThanTheCap is FAULTS row 49 for a blob that the cache could not hold if it held nothing else: it is streamed, for each who
// asks, and evicts nothing.
func TestLargerThanTheCap(t *testing.T) {
	for _, chunked := range []bool{false, true} {
		t.Run(fmt.Sprintf("chunked=%v", chunked), func(t *testing.T) {
			t.Parallel()
			r := start(t, settings{cap: 16 * mib})
			kept := []*blob{r.blob(2 * mib), r.blob(300_000)}
			r.recorded(kept...)
			r.chunked.Store(chunked)
			huge := r.blob(20 * mib)
			one, two := r.reading(huge), r.reading(huge)
			for _, done := range []<-chan answer{one, two} {
				if a := <-done; a.err != nil || a.hit() {
					t.Errorf("%q: %v", a.outcome, a.err)
				}
			}
			r.misses(huge)
			if !chunked { // of unknown length it is known to be too large when it is
				r.hits(kept...)
			}
			r.pull(kept...)
			r.keeps(kept...)
			r.accounts()
		})
	}
}
