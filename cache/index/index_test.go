package index

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"cistern/internal/oci"
)

func TestRecordSurvivesReopening(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "index.db")
	x, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if !x.Fresh() {
		t.Error("a new index says that it is an old one")
	}
	sha512, err := oci.ParseDigest("sha512:" + strings.Repeat("ab", 64))
	if err != nil {
		t.Fatal(err)
	}
	want := []Record{record(1, 5000), record(2, 5<<20), {Digest: sha512, Size: 1, Class: ClassManifest}}
	apply(t, x, Batch{Put: want})
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := x.Get(digest(1)); !errors.Is(err, ErrClosed) {
		t.Errorf("Get after Close: %v", err)
	}
	x = openIndex(t, path)
	if x.Fresh() {
		t.Error("an old index says that it is new")
	}
	for _, w := range want {
		if got, ok := get(t, x, w.Digest); !ok || got != w {
			t.Errorf("got %+v, %v, want %+v", got, ok, w)
		}
	}
	if _, ok := get(t, x, digest(9)); ok {
		t.Error("found what was never put")
	}
	totals := x.Totals()
	if n, bytes := totals.Sum(); n != 3 || bytes != 8192+5<<20 {
		t.Errorf("totals are %d blobs, %d bytes", n, bytes)
	}
	if x.FileSize() <= 0 || x.Footprint() <= x.FileSize() {
		t.Errorf("size %d, footprint %d", x.FileSize(), x.Footprint())
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode: %v, %v", fi.Mode(), err)
	}
}

func TestKnown(t *testing.T) {
	t.Parallel()
	x := newIndex(t)
	apply(t, x, Batch{Put: []Record{record(1, 1), record(3, 1)}})
	got, err := x.Known([]oci.Digest{digest(1), digest(2), digest(3), {}})
	if err != nil || !slices.Equal(got, []bool{true, false, true, false}) {
		t.Errorf("%v, %v", got, err)
	}
}

func TestTouchIsCoarse(t *testing.T) {
	t.Parallel()
	x := newIndex(t)
	apply(t, x, Batch{Put: []Record{record(100, 1), record(200, 1)}})
	touch := func(i, to int, age time.Duration) {
		apply(t, x, Batch{Touch: map[oci.Digest]time.Time{digest(i): at(to)}, TouchAge: age})
	}
	for _, c := range []struct {
		name     string
		to, want int
		age      time.Duration
	}{
		{"within ten seconds nothing", 109, 100, 0},
		{"after ten seconds", 110, 110, 0},
		{"within a longer age nothing", 150, 110, time.Minute},
		{"a clock set back is believed", -1000, -1000, 0},
	} {
		commits := x.Stats().Commits
		touch(100, c.to, c.age)
		r, _ := get(t, x, digest(100))
		if !r.LastUsed.Equal(at(c.want)) {
			t.Errorf("%s: last used %v, want %v", c.name, r.LastUsed, at(c.want))
		}
		if stored := x.Stats().Commits > commits; stored != (c.want == c.to) {
			t.Errorf("%s: commit made: %v", c.name, stored)
		}
	}
	touch(12345, 1, 0) // no such blob
	if n, _ := x.Totals().Sum(); n != 2 {
		t.Errorf("%d blobs", n)
	}
}

func TestTouchesAreSplit(t *testing.T) {
	t.Parallel()
	x := newIndex(t)
	var b Batch
	b.Touch = map[oci.Digest]time.Time{}
	const n = 2*perTx + 1
	for i := range n {
		b.Put = append(b.Put, record(i, 1))
		b.Touch[digest(i)] = at(n + i + 10)
	}
	apply(t, x, b)
	if got := x.Stats().Commits; got != 1+5 { // one of them made the file
		t.Errorf("%d commits", got)
	}
	for i := range n {
		if r, _ := get(t, x, digest(i)); !r.LastUsed.Equal(at(n + i + 10)) {
			t.Fatalf("blob %d last used %v", i, r.LastUsed)
		}
	}
}

