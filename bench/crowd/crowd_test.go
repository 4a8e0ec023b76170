package crowd_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cistern/bench/crowd"
)

// Each file is what its name says, public, and as long as the list says.
func TestPopulate(t *testing.T) {
	t.Parallel()
	h := crowd.Home{Dir: t.TempDir()}
	members, w, err := h.Populate(t.Context(), crowd.Spec{Seed: 7, Blobs: 500}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var total int64
	seen := map[string]bool{}
	for _, m := range members {
		data, err := os.ReadFile(filepath.Join(h.Cache(), m.File()))
		if err != nil {
			t.Fatal(err)
		}
		if sha256.Sum256(data) != m.Sum || int64(len(data)) != m.Size || seen[m.Digest()] {
			t.Fatalf("%s: wrong or twice", m.Digest())
		}
		seen[m.Digest()] = true
		total += m.Size
		if fi, err := os.Lstat(filepath.Join(h.Cache(), m.File())); err != nil || fi.Mode() != fs.ModeSticky|0o600 {
			t.Fatalf("%s: mode %v, %v", m.File(), fi.Mode(), err)
		}
	}
	if w.Bytes != total || w.Blobs != 500 || w.Allocated < total {
		t.Errorf("written %+v, want %d bytes", w, total)
	}
	again, w, err := h.Populate(t.Context(), crowd.Spec{Seed: 7, Blobs: 500}, nil)
	if err != nil || w.Blobs != 0 || len(again) != 500 || again[499] != members[499] {
		t.Errorf("used again: %v, %+v, %d", err, w, len(again))
	}
}

// The same seed gives the same blobs, another one others.
func TestSeed(t *testing.T) {
	t.Parallel()
	write := func(seed uint64) []crowd.Member {
		ms, _, err := crowd.Write(t.Context(), t.TempDir(), crowd.Spec{Seed: seed, Blobs: 20, Probes: true}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return ms
	}
	a, b, c := write(1), write(1), write(2)
	for i := range a {
		if a[i] != b[i] || a[i].Sum == c[i].Sum || a[i].Size != crowd.ProbeSize {
			t.Fatalf("blob %d: %v, %v, %v", i, a[i], b[i], c[i])
		}
	}
}

// A million must fit in about 8 GB, most of them small.
func TestSizes(t *testing.T) {
	t.Parallel()
	s := crowd.Spec{Seed: 1, Blobs: 100_000}
	var allocated int64
	var small, probes int
	for i := range s.Blobs {
		n := s.Size(i)
		if n < 32 || n > 1<<20 {
			t.Fatalf("blob %d has %d bytes", i, n)
		}
		allocated += (n + 4095) &^ 4095
		if n <= 8<<10 {
			small++
		}
		if n == crowd.ProbeSize {
			probes++
		}
	}
	if mean := allocated / int64(s.Blobs); mean < 7000 || mean > 8500 {
		t.Errorf("%d bytes allocated a blob", mean)
	}
	if small < 80_000 || probes < 1900 || probes > 2200 {
		t.Errorf("%d up to 8 KiB, %d probes", small, probes)
	}
}

// Nothing of somebody else's is taken for a crowd, and what was not finished is not.
func TestRefused(t *testing.T) {
	t.Parallel()
	h := crowd.Home{Dir: t.TempDir()}
	if err := os.Mkdir(h.Cache(), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, _, err := h.Populate(t.Context(), crowd.Spec{Blobs: 1}, nil); err == nil || !strings.Contains(err.Error(), "remove it") {
		t.Errorf("a cache of somebody's: %v", err)
	}
	h = crowd.Home{Dir: t.TempDir()}
	if _, _, err := h.Populate(t.Context(), crowd.Spec{Blobs: 3}, nil); err != nil {
		t.Fatal(err)
	}
	if _, _, err := h.Populate(t.Context(), crowd.Spec{Blobs: 4}, nil); err == nil {
		t.Error("another crowd was taken")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	h = crowd.Home{Dir: t.TempDir()}
	if _, _, err := h.Populate(ctx, crowd.Spec{Blobs: 3}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestForget(t *testing.T) {
	t.Parallel()
	h := crowd.Home{Dir: t.TempDir()}
	ms, _, err := h.Populate(t.Context(), crowd.Spec{Blobs: 1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(h.Cache(), "index.db"), bytes.Repeat([]byte("x"), 10), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := h.Forget(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Join(h.Cache(), "index.db")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the index: %v", err)
	}
	if _, err := os.Lstat(filepath.Join(h.Cache(), ms[0].File())); err != nil {
		t.Error(err)
	}
}
