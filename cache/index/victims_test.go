package index

import (
	"bytes"
	"cmp"
	"errors"
	"slices"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
	"pgregory.net/rapid"

	"cistern/internal/oci"
)

// TestModel runs random batches against the index and a plain map.
func TestModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		x := newModelIndex(t, rt)
		defer x.close(rt)
		rt.Repeat(map[string]func(*rapid.T){
			"apply":   x.apply,
			"victims": x.victims,
			"reopen":  x.reopen,
			"":        x.check,
		})
	})
}

type model struct {
	t       *testing.T
	path    string
	x       *Index
	records map[oci.Digest]Record
}

func newModelIndex(t *testing.T, rt *rapid.T) *model {
	m := &model{t: t, path: t.TempDir() + "/index.db", records: map[oci.Digest]Record{}}
	m.open(rt)
	return m
}

func (m *model) open(rt *rapid.T) {
	x, err := Open(m.path, Options{})
	if err != nil {
		rt.Fatal(err)
	}
	m.x = x
}

func (m *model) close(rt *rapid.T) {
	if err := m.x.Close(); err != nil {
		rt.Fatal(err)
	}
}

func (m *model) reopen(rt *rapid.T) {
	m.close(rt)
	m.open(rt)
}

func anyDigest() *rapid.Generator[oci.Digest] { return rapid.Map(rapid.IntRange(0, 15), digest) }

// anyTime is within a minute, or some minutes later.
func anyTime() *rapid.Generator[time.Time] {
	return rapid.Map(rapid.OneOf(rapid.IntRange(0, 60), rapid.IntRange(290, 400), rapid.IntRange(0, 2000)), at)
}

// once tells whether a large blob was used for the first time only.
func once(r Record, used time.Time) bool {
	return r.Class == ClassLarge && used.Sub(r.FirstSeen) < AgainAfter
}

func anyRecord(rt *rapid.T) Record {
	size := rapid.SampledFrom([]int64{0, 100, 5000, 1 << 20, 3 << 20}).Draw(rt, "size")
	last := anyTime().Draw(rt, "last")
	return Record{
		Digest: anyDigest().Draw(rt, "digest"), Size: size, Allocated: (size + 4095) / 4096 * 4096,
		Class: ClassOf(size, rapid.Bool().Draw(rt, "manifest")), MediaType: rapid.SampledFrom([]string{"", "a/b"}).Draw(rt, "type"),
		FirstSeen: rapid.SampledFrom([]time.Time{last, last, at(0)}).Draw(rt, "first"), LastUsed: last, Public: rapid.Bool().Draw(rt, "public"),
	}
}

func (m *model) apply(rt *rapid.T) {
	b := Batch{
		Put:    rapid.SliceOfN(rapid.Custom(anyRecord), 0, 6).Draw(rt, "put"),
		Touch:  rapid.MapOfN(anyDigest(), anyTime(), 0, 6).Draw(rt, "touch"),
		Delete: rapid.SliceOfN(anyDigest(), 0, 3).Draw(rt, "delete"),
	}
	if err := m.x.Apply(b); err != nil {
		rt.Fatal(err)
	}
	for _, d := range b.Delete {
		delete(m.records, d)
	}
	for _, r := range b.Put {
		m.records[r.Digest] = r
	}
	for d, to := range b.Touch {
		if r, ok := m.records[d]; ok && (to.Sub(r.LastUsed).Abs() >= minTouchAge || once(r, to) != once(r, r.LastUsed)) {
			r.LastUsed = to
			m.records[d] = r
		}
	}
}

func (m *model) check(rt *rapid.T) {
	var want Totals
	for d, r := range m.records {
		want.Blobs[r.Class]++
		want.Allocated[r.Class] += r.Allocated
		if got, ok, err := m.x.Get(d); err != nil || !ok || got != r {
			rt.Fatalf("got %+v, %v, %v, want %+v", got, ok, err, r)
		}
	}
	if got := m.x.Totals(); got != want {
		rt.Fatalf("totals %+v, want %+v", got, want)
	}
	if bad := m.x.Stats().BadValues; bad != 0 {
		rt.Fatalf("%d bad values", bad)
	}
}

func (m *model) victims(rt *rapid.T) {
	want := rapid.Int64Range(0, 20<<20).Draw(rt, "want")
	floors := [Classes]int64{}
	for c := range floors {
		floors[c] = rapid.SampledFrom([]int64{0, 0, 4096, 1 << 21}).Draw(rt, "floor")
	}
	pending := rapid.MapOfN(anyDigest(), anyTime(), 0, 8).Draw(rt, "pending")
	skip := rapid.MapOfN(anyDigest(), rapid.Just(true), 0, 4).Draw(rt, "skip")
	now := rapid.SampledFrom([]time.Time{{}, at(60), at(500), at(3000), at(1_000_000)}).Draw(rt, "now")
	got, err := m.x.Victims(now, want, floors, func(d oci.Digest) time.Time { return pending[d] }, func(d oci.Digest) bool { return skip[d] })
	if err != nil {
		rt.Fatal(err)
	}
	if w := m.expect(now, want, floors, pending, skip); !slices.Equal(got, w) {
		rt.Fatalf("got %d victims %+v\nwant %d: %+v", len(got), got, len(w), w)
	}
}

