package hist

import (
	"reflect"
	"testing"

	"cistern/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

func TestHistogram(t *testing.T) {
	h := New(.1, 1)
	for _, v := range []float64{-1, .1, .5, 1, 7} {
		h.Observe(v)
	}
	want := Snapshot{Bounds: []float64{.1, 1}, Counts: []uint64{2, 4}, Count: 5, Sum: 8.6}
	if got := h.Snapshot(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if n := testing.AllocsPerRun(100, func() { h.Observe(.3) }); n != 0 {
		t.Errorf("Observe allocates %v times", n)
	}
}
