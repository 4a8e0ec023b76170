package index

import (
	"cmp"
	"slices"
	"testing"
	"time"

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
func anyTime() *rapid.Generator[time.Time]    { return rapid.Map(rapid.IntRange(0, 60), at) }

func anyRecord(rt *rapid.T) Record {
	size := rapid.SampledFrom([]int64{0, 100, 5000, 1 << 20, 3 << 20}).Draw(rt, "size")
	last := anyTime().Draw(rt, "last")
	return Record{
		Digest: anyDigest().Draw(rt, "digest"), Size: size, Allocated: (size + 4095) / 4096 * 4096,
		Class: ClassOf(size, rapid.Bool().Draw(rt, "manifest")), MediaType: rapid.SampledFrom([]string{"", "a/b"}).Draw(rt, "type"),
		FirstSeen: last, LastUsed: last, Public: rapid.Bool().Draw(rt, "public"),
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
		if r, ok := m.records[d]; ok && to.Sub(r.LastUsed).Abs() >= minTouchAge {
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
	got, err := m.x.Victims(want, floors, func(d oci.Digest) time.Time { return pending[d] }, func(d oci.Digest) bool { return skip[d] })
	if err != nil {
		rt.Fatal(err)
	}
	if w := m.expect(want, floors, pending, skip); !slices.Equal(got, w) {
		rt.Fatalf("got %d victims %+v\nwant %d: %+v", len(got), got, len(w), w)
	}
}

// expect is Victims by sorting everything.
func (m *model) expect(want int64, floors [Classes]int64, pending map[oci.Digest]time.Time, skip map[oci.Digest]bool) (victims []Record) {
	used := func(r Record) time.Time {
		if p, ok := pending[r.Digest]; ok && p.After(r.LastUsed) {
			return p
		}
		return r.LastUsed
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
	vs, err := x.Victims(1<<40, [Classes]int64{}, nil, nil)
	if err != nil || len(vs) != maxVictims || vs[0].Digest != digest(0) {
		t.Errorf("%d victims, %v", len(vs), err)
	}
}
