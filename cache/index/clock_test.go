package index

import (
	"cmp"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"cistern/internal/oci"
)

// orderOf gives all blobs from the least recently used on.
func orderOf(t testing.TB, x *Index) (ds []oci.Digest, last []time.Time) {
	t.Helper()
	vs, err := x.Victims(time.Time{}, 1<<50, [Classes]int64{}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range vs {
		ds, last = append(ds, v.Digest), append(last, v.LastUsed)
	}
	return ds, last
}

// FAULTS row 46: blobs of the same moment, of all classes, come in one order,
// each once, and the same after reopening.
func TestEqualTimes(t *testing.T) {
	t.Parallel()
	for name, when := range map[string]time.Time{
		"now": at(0), "never": {}, "1970": time.Unix(0, 0), "before 1970": time.Unix(-1e6, 0), "9999": time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := newIndex(t)
			var b Batch
			var want []oci.Digest
			for i := range 90 {
				r := record(i, 4096)
				r.Class, r.FirstSeen, r.LastUsed = Class(i%Classes), when, when
				b.Put = append(b.Put, r)
				want = append(want, r.Digest)
			}
			slices.SortFunc(want, func(a, b oci.Digest) int { return cmp.Compare(a.String(), b.String()) })
			apply(t, x, b)
			for range 2 {
				if got, _ := orderOf(t, x); !slices.Equal(got, want) {
					t.Errorf("%d blobs in another order, want %d", len(got), len(want))
				}
				closeIndex(t, x)
				x = openIndex(t, x.Path())
			}
		})
	}
}

// FAULTS row 46: the clock a year on, a year back, by hours each way, at 1970.
// A use is stored with the time it is given, so that the latest use is last once
// the clock is right again, and what was used in the future does not stay there.
func TestClockSteps(t *testing.T) {
	t.Parallel()
	const year = 365 * 24 * time.Hour
	for name, step := range map[string]time.Duration{
		"a year on": year, "a year back": -year, "an hour on": time.Hour, "an hour back": -time.Hour,
		"to 1970": at(0).Sub(time.Unix(0, 1)) * -1,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := newIndex(t)
			apply(t, x, Batch{Put: []Record{record(1, 1), record(2, 1), record(3, 1)}})
			touch := func(i int, when time.Time) {
				apply(t, x, Batch{Touch: map[oci.Digest]time.Time{digest(i): when}})
			}
			touch(1, at(100).Add(step)) // while the clock is wrong
			want := []oci.Digest{digest(2), digest(3), digest(1)}
			if step < 0 {
				want = []oci.Digest{digest(1), digest(2), digest(3)}
			}
			if got, _ := orderOf(t, x); !slices.Equal(got, want) {
				t.Errorf("while it is wrong: %v", got)
			}
			for i, d := range []int{1, 2, 3} { // it is right again: all are used, in this order
				touch(d, at(200+100*i))
			}
			got, last := orderOf(t, x)
			if !slices.Equal(got, []oci.Digest{digest(1), digest(2), digest(3)}) || !last[0].Equal(at(200)) {
				t.Errorf("afterwards: %v, last used %v", got, last)
			}
			if n, _ := x.Totals().Sum(); n != 3 || x.Stats().BadValues != 0 {
				t.Errorf("%d blobs, %+v", n, x.Stats())
			}
		})
	}
}

// FAULTS row 46: whatever the clock does, the order of use is total: each blob
// stands in it once, by (time, digest), and nothing is met that has no record.
func TestOrderStaysTotal(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		x, err := Open(t.TempDir()+"/index.db", Options{NoSync: true})
		if err != nil {
			rt.Fatal(err)
		}
		defer closeIndex(t, x)
		clock := rapid.SampledFrom([]time.Time{
			{}, time.Unix(0, 0), at(0), at(0), at(1), at(20), at(3600), at(-3600), at(31_536_000), time.Unix(1<<40, 0),
		})
		known := map[oci.Digest]bool{}
		for range rapid.IntRange(1, 8).Draw(rt, "batches") {
			b := Batch{Touch: rapid.MapOfN(anyDigest(), clock, 0, 6).Draw(rt, "touch")}
			for _, d := range rapid.SliceOfN(anyDigest(), 0, 5).Draw(rt, "put") {
				b.Put = append(b.Put, Record{Digest: d, Allocated: 4096, Class: Class(rapid.IntRange(0, 2).Draw(rt, "class")), LastUsed: clock.Draw(rt, "used")})
				known[d] = true
			}
			apply(t, x, b)
		}
		ds, last := orderOf(t, x)
		for i := 1; i < len(ds); i++ {
			if c := last[i-1].Compare(last[i]); c > 0 || c == 0 && ds[i-1].String() >= ds[i].String() {
				rt.Fatalf("%v %v stands before %v %v", ds[i-1], last[i-1], ds[i], last[i])
			}
		}
		if len(ds) != len(known) || x.Stats().BadValues != 0 {
			rt.Fatalf("%d in the order, %d records, %+v", len(ds), len(known), x.Stats())
		}
	})
}
