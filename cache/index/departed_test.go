package index

import (
	"path/filepath"
	"testing"

	bolt "go.etcd.io/bbolt"

	"cistern/internal/oci"
)

func departed(t testing.TB, x *Index, n int) (Departure, bool) {
	t.Helper()
	d, ok, err := x.Departed(digest(n))
	if err != nil {
		t.Fatal(err)
	}
	return d, ok
}

// TestDeparted: of the last blobs that went it is known why, also after a restart; of one
// that went twice the second time; and of those before them nothing, which takes no room.
func TestDeparted(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "index.db")
	x, err := Open(path, Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	gone := func(n int, why Why) Departure {
		return Departure{Digest: digest(n), Why: why, At: at(n), LastUsed: at(n / 2), Size: int64(n)}
	}
	var b Batch
	for n := range Remembered + 100 {
		b.Departed = append(b.Departed, gone(n+1, Evicted))
	}
	b.Departed = append(b.Departed, gone(200, Removed), Departure{Digest: digest(5)}, Departure{Why: Damaged})
	apply(t, x, b)
	if got := x.Stats().Refused; got != 2 {
		t.Errorf("%d were refused", got)
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	x = openIndex(t, path)
	for n, want := range map[int]Why{1: 0, 101: 0, 102: Evicted, 200: Removed, Remembered + 100: Evicted, Remembered + 101: 0} {
		dep, ok := departed(t, x, n)
		if ok != (want != 0) || ok && dep != gone(n, want) {
			t.Errorf("%d: %+v, %v", n, dep, ok)
		}
	}
	apply(t, x, Batch{Departed: b.Departed[:1000]}) // of all that were there the first is the one that went twice
	if dep, ok := departed(t, x, 200); !ok || dep.Why != Evicted {
		t.Errorf("gone a third time: %+v, %v", dep, ok)
	}
	err = x.db.View(func(tx *bolt.Tx) error {
		n, order := tx.Bucket(bucketDeparted).Stats().KeyN, tx.Bucket(bucketDepartures).Stats().KeyN
		if n > Remembered || order != Remembered {
			t.Errorf("%d departures in an order of %d", n, order)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestDepartedComesBack: what is put again has not gone.
func TestDepartedComesBack(t *testing.T) {
	t.Parallel()
	x := newIndex(t)
	apply(t, x, Batch{Put: []Record{record(1, 4096)}})
	apply(t, x, Batch{Delete: []oci.Digest{digest(1)}, Departed: []Departure{{Digest: digest(1), Why: Evicted, At: at(1)}}})
	apply(t, x, Batch{Put: []Record{record(1, 4096)}})
	if dep, ok := departed(t, x, 1); ok {
		t.Errorf("%+v", dep)
	}
}

// TestOlderFile: what a file of an older program lacks is added to it, and nothing of it
// is lost; one that is only read does without.
func TestOlderFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "index.db")
	x, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	apply(t, x, Batch{Put: []Record{record(1, 4096)}})
	err = x.db.Update(func(tx *bolt.Tx) error {
		for _, name := range addedBuckets() {
			if err := tx.DeleteBucket(name); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil || x.Close() != nil {
		t.Fatal(err)
	}
	r, err := Open(path, Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := departed(t, r, 1); ok {
		t.Error("it has gone, as one says who knows nothing of that")
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	x = openIndex(t, path)
	apply(t, x, Batch{Delete: []oci.Digest{digest(1)}, Departed: []Departure{{Digest: digest(1), Why: Evicted, At: at(1)}}})
	if _, ok := departed(t, x, 1); !ok || x.Fresh() {
		t.Error("nothing is remembered")
	}
}
