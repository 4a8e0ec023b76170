package index

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"pgregory.net/rapid"

	"cistern/internal/durable/durabletest"
	"cistern/internal/oci"
)

// watched opens an index and checks, after each transaction, that the file is
// not larger than what was accounted for before it.
func watched(t testing.TB, fatal func(string, ...any)) (x *Index, account *int64) {
	t.Helper()
	account = new(int64)
	x, err := Open(filepath.Join(t.TempDir(), "index.db"), Options{NoSync: true, Grew: func(n int64) {
		if x.FileSize() > *account {
			fatal("the file takes %d bytes, %d were accounted for", x.FileSize(), *account)
		}
		if *account += n; *account != x.Footprint() {
			fatal("the account says %d, the footprint is %d", *account, x.Footprint())
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	*account = x.Footprint()
	return x, account
}

// anyBatch makes a batch of up to n entries of each kind over so many digests.
func anyBatch(rng *rand.Rand, n, digests int) (b Batch) {
	any := func() int { return rng.IntN(digests) }
	up := func() int { return rng.IntN(n + 1) }
	b.Touch = map[oci.Digest]time.Time{}
	for range up() {
		r := scaled(any())
		r.LastUsed = at(any())
		b.Put = append(b.Put, r)
	}
	for range up() {
		b.Touch[serial(uint64(any()))] = at(any())
	}
	for range up() {
		b.Delete = append(b.Delete, serial(uint64(any())))
	}
	for range up() {
		i := any()
		repo := oci.Repository{Upstream: "docker.io", Name: fmt.Sprintf("library/%0*d", rng.IntN(200)+1, i%1000)}
		b.PutGrants = append(b.PutGrants, Grant{repo, serial(uint64(i)), at(i)})
		b.PutTags = append(b.PutTags, Tag{Reference: oci.Reference{Repository: repo, Tag: fmt.Sprint("v", i)}, Target: oci.Descriptor{Digest: serial(uint64(i))}})
	}
	return b
}

// The cap counts the index by Footprint: no transaction may take more, also
// while a reader keeps freed pages from being used again.
func TestFootprintBoundsGrowth(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		x, _ := watched(t, rt.Fatalf)
		defer closeIndex(t, x)
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 0))
		n := rapid.SampledFrom([]int{10, 100, durabletest.Either(1200, 200)}).Draw(rt, "entries")
		for range rapid.IntRange(1, 4).Draw(rt, "batches") {
			if rapid.Bool().Draw(rt, "reader") {
				tx, err := x.db.Begin(false)
				if err != nil {
					rt.Fatal(err)
				}
				defer tx.Rollback() //nolint:errcheck // it reads
			}
			apply(t, x, anyBatch(rng, n, 4*n))
		}
	})
}

// The same where the constants of the margin decide, not the size of the file.
func TestFootprintOfLargeFile(t *testing.T) {
	t.Parallel()
	x, _ := watched(t, t.Fatalf)
	defer closeIndex(t, x)
	n := durabletest.Either(60_000, 20_000)
	for i := 0; i < n; i += 5000 {
		var b Batch
		for j := i; j < i+5000; j++ {
			b.Put = append(b.Put, scaled(j))
		}
		apply(t, x, b)
	}
	tx, err := x.db.Begin(false)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback() //nolint:errcheck // it reads
	rng := rand.New(rand.NewPCG(1, 2))
	most := int64(0)
	for range 6 {
		before := x.FileSize()
		var b Batch
		for range perTx {
			r := scaled(rng.IntN(n))
			r.LastUsed = at(rng.IntN(n))
			b.Put = append(b.Put, r)
		}
		apply(t, x, b)
		most = max(most, x.FileSize()-before)
	}
	if x.FileSize() < rewritten/2 {
		t.Errorf("the file takes %d bytes: the margin is not tried", x.FileSize())
	}
	t.Logf("at most %d KiB in one call", most>>10)
}

// Under churn the file settles: free pages are used again.
func TestFileSettles(t *testing.T) {
	t.Parallel()
	const n, per = 4000, 200
	times := durabletest.Either(20, 5) // that all are replaced
	x, account := watched(t, t.Fatalf)
	defer closeIndex(t, x)
	rng := rand.New(rand.NewPCG(3, 4))
	next := 0
	step := func(deletes bool) {
		var b Batch
		for range per {
			if deletes { // as eviction does, the oldest; now and then another
				b.Delete = append(b.Delete, serial(uint64(next-n)))
			}
			b.Put = append(b.Put, scaled(next))
			next++
		}
		b.Touch = map[oci.Digest]time.Time{}
		for range per / 2 {
			b.Touch[serial(uint64(max(0, next-1-rng.IntN(n))))] = at(next + rng.IntN(n))
		}
		apply(t, x, b)
	}
	for next < n {
		step(false)
	}
	full := x.FileSize()
	var at4 int64
	for next < (1+times)*n {
		step(true)
		if next == 4*n {
			at4 = x.FileSize()
		}
	}
	t.Logf("full %d KiB, after replacing all 3 times %d, %d times %d; %d bytes a record", full>>10, at4>>10, times, x.FileSize()>>10, x.FileSize()/n)
	if x.FileSize() > 3*full || x.FileSize() > at4*5/4 {
		t.Errorf("the file grows: %d when full, %d, then %d bytes", full, at4, x.FileSize())
	}
	if got, _ := x.Totals().Sum(); got != n {
		t.Errorf("%d records", got)
	}
	if *account < x.FileSize() {
		t.Errorf("%d accounted for", *account)
	}
}
