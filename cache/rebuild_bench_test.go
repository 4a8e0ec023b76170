package cache

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"cistern/internal/oci"
)

// BenchmarkRebuild records small files that have no record; one op is one file.
// CISTERN_BENCH_DIR chooses the file system.
func BenchmarkRebuild(b *testing.B) {
	dir, err := os.MkdirTemp(os.Getenv("CISTERN_BENCH_DIR"), "rebuild")
	if err != nil {
		b.Fatal(err)
	}
	defer os.RemoveAll(dir)
	n := max(b.N, 1000)
	for i := range n {
		data := fmt.Appendf(make([]byte, 4000), "%d", i)
		h := oci.FromBytes(data).Hex()
		shard := filepath.Join(dir, "blobs/sha256", h[:2])
		if err := os.MkdirAll(shard, 0o700); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(shard, h), data, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	b.ResetTimer()
	c := open(b, Options{Dir: dir})
	c.work.Wait() // nothing else is under way
	b.StopTimer()
	if got, _ := c.idx.Load().Totals().Sum(); got != int64(n) {
		b.Errorf("%d of %d recorded", got, n)
	}
	c.close()
}
