package index

import (
	"sync"
	"testing"

	"cistern/internal/oci"
)

// big gives an index of n records; made in steps as checkpoints are.
func big(b *testing.B, n int) *Index {
	x := newIndex(b)
	for i := 0; i < n; {
		var batch Batch
		for ; i < n && len(batch.Put) < 10_000; i++ {
			batch.Put = append(batch.Put, record(i, 5000))
		}
		apply(b, x, batch)
	}
	return x
}

func BenchmarkGetHit(b *testing.B) {
	x := big(b, 100_000)
	ds := make([]oci.Digest, 1000)
	for i := range ds {
		ds[i] = digest(i * 97)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i++
		if _, ok, err := x.Get(ds[i%len(ds)]); !ok || err != nil {
			b.Fatal(ok, err)
		}
	}
}

func BenchmarkGetHitParallel(b *testing.B) {
	x := big(b, 100_000)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if _, ok, err := x.Get(digest(i % 1000)); !ok || err != nil {
				b.Fatal(ok, err)
			}
		}
	})
}

// Hits while a writer commits without a pause: they must not wait for it.
func BenchmarkGetHitBesideCommits(b *testing.B) {
	x := big(b, 100_000)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if err := x.Apply(Batch{Put: []Record{record(i%100_000, 5000)}}); err != nil {
				b.Error(err)
				return
			}
		}
	})
	i := 0
	for b.Loop() {
		i++
		if _, ok, err := x.Get(digest(i % 1000)); !ok || err != nil {
			b.Fatal(ok, err)
		}
	}
	close(stop)
	wg.Wait()
}

func BenchmarkApply1000Puts(b *testing.B) {
	x := big(b, 100_000)
	i := 100_000
	for b.Loop() {
		var batch Batch
		for range 1000 {
			batch.Put = append(batch.Put, record(i, 5000))
			i++
		}
		apply(b, x, batch)
	}
	b.ReportMetric(float64(x.FileSize())/float64(i), "file-B/record")
}

func BenchmarkVictims(b *testing.B) {
	x := big(b, 100_000)
	for b.Loop() {
		vs, err := x.Victims(1000*8192, [Classes]int64{}, nil, nil)
		if err != nil || len(vs) != 1000 {
			b.Fatal(len(vs), err)
		}
	}
}