// expect is Victims by sorting everything.
func (m *model) expect(now time.Time, want int64, floors [Classes]int64, pending map[oci.Digest]time.Time, skip map[oci.Digest]bool) (victims []Record) {
	used := func(r Record) time.Time {
		at := r.LastUsed
		if p, ok := pending[r.Digest]; ok && p.After(at) {
			at = p
		}
		if once(r, at) && at.Before(now) {
			return at.Add(at.Sub(now))
		}
		return at
	}
	var all []Record
	left := [Classes]int64{}
	for _, r := range m.records {
		left[r.Class] += r.Allocated
		if !skip[r.Digest] {
			all = append(all, r)
		}
	}
	slices.SortFunc(all, func(a, b Record) int {
		return cmp.Or(used(a).Compare(used(b)), cmp.Compare(a.Digest.String(), b.Digest.String()))
	})
	closed := [Classes]bool{}
	for _, r := range all {
		switch {
		case want <= 0:
			return victims
		case closed[r.Class]:
		case left[r.Class]-r.Allocated < floors[r.Class]:
			closed[r.Class] = true
		default:
			left[r.Class] -= r.Allocated
			want -= r.Allocated
			victims = append(victims, r)
		}
	}
	return victims
}

func TestVictimsComeInThousands(t *testing.T) {
	t.Parallel()
	x := newIndex(t)
	var b Batch
	for i := range maxVictims + 10 {
		b.Put = append(b.Put, record(i, 1))
	}
	apply(t, x, b)
	vs, err := x.Victims(time.Time{}, 1<<40, [Classes]int64{}, nil, nil)
	if err != nil || len(vs) != maxVictims || vs[0].Digest != digest(0) {
		t.Errorf("%d victims, %v", len(vs), err)
	}
}

// A scan of large blobs that are wanted once does not drive out those that are
// wanted again and again, however long it takes; one that is older than all does.
func TestOnceGoesFirst(t *testing.T) {
	t.Parallel()
	x := newIndex(t)
	const large = 1 << 20
	apply(t, x, Batch{Put: []Record{record(0, large), record(1, large)}})
	apply(t, x, Batch{Touch: map[oci.Digest]time.Time{digest(1): at(299)}}) // a burst
	apply(t, x, Batch{Touch: map[oci.Digest]time.Time{digest(0): at(300)}})
	var b Batch
	for i := 400; i < 410; i++ {
		b.Put = append(b.Put, record(i, large))
	}
	apply(t, x, b)
	for now, want := range map[int][]int{
		// Nothing of the scan is half as old as what was used again.
		420: {1, 0, 400, 401},
		// All of it is.
		1000: {1, 400, 401, 402},
	} {
		vs, err := x.Victims(at(now), 4*large, [Classes]int64{}, nil, nil)
		if err != nil || len(vs) != 4 {
			t.Fatal(len(vs), err)
		}
		for i, v := range vs {
			if v.Digest != digest(want[i]) {
				t.Errorf("at %d: victim %d was last used at %v", now, i, v.LastUsed)
			}
		}
	}
	// A use that is not stored yet counts as it will.
	vs, err := x.Victims(at(1000), large, [Classes]int64{}, func(d oci.Digest) time.Time {
		if d == digest(1) {
			return at(310)
		}
		return time.Time{}
	}, nil)
	if err != nil || len(vs) != 1 || vs[0].Digest != digest(400) {
		t.Errorf("%d victims, %v", len(vs), err)
	}
}

// A use that is too soon after the last to be stored is, if it is what makes a blob
// one that was used again: there may be no other for long.
func TestAgainIsStored(t *testing.T) {
	t.Parallel()
	x := newIndex(t)
	apply(t, x, Batch{Put: []Record{record(0, 1<<20), record(1, 1000)}})
	for _, when := range []int{298, 301, 304} {
		apply(t, x, Batch{TouchAge: time.Minute, Touch: map[oci.Digest]time.Time{digest(0): at(when), digest(1): at(when + 1)}})
	}
	for i, want := range []int{301, 299} { // a small one has nothing to gain
		if r, ok := get(t, x, digest(i)); !ok || !r.LastUsed.Equal(at(want)) {
			t.Errorf("blob %d was last used at %v", i, r.LastUsed)
		}
	}
}

// An index of before there was a lane for what was used again has such blobs in the
// lane of their class: they are found there, and move with their next use.
func TestOldLanes(t *testing.T) {
	t.Parallel()
	x := newIndex(t)
	apply(t, x, Batch{Put: []Record{record(0, 1<<20), record(1, 1<<20)}})
	apply(t, x, Batch{Touch: map[oci.Digest]time.Time{digest(0): at(1000)}})
	key := digestKey(digest(0))
	if err := x.update("apply", func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketRecency)
		now, old := recencyKey(laneAgain, nanos(at(1000)), key), recencyKey(lane(ClassLarge), nanos(at(1000)), key)
		if k, _ := b.Cursor().Seek(now); !bytes.Equal(k, now) {
			t.Error("it does not stand in the lane of what was used again")
		}
		return errors.Join(b.Delete(now), b.Put(old, nil))
	}, nil); err != nil {
		t.Fatal(err)
	}
	want := []oci.Digest{digest(1), digest(0)}
	if got, _ := orderOf(t, x); !slices.Equal(got, want) {
		t.Errorf("%d blobs, or in another order", len(got))
	}
	apply(t, x, Batch{Touch: map[oci.Digest]time.Time{digest(0): at(2000)}})
	if got, last := orderOf(t, x); !slices.Equal(got, want) || !last[1].Equal(at(2000)) {
		t.Errorf("after a use: %d blobs, %v", len(got), last)
	}
	if bad := x.Stats().BadValues; bad != 0 {
		t.Errorf("%d bad values", bad)
	}
}
