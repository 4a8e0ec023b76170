package index

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"cistern/internal/oci"
)

// serial is a digest made of a number, without hashing.
func serial(i uint64) oci.Digest {
	var b [32]byte
	r := rand.New(rand.NewPCG(i, 7))
	for at := 0; at < len(b); at += 8 {
		binary.BigEndian.PutUint64(b[at:], r.Uint64())
	}
	d, err := oci.ParseDigest(fmt.Sprintf("sha256:%x", b))
	if err != nil {
		panic(err)
	}
	return d
}

// scaled is the i-th record of a large index: mostly small blobs, manifests and
// some large ones, used in the order of their numbers.
func scaled(i int) Record {
	size := int64(i%300) * 500
	if i%10 == 0 {
		size = 2 << 20
	}
	r := record(i, size)
	r.Digest = serial(uint64(i))
	if i%10 < 3 {
		r.Class, r.MediaType = ClassManifest, oci.MediaTypeOCIManifest
	}
	return r
}

// build makes an index of n records, in the order of their digests, as a
// rebuilding does, then closes and opens it.
func build(tb testing.TB, n, perBatch int) *Index {
	tb.Helper()
	recs := make([]Record, n)
	for i := range recs {
		recs[i] = scaled(i)
	}
	slices.SortFunc(recs, func(a, b Record) int { return strings.Compare(a.Digest.String(), b.Digest.String()) })
	path := filepath.Join(tb.TempDir(), "index.db")
	x, err := Open(path, Options{NoSync: true})
	if err != nil {
		tb.Fatal(err)
	}
	for at := range slices.Chunk(recs, perBatch) {
		apply(tb, x, Batch{Put: at})
	}
	if err := x.Close(); err != nil {
		tb.Fatal(err)
	}
	return reopen(tb, path)
}

func reopen(tb testing.TB, path string) *Index {
	tb.Helper()
	x, err := Open(path, Options{NoSync: true})
	if err != nil {
		tb.Fatal(err)
	}
	return x
}

// scales are the numbers of records that are compared; a figure that grows with
// them by more than a tree's depth is a fault.
func scales(b *testing.B) []int {
	if testing.Short() {
		return []int{1000, 10_000}
	}
	return []int{1000, 1_000_000}
}

// anon is the anonymous memory of this process, in bytes.
func anon(b *testing.B) int64 {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "RssAnon:")
	n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	return n << 10
}

// BenchmarkScale is to be read by its ratios: what a million records cost
// against a thousand, in the same run.
func BenchmarkScale(b *testing.B) {
	for _, n := range scales(b) {
		x := build(b, n, 1000)
		name := fmt.Sprint("records=", n, "/")
		b.Run(name+"get", func(b *testing.B) { benchGet(b, x, n) })
		for _, skipped := range []int{0, 5000} {
			b.Run(fmt.Sprint(name, "victims/skipped=", skipped), func(b *testing.B) { benchVictims(b, x, n, skipped) })
		}
		oldest, next := 0, n
		b.Run(name+"put1000", func(b *testing.B) { benchPut(b, x, &next) })
		b.Run(name+"delete1000", func(b *testing.B) { benchDelete(b, x, &oldest, next) })
		churn(b, x, oldest, next)
		b.Run(name+"open", func(b *testing.B) { x = benchOpen(b, x, next-oldest) })
		closeIndex(b, x)
	}
}

func closeIndex(tb testing.TB, x *Index) {
	tb.Helper()
	if err := x.Close(); err != nil {
		tb.Fatal(err)
	}
}

