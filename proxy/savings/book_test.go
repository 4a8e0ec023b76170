package savings

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// repositories gives what was sent of each repository of the one upstream, "" for the others.
func repositories(t *testing.T, p Period) map[string]uint64 {
	t.Helper()
	all := map[string]uint64{}
	for _, u := range p.Upstreams {
		for _, r := range u.Repositories {
			all[r.Name] = r.Sent
		}
		if u.Others != (Tally{}) {
			all[""] = u.Others.Sent
		}
	}
	return all
}

func TestReport(t *testing.T) {
	t.Parallel()
	b := New()
	b.Add("docker.io", "library/app", true, Tally{Sent: 100, Received: 60, Asked: 3, Spent: 1})
	b.Add("docker.io", "library/app", false, Tally{Sent: 50})
	b.Add("docker.io", "library/db", true, Tally{Sent: 200})
	b.Add("docker.io", "made/up", false, Tally{Sent: 7, Asked: 1})
	b.Add("quay.io", "library/app", true, Tally{Sent: 1000, Received: 1000, Asked: 2, Spent: 2})
	b.Add("quay.io", "looked/at", true, Tally{})
	want := []Upstream{
		{"quay.io", Tally{1000, 1000, 2, 2}, []Repository{{"library/app", Tally{1000, 1000, 2, 2}}}, Tally{}},
		{"docker.io", Tally{357, 60, 4, 1}, []Repository{{"library/db", Tally{Sent: 200}}, {"library/app", Tally{150, 60, 3, 1}}}, Tally{Sent: 7, Asked: 1}},
	}
	r := b.Report()
	for _, p := range []Period{r.Today, r.Week, r.Total} {
		if p.Tally != (Tally{1357, 1060, 6, 3}) || !reflect.DeepEqual(p.Upstreams, want) || p.From.After(time.Now()) {
			t.Errorf("%+v", p)
		}
	}
	if s := r.Summary(); s.Since != r.Since || s.Today != r.Today.Tally || s.Week != r.Week.Tally || s.Total != r.Total.Tally {
		t.Errorf("%+v", s)
	}
}

// TestDays: at midnight today is another day, after a week a day is none of the seven any
// more, and the sum of all stays.
func TestDays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { // begins on 2000-01-01, at midnight UTC
		b := New()
		look := func(today, ofWeek, total uint64) {
			t.Helper()
			if r := b.Report(); r.Today.Sent != today || r.Week.Sent != ofWeek || r.Total.Sent != total {
				t.Errorf("%s: %d today, %d in the week, %d in all; want %d, %d, %d", time.Now().UTC(), r.Today.Sent, r.Week.Sent, r.Total.Sent, today, ofWeek, total)
			}
		}
		b.Add("u", "a", true, sent(1))
		time.Sleep(24*time.Hour - time.Nanosecond)
		b.Add("u", "a", true, sent(10))
		look(11, 11, 11)
		time.Sleep(time.Nanosecond)
		b.Add("u", "a", true, sent(100)) // on the 2nd
		look(100, 111, 111)
		time.Sleep(5 * 24 * time.Hour)
		look(0, 111, 111) // the 7th
		time.Sleep(24 * time.Hour)
		look(0, 100, 111) // the 8th
		if from := b.Report().Week.From; !from.Equal(time.Date(2000, 1, 2, 0, 0, 0, 0, time.UTC)) {
			t.Errorf("the week begins on %s", from)
		}
		b.Add("u", "a", true, sent(1000))
		look(1000, 1100, 1111)
		time.Sleep(100 * 24 * time.Hour)
		look(0, 0, 1111)
		if got := repositories(t, b.Report().Total); got["a"] != 1111 || len(got) != 1 {
			t.Error(got)
		}
	})
}

// TestClockSetBack: what was counted while the clock was ahead is in the sum of all, and
// the days before are those that they were.
func TestClockSetBack(t *testing.T) {
	t.Parallel()
	for _, days := range []int64{1, 3, 5000} {
		r := &row{}
		for i := range uint64(week) {
			if i > 0 {
				r.turn(1)
			}
			r.today.add(sent(1 << i))
		}
		before := r.ofAll()
		r.turn(days)
		r.today.add(sent(1 << 20))
		r.turn(-days)
		if got := r.ofAll().Sent; got != before.Sent+1<<20 {
			t.Errorf("%d days and back: %d in all", days, got)
		}
		want := uint64(1 << 6)
		if days >= week {
			want = 0
		}
		if got := r.today.tally().Sent; got != want {
			t.Errorf("%d days and back: %d today, want %d", days, got, want)
		}
		if got := r.ofWeek().Sent; days == 1 && got != before.Sent-1 || days == 3 && got != before.Sent-7 {
			t.Errorf("%d days and back: %d in the week", days, got)
		}
	}
}

