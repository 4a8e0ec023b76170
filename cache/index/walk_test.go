package index

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cistern/internal/oci"
)

// TestAfter: page by page each record comes once, in the order of the digests, whatever
// goes meanwhile.
func TestAfter(t *testing.T) {
	t.Parallel()
	x := newIndex(t)
	var b Batch
	var want []string
	for i := range 100 {
		b.Put = append(b.Put, record(i, int64(i)))
		want = append(want, digest(i).String())
	}
	apply(t, x, b)
	slices.Sort(want)
	var got []string
	var last oci.Digest
	for {
		page, err := x.After(last, 7)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		for _, r := range page {
			if want, ok := get(t, x, r.Digest); !ok || r != want {
				t.Errorf("%+v, want %+v", r, want)
			}
			got = append(got, r.Digest.String())
		}
		last = page[len(page)-1].Digest
		apply(t, x, Batch{Delete: []oci.Digest{last}})
	}
	if !slices.Equal(got, want) {
		t.Errorf("%d come, want %d:\n%s", len(got), len(want), strings.Join(got, "\n"))
	}
}

// TestScrub: what is remembered is there after a restart.
func TestScrub(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "index.db")
	x, err := Open(path, Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	if s, err := x.Scrub(); err != nil || s != (Scrub{}) {
		t.Errorf("of a new one: %+v, %v", s, err)
	}
	want := Scrub{Last: digest(1), Began: at(5), Ended: at(3)}
	for _, s := range []Scrub{{Began: at(5)}, want} {
		if err := x.SetScrub(s); err != nil {
			t.Fatal(err)
		}
		if got, err := x.Scrub(); err != nil || got != s {
			t.Errorf("%+v, %v", got, err)
		}
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := openIndex(t, path).Scrub(); err != nil || got != want {
		t.Errorf("after a restart: %+v, %v", got, err)
	}
}
