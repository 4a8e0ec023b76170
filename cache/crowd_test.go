package cache

import (
	"os"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"cistern/internal/durable/durabletest"
)

// TestOthersFillTheDisk: it is said once when they begin, and once when there is
// room again, with the numbers and the key. FAULTS row 39.
func TestOthersFillTheDisk(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const size, floor = 64 * mib, 16 * mib
		core, logs := observer.New(zap.InfoLevel)
		disk := durabletest.New(durabletest.Options{Size: size})
		o, c := newOrigin(), open(t, Options{
			Dir: "memory", fs: disk, indexDir: t.TempDir(), Log: zap.New(core),
			MinFree: func(int64) int64 { return floor },
		})
		for i := range uint64(6) {
			c.want(o.repo("a"), o.put(noise(2*mib, 300+i)), OutcomeMiss)
			c.idle()
		}
		said := func(want int) []observer.LoggedEntry {
			t.Helper()
			all := logs.FilterField(zap.Int64("min_free", floor)).All()
			if len(all) != want {
				t.Errorf("said %d times, not %d: %v", len(all), want, all)
			}
			return all
		}
		pass(10 * time.Minute)
		said(0)
		stranger, err := disk.OpenFile("stranger", os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		fill := func(until int64) { // to so many free bytes
			for _, free, _ := disk.Free(); free > until; free -= mib {
				if _, err := stranger.Write(noise(mib, 1)); err != nil {
					t.Fatal(err)
				}
			}
		}
		fill(floor - mib) // gone as soon as something is evicted
		pass(2 * time.Second)
		said(0)
		for range 5 { // whatever is evicted
			fill(floor / 2)
			pass(5 * time.Second)
		}
		pass(10 * time.Minute)
		if c.Stats().Blobs != 0 {
			t.Errorf("%d blobs are kept", c.Stats().Blobs)
		}
		begins := said(1)
		if len(begins) == 0 {
			return
		}
		c.want(o.repo("a"), o.put(noise(2*mib, 310)), OutcomePass)
		if err := stranger.Truncate(0); err != nil {
			t.Fatal(err)
		}
		pass(10 * time.Second)
		fill(floor / 2) // it is not over yet
		pass(10 * time.Second)
		said(1)
		if err := stranger.Truncate(0); err != nil {
			t.Fatal(err)
		}
		pass(2 * time.Minute)
		ends := said(2)
		if len(ends) == 2 && (begins[0].Level != zap.WarnLevel || ends[1].ContextMap()["free"].(int64) < floor || begins[0].ContextMap()["free"].(int64) >= floor) {
			t.Errorf("%v", ends)
		}
		c.want(o.repo("a"), o.put(noise(2*mib, 311)), OutcomeMiss)
		c.idle()
		stranger.Close()
		c.close()
	})
}
