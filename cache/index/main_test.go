package index

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"cistern/internal/leaktest"
	"cistern/internal/oci"
)

// TestMain is also the child process of TestMutations, which may die.
func TestMain(m *testing.M) {
	if from := os.Getenv(childEnv); from != "" {
		if err := mutateAll(from, os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	leaktest.Main(m)
}

func newIndex(t testing.TB) *Index {
	t.Helper()
	return openIndex(t, filepath.Join(t.TempDir(), "index.db"))
}

func openIndex(t testing.TB, path string) *Index {
	t.Helper()
	x, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := x.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return x
}

func digest(i int) oci.Digest { return oci.FromBytes(fmt.Append(nil, i)) }

// at is a moment i seconds after a fixed one.
func at(i int) time.Time { return time.Unix(1_700_000_000+int64(i), 0) }

func record(i int, size int64) Record {
	return Record{
		Digest: digest(i), Size: size, Allocated: (size + 4095) / 4096 * 4096, MediaType: "application/octet-stream",
		Class: ClassOf(size, false), FirstSeen: at(i), LastUsed: at(i), Public: i%2 == 0, Origin: "docker.io",
	}
}

func apply(t testing.TB, x *Index, b Batch) {
	t.Helper()
	if err := x.Apply(b); err != nil {
		t.Fatal(err)
	}
}

func get(t testing.TB, x *Index, d oci.Digest) (Record, bool) {
	t.Helper()
	r, ok, err := x.Get(d)
	if err != nil {
		t.Fatal(err)
	}
	return r, ok
}