// TestBounded: names without number neither fill the table nor push out those that cost
// something, and nothing is lost of the sums.
func TestBounded(t *testing.T) {
	t.Parallel()
	b := New()
	total := uint64(0)
	add := func(name string, sure bool, n uint64) {
		b.Add("u", name, sure, sent(n))
		total += n
	}
	for i := range 300 {
		add(fmt.Sprint("real/", i), true, 1_000_000+uint64(i))
	}
	for i := range 30_000 {
		add(fmt.Sprint("made/up", i), true, 5000)
		add(fmt.Sprint("not/there", i), false, 1<<30)
	}
	add("real/new", true, 2_000_000)
	for i := range 1000 {
		add(fmt.Sprint("made/up-too", i), true, 5000)
	}
	r := b.Report()
	got := repositories(t, r.Total)
	if len(b.rows) > maxRows || len(got) > maxRows {
		t.Errorf("%d rows", len(b.rows))
	}
	for i := range 300 {
		if name := fmt.Sprint("real/", i); got[name] != 1_000_000+uint64(i) {
			t.Errorf("%s: %d", name, got[name])
		}
	}
	if got["real/new"] != 2_000_000 {
		t.Errorf("real/new: %d", got["real/new"])
	}
	if got["not/there1"] != 0 || got[""] < 30_000<<30 {
		t.Errorf("names of the client's own have rows: %d among the others", got[""])
	}
	if r.Total.Sent != total || r.Today.Sent != total || r.Total.Upstreams[0].Sent != total {
		t.Errorf("%d in all, want %d", r.Total.Sent, total)
	}
}

// TestNewcomers: what is used this week takes the place of what was large once.
func TestNewcomers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := New()
		for i := range maxRows {
			b.Add("u", fmt.Sprint("old/", i), true, sent(1000+uint64(i)))
		}
		time.Sleep(30 * 24 * time.Hour)
		for i := range maxRows / 2 {
			b.Add("u", fmt.Sprint("new/", i), true, sent(100))
		}
		got := repositories(t, b.Report().Total)
		for i := range maxRows / 2 {
			if name := fmt.Sprint("new/", i); got[name] != 100 {
				t.Fatalf("%s: %d", name, got[name])
			}
		}
		if got["old/999"] != 1999 || got["old/0"] != 0 || got[""] == 0 {
			t.Errorf("largest %d, smallest %d, others %d", got["old/999"], got["old/0"], got[""])
		}
	})
}

// TestManyAtOnce: nothing is lost or counted twice while days turn, rows are summed up,
// the book is looked at and written down.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(23 * time.Hour)
		log, _ := watched()
		b := Open(newPaper(), log)
		defer b.Close()
		var total atomic.Uint64
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(uint64(i), 0))
				for range 200 {
					for range 20 {
						n := 1 + rng.Uint64N(1000)
						b.Add("u", fmt.Sprint("r/", rng.IntN(3*maxRows)), rng.IntN(3) > 0, Tally{n, n, n, n})
						total.Add(n)
					}
					if rng.IntN(20) == 0 {
						b.Report()
					}
					time.Sleep(time.Duration(rng.Int64N(int64(2 * time.Minute))))
				}
			})
		}
		wg.Wait()
		n := total.Load()
		if got := b.Report().Total.Tally; got != (Tally{n, n, n, n}) {
			t.Errorf("%+v, want %d", got, n)
		}
	})
}

// BenchmarkAdd is what a request costs, alone and beside others.
func BenchmarkAdd(b *testing.B) {
	k := New()
	for i := range 900 {
		k.Add("docker.io", fmt.Sprint("library/", i), true, sent(1))
	}
	b.Run("one", func(b *testing.B) {
		for b.Loop() {
			k.Add("docker.io", "library/77", false, sent(4096))
		}
	})
	b.Run("many", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				k.Add("docker.io", "library/77", false, sent(4096))
			}
		})
	})
}
