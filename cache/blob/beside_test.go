package blob

import (
	"bytes"
	"fmt"
	"testing"

	"cistern/internal/durable/durabletest"
)

const besideName = "beside.json"

// TestBeside: what is written is read, and counts.
func TestBeside(t *testing.T) {
	t.Parallel()
	s := openStore(t, Options{Limit: 64 << 20})
	if data, err := s.ReadBeside(besideName); data != nil || err != nil {
		t.Error(data, err)
	}
	before := s.Usage().Used
	for _, size := range []int64{1, 100_000, 5000, 0} {
		data := bytes.Repeat([]byte("n"), int(size))
		if err := s.WriteBeside(besideName, data); err != nil {
			t.Fatal(err)
		}
		if got, err := s.ReadBeside(besideName); err != nil || got == nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes, %v; want %d", len(got), err, size)
		}
		if got := s.Usage().Used - before; got != need(size) {
			t.Errorf("%d bytes count as %d", size, got)
		}
	}
}

// TestBesideWhateverFails: there is the old file or the new one, and once one could be
// written the account is right.
func TestBesideWhateverFails(t *testing.T) {
	t.Parallel()
	for _, fault := range failures() {
		for n := 1; besideFails(t, fault, n); n++ {
		}
	}
}

// besideFails has the n-th operation of a write fail; false if there were fewer.
func besideFails(t *testing.T, fault durabletest.Fault, n int) bool {
	t.Helper()
	seam := &durabletest.Faulty{FS: durabletest.New(durabletest.Options{})}
	s, err := open(Options{FS: seam, Limit: 64 << 20}, testBoot)
	if err != nil {
		t.Fatal(err)
	}
	old, young := bytes.Repeat([]byte("o"), 9000), bytes.Repeat([]byte("y"), 100)
	if err := s.WriteBeside(besideName, old); err != nil {
		t.Fatal(err)
	}
	start, empty := seam.Count(), s.Usage().Used-need(9000)
	seam.Choose = durabletest.Nth(start+n, fault)
	werr := s.WriteBeside(besideName, young)
	seam.Choose = nil
	reached := seam.Count() >= start+n
	what := fmt.Sprintf("operation %d failing with %v, done %v", n, fault.Err, fault.Done)
	got, err := s.ReadBeside(besideName)
	isOld, isYoung := bytes.Equal(got, old), bytes.Equal(got, young)
	if err != nil || !isOld && !isYoung || werr == nil && isOld {
		t.Errorf("%s: %d bytes, %v, after %v", what, len(got), err, werr)
	}
	if err := s.WriteBeside(besideName, young); err != nil {
		t.Errorf("%s: the next one: %v", what, err)
	}
	if used := s.Usage().Used - empty; used != need(100) {
		t.Errorf("%s: the account says %d", what, used)
	}
	closeStore(t, s)
	return reached
}
