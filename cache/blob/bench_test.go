package blob

import (
	"context"
	"testing"

	"cistern/internal/oci"
)

func BenchmarkOpenFile(b *testing.B) {
	s := openStore(b, Options{})
	put(b, s, digest(1), content(1, 4096))
	lasting(b, s, digest(1))
	b.ReportAllocs()
	for b.Loop() {
		f, err := s.OpenFile(digest(1))
		if err != nil {
			b.Fatal(err)
		}
		if err := f.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// A small fill without its checkpoint: what a client's request waits for.
func BenchmarkFill64K(b *testing.B) {
	s := openStore(b, Options{Limit: 1 << 40})
	data := content(1, 64<<10)
	b.SetBytes(int64(len(data)))
	i := 0
	for b.Loop() {
		i++
		d := digest(i)
		if err := s.Remove(d, put(b, s, d, data)); err != nil {
			b.Fatal(err)
		}
	}
}

// A checkpoint of 1,000 small fills, with fill and removal outside the clock.
func BenchmarkCheckpoint1000(b *testing.B) {
	s := openStore(b, Options{})
	i := 0
	for b.Loop() {
		b.StopTimer()
		var ds []oci.Digest
		for range 1000 {
			i++
			ds = append(ds, digest(i))
			put(b, s, digest(i), content(i, 16<<10))
		}
		b.StartTimer()
		lasting(b, s, ds...)
		b.StopTimer()
		for _, d := range ds {
			if err := s.Remove(d, 16<<10); err != nil {
				b.Fatal(err)
			}
		}
		b.StartTimer()
	}
	st := s.Stats()
	b.ReportMetric(float64(st.FilesSynced+st.FoldersSynced)/float64(b.N), "fsyncs/op")
}

func BenchmarkReserve(b *testing.B) {
	s := openStore(b, Options{Limit: 1 << 40})
	for b.Loop() {
		r, err := s.Reserve(context.Background(), 1<<20)
		if err != nil {
			b.Fatal(err)
		}
		r.Release()
	}
}