func TestDeletionTakesGrants(t *testing.T) {
	t.Parallel()
	x := newIndex(t)
	repos := []oci.Repository{{Upstream: "ghcr.io", Name: "a/b"}, {Upstream: "docker.io", Name: "a/b"}}
	apply(t, x, Batch{
		Put:       []Record{record(1, 1), record(2, 1)},
		PutGrants: []Grant{{repos[0], digest(1), at(0)}, {repos[1], digest(1), at(0)}, {repos[0], digest(2), at(7)}},
	})
	granted := func(r oci.Repository, i int) bool {
		ok, err := x.Granted(r, digest(i))
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	if !granted(repos[0], 1) || !granted(repos[1], 1) || !granted(repos[0], 2) || granted(repos[1], 2) {
		t.Error("grants are not those put")
	}
	if when, err := x.GrantedAt(repos[0], digest(2)); err != nil || !when.Equal(at(7)) {
		t.Errorf("granted at %v, %v", when, err)
	}
	apply(t, x, Batch{Delete: []oci.Digest{digest(1), digest(77)}})
	apply(t, x, Batch{Put: []Record{record(1, 1)}})
	if granted(repos[0], 1) || granted(repos[1], 1) || !granted(repos[0], 2) {
		t.Error("bytes that came back brought their grants along")
	}
}

func TestTags(t *testing.T) {
	t.Parallel()
	x := newIndex(t)
	repo := oci.Repository{Upstream: "docker.io", Name: "library/nginx"}
	other := oci.Repository{Upstream: "docker.io", Name: "library/ngin"}
	tag := func(r oci.Repository, name string, i int) Tag {
		return Tag{
			Reference: oci.Reference{Repository: r, Tag: name},
			Target:    oci.Descriptor{MediaType: oci.MediaTypeOCIIndex, Digest: digest(i), Size: int64(i) - 1},
			Checked:   at(i), Changed: at(i - 5), Public: i%2 == 0,
		}
	}
	want := []Tag{tag(repo, "1", 0), tag(repo, "latest", 1), tag(other, "latest", 2)}
	apply(t, x, Batch{PutTags: want})
	for _, w := range want {
		if got, ok, err := x.Tag(w.Reference); !ok || err != nil || got != w {
			t.Errorf("got %+v, %v, %v, want %+v", got, ok, err, w)
		}
	}
	if _, ok, err := x.Tag(oci.Reference{Repository: repo, Tag: "none"}); ok || err != nil {
		t.Errorf("unknown tag: %v, %v", ok, err)
	}
	if got := collect(t, x.TagsOf(repo)); !slices.Equal(got, want[:2]) {
		t.Errorf("tags of %v: %+v", repo, got)
	}
	if got := collect(t, x.TagsOf(oci.Repository{Upstream: "no", Name: "no"})); len(got) != 0 {
		t.Errorf("tags of nothing: %+v", got)
	}
	apply(t, x, Batch{DeleteTags: []oci.Reference{want[0].Reference}})
	if got := collect(t, x.Tags()); len(got) != 2 {
		t.Errorf("all tags: %+v", got)
	}
}

func TestTagsWalkInPages(t *testing.T) {
	t.Parallel()
	x := newIndex(t)
	var b Batch
	for i := range 3*tagsPerPage + 1 {
		b.PutTags = append(b.PutTags, Tag{
			Reference: oci.Reference{Repository: oci.Repository{Upstream: "u", Name: "n"}, Tag: "t" + digest(i).Hex()},
			Target:    oci.Descriptor{Digest: digest(i), Size: -1},
		})
	}
	apply(t, x, b)
	if got := collect(t, x.Tags()); len(got) != len(b.PutTags) {
		t.Errorf("%d tags", len(got))
	}
	n := 0
	for tag, err := range x.Tags() { // changes while it walks, ends when told to
		if err != nil {
			t.Fatal(err)
		}
		apply(t, x, Batch{DeleteTags: []oci.Reference{tag.Reference}})
		if n++; n == tagsPerPage+5 {
			break
		}
	}
	if got := collect(t, x.Tags()); len(got) != len(b.PutTags)-n {
		t.Errorf("%d tags left", len(got))
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	x := newIndex(t)
	long := record(1, 1)
	long.MediaType = strings.Repeat("x", maxName+1)
	class := record(2, 1)
	class.Class = Classes
	apply(t, x, Batch{
		Put:       []Record{long, class, record(3, -1), {}},
		PutTags:   []Tag{{Target: oci.Descriptor{Digest: digest(1)}}},
		PutGrants: []Grant{{}},
		Delete:    []oci.Digest{{}},
		Touch:     map[oci.Digest]time.Time{{}: at(1)},
	})
	if n, _ := x.Totals().Sum(); n != 0 || x.Stats().Refused != 6 {
		t.Errorf("%d records, stats %+v", n, x.Stats())
	}
}

func TestOneProcess(t *testing.T) {
	t.Parallel()
	x := newIndex(t)
	start := time.Now()
	if _, err := Open(x.Path(), Options{}); !errors.Is(err, ErrLocked) {
		t.Errorf("second Open: %v", err)
	}
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("it took %v", took)
	}
}

// FAULTS row 36: an index of a newer program is refused, and left as it is.
func TestNewerVersion(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "index.db")
	x, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	err = x.db.Update(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketMeta).Put(keyVersion, seal(keyVersion, []byte{0, 0, 0, layout + 1}))
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := Open(path, Options{}); !errors.Is(err, ErrVersion) || !strings.Contains(err.Error(), "run the newer program") {
			t.Errorf("got %v", err)
		}
	}
}

func collect(t *testing.T, tags func(func(Tag, error) bool)) (all []Tag) {
	t.Helper()
	for tag, err := range tags {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, tag)
	}
	slices.SortFunc(all, func(a, b Tag) int {
		if a.Repository != b.Repository {
			return -strings.Compare(a.Repository.String(), b.Repository.String())
		}
		return strings.Compare(a.Tag, b.Tag)
	})
	return all
}