func benchGet(b *testing.B, x *Index, n int) {
	ds := make([]oci.Digest, 1<<16)
	for i := range ds {
		ds[i] = serial(uint64(i * 7919 % n))
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

// benchVictims passes over some blobs, as if they were being read.
func benchVictims(b *testing.B, x *Index, n, skipped int) {
	b.ReportAllocs()
	for b.Loop() {
		left := min(skipped, n/2)
		skip := func(oci.Digest) bool { left--; return left >= 0 }
		vs, err := x.Victims(time.Time{}, 1<<40, [Classes]int64{}, nil, skip)
		if err != nil || len(vs) != min(maxVictims, n-min(skipped, n/2)) {
			b.Fatal(len(vs), err)
		}
	}
}

func benchPut(b *testing.B, x *Index, next *int) {
	b.ReportAllocs()
	for b.Loop() {
		var batch Batch
		for range 1000 {
			batch.Put = append(batch.Put, scaled(*next))
			*next++
		}
		apply(b, x, batch)
	}
}

func benchDelete(b *testing.B, x *Index, oldest *int, next int) {
	b.ReportAllocs()
	for b.Loop() {
		var batch Batch
		for range min(1000, next-*oldest-500) {
			batch.Delete = append(batch.Delete, serial(uint64(*oldest)))
			*oldest++
		}
		apply(b, x, batch)
	}
}

// churn replaces every other record, so that there are many free pages.
func churn(b *testing.B, x *Index, oldest, next int) {
	for i := oldest; i < next; i += 1000 {
		var batch Batch
		for j := i; j < min(i+1000, next); j += 2 {
			batch.Delete = append(batch.Delete, serial(uint64(j)))
			batch.Put = append(batch.Put, scaled(next+j))
		}
		apply(b, x, batch)
	}
}

// benchOpen opens the file again and again, and tells what an open one takes.
func benchOpen(b *testing.B, x *Index, records int) *Index {
	closeIndex(b, x)
	debug.FreeOSMemory()
	before := anon(b)
	for b.Loop() {
		x = reopen(b, x.Path())
		closeIndex(b, x)
	}
	x = reopen(b, x.Path())
	debug.FreeOSMemory()
	b.ReportMetric(float64(anon(b)-before), "anon-B")
	b.ReportMetric(float64(x.FileSize())/float64(records), "file-B/record")
	return x
}

// Hits while a writer commits without a pause: they must not wait for it.
func BenchmarkGetBesideCommits(b *testing.B) {
	x := build(b, 100_000, 1000)
	defer closeIndex(b, x)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if err := x.Apply(Batch{Put: []Record{scaled(i % 100_000)}}); err != nil {
				b.Error(err)
				return
			}
		}
	})
	i := 0
	for b.Loop() {
		i++
		if _, ok, err := x.Get(serial(uint64(i % 1000))); !ok || err != nil {
			b.Fatal(ok, err)
		}
	}
	close(stop)
	wg.Wait()
}

// Rebuilding: records in the order of their digests.
// BenchmarkDeparted is what a miss asks beside the look-up of its blob, with as many
// departures as are remembered: half of them of digests that are.
func BenchmarkDeparted(b *testing.B) {
	x := build(b, 100_000, 1000)
	defer closeIndex(b, x)
	for at := 0; at < Remembered; at += 1024 {
		var left Batch
		for i := range 1024 {
			left.Departed = append(left.Departed, Departure{Digest: serial(uint64(1_000_000 + at + i)), Why: Evicted, At: time.Unix(1, 0)})
		}
		if err := x.Apply(left); err != nil {
			b.Fatal(err)
		}
	}
	n := uint64(0)
	for b.Loop() {
		n++
		_, known, err := x.Departed(serial(1_000_000 + n%(2*Remembered)))
		if want := n%(2*Remembered) < Remembered; known != want || err != nil {
			b.Fatal(n, known, err)
		}
	}
}

func BenchmarkBuild(b *testing.B) {
	for _, perBatch := range []int{256, 1000, 4000} {
		b.Run(fmt.Sprint("batch=", perBatch), func(b *testing.B) {
			n := slices.Max(scales(b)) / 10
			for b.Loop() {
				closeIndex(b, build(b, n, perBatch))
			}
			b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "records/s")
		})
	}
}
