package origin

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func mustLayer(t *testing.T, g *generator, name string, size int64) *Blob {
	t.Helper()
	b, err := g.layer(name, size)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func memory(t *testing.T, path string) *digestCache {
	t.Helper()
	c, err := openDigests(path)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestLayersAreWhatTheirDigestsSay(t *testing.T) {
	t.Parallel()
	g := newGenerator(1, memory(t, ""))
	for _, size := range []int64{1, 511, 4095, 4096, 4097, 65536, 1<<20 - 1, 1 << 20, 3<<20 + 12345} {
		b := mustLayer(t, g, "x", size)
		data, err := io.ReadAll(b.Open())
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(data)
		if b.Digest != "sha256:"+hex.EncodeToString(sum[:]) || int64(len(data)) != size || b.Size != size {
			t.Errorf("size %d: %d bytes with digest %x, want %s", size, len(data), sum, b.Digest)
		}
		if crc := crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli)); crc != b.CRC {
			t.Errorf("size %d: CRC %x, want %x", size, crc, b.CRC)
		}
	}
}

func TestContentIsTheSameAgain(t *testing.T) {
	t.Parallel()
	a, b, other := newGenerator(7, memory(t, "")), newGenerator(7, memory(t, "")), newGenerator(8, memory(t, ""))
	x := mustLayer(t, a, "l", 100_000)
	if y := mustLayer(t, b, "l", 100_000); x.Digest != y.Digest {
		t.Error("the same seed makes other content")
	}
	for name, y := range map[string]*Blob{"seed": mustLayer(t, other, "l", 100_000), "name": mustLayer(t, a, "m", 100_000), "size": mustLayer(t, a, "l", 100_001)} {
		if x.Digest == y.Digest {
			t.Errorf("another %s makes the same content", name)
		}
	}
}

// Any piece read by itself is the piece of the whole.
func TestReadAtAnyOffset(t *testing.T) {
	t.Parallel()
	b := mustLayer(t, newGenerator(1, memory(t, "")), "x", 2<<20+777)
	whole, err := io.ReadAll(b.Open())
	if err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		off := rnd.Int64N(b.Size)
		n := rnd.Int64N(min(b.Size-off, 20_000)) + 1
		p := make([]byte, n)
		if _, err := b.fill.ReadAt(p, off); err != nil && err != io.EOF {
			t.Fatal(err)
		}
		if !bytes.Equal(p, whole[off:off+n]) {
			t.Fatalf("bytes %d to %d differ when read alone", off, off+n)
		}
	}
}

// No two pages of any blobs are alike: bytes of the wrong place are noticed.
func TestPagesDiffer(t *testing.T) {
	t.Parallel()
	g := newGenerator(1, memory(t, ""))
	seen := map[string]bool{}
	for _, name := range []string{"a", "b"} {
		data, err := io.ReadAll(mustLayer(t, g, name, 3<<20).Open())
		if err != nil {
			t.Fatal(err)
		}
		for page := range slices.Chunk(data[pageSize:len(data)-pageSize], pageSize) {
			if seen[string(page)] {
				t.Fatal("a page appears twice")
			}
			seen[string(page)] = true
		}
	}
}

func TestLayersAreArchives(t *testing.T) {
	t.Parallel()
	g := newGenerator(1, memory(t, ""))
	for _, size := range []int64{4096, 5000, 1 << 20} {
		r := tar.NewReader(mustLayer(t, g, "x", size).Open())
		h, err := r.Next()
		if err != nil {
			t.Fatalf("size %d: %v", size, err)
		}
		if n, err := io.Copy(io.Discard, r); err != nil || n != h.Size {
			t.Errorf("size %d: file of %d bytes, read %d, %v", size, h.Size, n, err)
		}
		if _, err := r.Next(); err != io.EOF {
			t.Errorf("size %d: after the file: %v, want the end", size, err)
		}
	}
}

func TestDigestCache(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "sub", "digests")
	first := mustLayer(t, newGenerator(1, memory(t, path)), "x", 50_000)
	// A cached digest is believed: a marked one shows that it was taken from there.
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	marked := "sha256:" + strings.Repeat("ab", 32)
	broken := "g1 cut-of\nnonsense\ng0 " + strings.TrimPrefix(string(data), "g1 ") + strings.ReplaceAll(string(data), first.Digest, marked)
	if err := os.WriteFile(path, []byte(broken), 0o600); err != nil {
		t.Fatal(err)
	}
	if b := mustLayer(t, newGenerator(1, memory(t, path)), "x", 50_000); b.Digest != marked || b.CRC != first.CRC {
		t.Errorf("digest %s, CRC %d: not from the cache", b.Digest, b.CRC)
	}
	if b := mustLayer(t, newGenerator(2, memory(t, path)), "x", 50_000); b.Digest == marked {
		t.Error("another seed's digest was taken")
	}
}

func TestLayerSizes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in   string
		want []int64
	}{
		{"a/1x64m", []int64{64 << 20}},
		{"2x1k-1x5b", []int64{1024, 1024, 5}},
		{"x/y/1x1g", []int64{1 << 30}},
		{"library/nginx", nil},
		{"1x0m", nil},
		{"0x1m", nil},
		{"99999x1k", nil},
		{"1x999999g", nil},
		{"1x64m/x", nil},
		{"", nil},
	} {
		got, ok := LayerSizes(c.in)
		if ok != (c.want != nil) || !slices.Equal(got, c.want) {
			t.Errorf("LayerSizes(%q) = %v, %v, want %v", c.in, got, ok, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, p := range []string{"/v2/", "/v2/a/b/manifests/x", "/v2/a/blobs/sha256:0", "/cdn/a/b/c", "/token", "", "/v2/manifests/manifests/manifests"} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, path string) {
		if r := parse(path); r.kind == "" {
			t.Errorf("parse(%q) has no kind", path)
		}
		LayerSizes(path)
	})
}
