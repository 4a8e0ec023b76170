package flight

import (
	"sync"
	"sync/atomic"
	"testing"
)

func TestGroup(t *testing.T) {
	t.Parallel()
	var g Group[string, int]
	if _, ok := g.Join("a", func() (int, bool) { return 0, false }); ok {
		t.Error("joined what declined to start")
	}
	if _, ok := g.Get("a"); ok {
		t.Error("what declined is in flight")
	}
	g.Join("a", func() (int, bool) { return 1, true })
	if v, ok := g.Join("a", func() (int, bool) { t.Error("started twice"); return 2, true }); !ok || v != 1 {
		t.Errorf("%d, %v", v, ok)
	}
	g.Replace("a", 3)
	if v, _ := g.Get("a"); v != 3 {
		t.Errorf("%d", v)
	}
	if all := g.All(); len(all) != 1 || all[0] != 3 {
		t.Errorf("%v", all)
	}
	g.Forget("a")
	g.Forget("a")
	if len(g.All()) != 0 {
		t.Error("forgotten, and there")
	}
}

// TestGroupStartsOnce has many join the same key at once.
func TestGroupStartsOnce(t *testing.T) {
	t.Parallel()
	var g Group[int, *int]
	var starts atomic.Int32
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			v, ok := g.Join(7, func() (*int, bool) { starts.Add(1); return new(int), true })
			if other, _ := g.Get(7); !ok || v != other {
				t.Error("joined something else")
			}
		})
	}
	wg.Wait()
	if n := starts.Load(); n != 1 {
		t.Errorf("started %d times", n)
	}
}
