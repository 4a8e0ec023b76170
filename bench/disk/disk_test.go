package disk_test

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"cistern/bench/disk"
)

func TestAllocated(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	before, err := disk.Allocated(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a"), make([]byte, 10_000), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := disk.Flush(dir); err != nil {
		t.Fatal(err)
	}
	after, err := disk.Allocated(dir)
	if err != nil || after-before < 10_000 || after-before > 100_000 {
		t.Errorf("allocated %d, then %d, %v", before, after, err)
	}
	if err := disk.Uncache(filepath.Join(dir, "a")); err != nil {
		t.Error(err)
	}
	if _, err := disk.Allocated(filepath.Join(dir, "none")); err != nil {
		t.Errorf("of what is not there: %v", err)
	}
}

// The highest value counts, also when it has gone since.
func TestWatch(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		s, err := disk.Watch(ctx, dir, time.Millisecond, 1)
		if err != nil || s.Samples < 50 || s.Highest <= 0 || s.Above != s.Samples || s.Longest < 49*time.Millisecond {
			t.Errorf("%+v, %v", s, err)
		}
		s, err = disk.Watch(ctx, dir, time.Millisecond, math.MaxInt64)
		if err != nil || s.Above != 0 || s.Longest != 0 {
			t.Errorf("under the limit: %+v, %v", s, err)
		}
		if _, err := disk.Watch(ctx, "/no/such/folder", time.Millisecond, 0); err == nil {
			t.Error("watched what is not there")
		}
	})
}

// Where a volume can be made it is empty, counts what is written and goes again;
// elsewhere the error says that it cannot.
func TestVolume(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	v, err := disk.NewVolume(t.Context(), filepath.Join(dir, "v"), disk.Shape{Size: 64 << 20, Mount: "nodelalloc"})
	if errors.Is(err, disk.ErrNoVolume) {
		if left, lerr := os.ReadDir(dir); lerr != nil || len(left) != 0 {
			t.Errorf("left behind: %v, %v", left, lerr)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(v.Dir, "a"), make([]byte, 1<<20), 0o600); err != nil {
		t.Error(err)
	}
	if used, err := disk.Used(v.Dir); err != nil || used-v.Base < 1<<20 || used-v.Base > 2<<20 {
		t.Errorf("used %d over %d, %v", used, v.Base, err)
	}
	if err := v.Close(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
