// Package crash_test ends the real program at random moments under load, by SIGKILL, by SIGTERM and by cutting the power of
// its file system, and compares all that it has afterwards with the truth.
//
// CISTERN_CRASH_KILLS and CISTERN_CRASH_CUTS say how often (200 and 100; over large blobs on their way some hundredths of the
// cuts for each file system), and CISTERN_CRASH_SEED repeats a run as far as its inputs go. Each series logs a row of a table, which make faults collects.
package crash_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"cistern/test/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }

// large is a cap that no load here reaches.
const large = 20 << 30

// number reads a setting.
func number(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

func ext4(options string) lab.VolumeOptions {
	return lab.VolumeOptions{Kind: "ext4", Size: 768 * mib, Options: options}
}

// TestKill is FAULTS row 40: SIGKILL at random moments under load. What was delivered whole is there afterwards with
// upstream cut off, what was delivered in part is fetched from where it stood, no byte is wrong, and the cap holds.
func TestKill(t *testing.T) {
	t.Parallel()
	n := int(number(t, "CISTERN_CRASH_KILLS", 200))
	part := n / 4
	series(t, []plan{
		{name: "kill", volume: ext4(""), ends: times(n-3*part, killed), limit: large, history: 128 * mib},
		{name: "kill-or-term", volume: ext4(""), ends: append(times(part, killed), times(1+part/8, ended)...), limit: large, history: 128 * mib},
		{name: "kill-evicting", volume: ext4(""), ends: times(part, killed), limit: 48 * mib, history: 120 * mib, evicts: true},
		// Row 52: upstream fails as well.
		{name: "kill-failing-upstream", volume: ext4(""), ends: times(part, killed), limit: large, history: 128 * mib, failing: true},
	})
}

// TestAimed is FAULTS rows 40 and 41 at each durable step: the process is killed, or halted and the power cut, as it enters
// the first sync of a blob's file, a later one, a write to the index, a sync of that before and after its pages are linked, the
// first renaming of a blob that has its record, and the first unlinking of one that is evicted.
func TestAimed(t *testing.T) {
	t.Parallel()
	var kills, cuts []ending
	for call, most := range map[string]int{"fsync": 3, "pwrite64": 3, "fdatasync": 2, "/^rename": 2} {
		for nth := 1; nth <= most; nth++ {
			name := fmt.Sprintf(" at %s %d", call, nth)
			kills = append(kills, ending{name: "kill" + name, call: call, nth: nth})
			cuts = append(cuts, ending{name: "cut" + name, cut: true, call: call, nth: nth})
		}
	}
	cuts = append(cuts, times(2, ended)...) // else, on a slow disk, the cuts may all come before two checkpoints: nothing had to be there
	evictions := []ending{
		{name: "kill at unlink 1", call: "unlinkat", nth: 1}, {name: "kill at unlink 5", call: "unlinkat", nth: 5},
		{name: "cut at unlink 1", cut: true, call: "unlinkat", nth: 1}, {name: "cut at unlink 5", cut: true, call: "unlinkat", nth: 5},
	}
	volume := lab.VolumeOptions{Kind: "ext4", Size: 1024 * mib}
	series(t, []plan{
		{name: "kill-aimed", volume: volume, ends: kills, limit: large, history: 300 * mib, aimed: true},
		{name: "cut-aimed", volume: volume, ends: cuts, limit: large, history: 300 * mib, aimed: true},
		{name: "evicting-aimed", volume: volume, ends: evictions, limit: 24 * mib, history: 96 * mib, evicts: true, aimed: true},
	})
}

// TestPowerCut is FAULTS row 41: what the file system has not been made to write is lost at random moments under load.
// What was delivered two checkpoints earlier is there with upstream cut off, the rest is fetched again, nothing that was
// lost is served as zeros, and the cap holds. make faults does it on btrfs too.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	n := int(number(t, "CISTERN_CRASH_CUTS", 100))
	part := n / 5
	mixed := slices.Concat(times(part, cut), times(1+part/10, killed), times(1+part/10, ended), times(1+part/10, endedAndCut))
	xfs := lab.VolumeOptions{Kind: "xfs", Size: 768 * mib}
	btrfs := lab.VolumeOptions{Kind: "btrfs", Size: 768 * mib}
	plans := []plan{
		{name: "cut-ext4-commit-1", volume: ext4("commit=1"), ends: times(n-4*part, cut), limit: large, history: 128 * mib},
		{name: "cut-ext4-commit-5", volume: ext4("commit=5"), ends: mixed, limit: large, history: 128 * mib, failing: true},
		{name: "cut-ext4-commit-1000", volume: ext4("commit=1000"), ends: times(part, cut), limit: large, history: 128 * mib},
		{name: "cut-evicting", volume: ext4("commit=1000"), ends: times(part, cut), limit: 48 * mib, history: 120 * mib, evicts: true},
		{name: "cut-xfs", volume: xfs, ends: mixed, limit: large, history: 128 * mib},
	}
	// Its syncs go through two file systems: in a few rounds next to nothing comes on record.
	if n >= 300 {
		plans = append(plans, plan{name: "cut-btrfs", volume: btrfs, ends: times(n/6, cut), limit: large, history: 128 * mib})
	}
	series(t, plans)
}

// series runs plans beside each other and holds each of them against what makes a run worth anything.
func series(t *testing.T, plans []plan) {
	t.Helper()
	seed := number(t, "CISTERN_CRASH_SEED", rand.Uint64()>>32)
	pool := newPool(seed, poolSize)
	t.Run("series", func(t *testing.T) {
		for i, p := range plans {
			t.Run(p.name, func(t *testing.T) {
				t.Parallel()
				began := time.Now()
				y := p.run(t, pool, seed+uint64(i))
				worth(t, p, y)
				if !t.Failed() {
					t.Log(y.row(p.name, seed, time.Since(began)))
				}
			})
		}
	})
	if t.Failed() {
		t.Logf("the seed: CISTERN_CRASH_SEED=%d", seed)
	}
}

// worth fails a run that has shown nothing: too little load, no fault, nothing that a fault could have hit.
func worth(t *testing.T, p plan, y *tally) {
	t.Helper()
	void := func(is bool, format string, args ...any) {
		if is && !t.Failed() {
			t.Error("void: " + fmt.Sprintf(format, args...))
		}
	}
	void(!p.aimed && y.rate() < leastRate, "%.0f requests a second", y.rate())
	void(y.kills+y.cuts+y.terms != len(p.ends), "%d kills, %d cuts and %d ends of %d", y.kills, y.cuts, y.terms, len(p.ends))
	void(y.partial == 0, "nothing was on its way when it ended")
	void(!p.evicts && y.there == 0, "nothing had to be there afterwards")
	void(y.fetched == 0, "nothing was missing afterwards")
	void(p.evicts && y.peak < p.limit/2, "the cap was never near: %d bytes of %d", y.peak, p.limit)
	void(p.cuts() && !p.aimed && y.lost == 0, "the cuts took nothing away")
	void(p.failing && y.failedUpstream == 0, "upstream never failed")
}
