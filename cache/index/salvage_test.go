package index

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"cistern/internal/oci"
)

func openSalvage(t testing.TB, path string) *Salvage {
	t.Helper()
	s, err := OpenSalvage(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

// Of an undamaged file everything is found, once, and while an index that broke
// still has the file; the file stays as it is.
func TestSalvageOfWholeFile(t *testing.T) {
	t.Parallel()
	path := filled(t)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	openIndex(t, path) // holds the lock
	s := openSalvage(t, path)
	seen := map[oci.Reference]Tag{}
	for tag := range s.Tags() {
		if _, twice := seen[tag.Reference]; twice {
			t.Fatalf("%v comes twice", tag.Reference)
		}
		seen[tag.Reference] = tag
	}
	for i := range filledBlobs {
		if want := filledTag(i, 1-i%2); seen[want.Reference] != want {
			t.Errorf("tag %+v, want %+v", seen[want.Reference], want)
		}
		if r, ok := s.Record(digest(i)); !ok || r != record(i, int64(i)*1000) {
			t.Errorf("record %+v, %v", r, ok)
		}
		if gs := slices.Collect(s.Grants(digest(i))); !slices.Equal(gs, []Grant{{filledRepo(i), digest(i), at(i)}}) {
			t.Errorf("grants %+v", gs)
		}
	}
	if _, ok := s.Record(digest(filledBlobs)); ok {
		t.Error("found what was never put")
	}
	if gs := slices.Collect(s.Grants(digest(filledBlobs))); len(gs) != 0 {
		t.Errorf("grants %+v", gs)
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, before) {
		t.Errorf("the file changed: %v", err)
	}
}

// A small index has its buckets inside one page.
func TestSalvageOfSmallIndex(t *testing.T) {
	t.Parallel()
	x := newIndex(t)
	tag := filledTag(1, 0)
	apply(t, x, Batch{Put: []Record{record(1, 5)}, PutTags: []Tag{tag}, PutGrants: []Grant{{tag.Repository, digest(1), at(3)}}})
	s := openSalvage(t, x.Path())
	r, ok := s.Record(digest(1))
	tags, grants := slices.Collect(s.Tags()), slices.Collect(s.Grants(digest(1)))
	if !ok || r != record(1, 5) || !slices.Equal(tags, []Tag{tag}) || len(grants) != 1 {
		t.Errorf("record %+v, tags %+v, grants %+v", r, tags, grants)
	}
}

// What the new index has learnt since outranks what is salvaged; a consumer may
// stop.
func TestTakeTags(t *testing.T) {
	t.Parallel()
	s := openSalvage(t, filled(t))
	x := newIndex(t)
	newer, older := filledTag(3, 500), filledTag(4, 0)
	apply(t, x, Batch{PutTags: []Tag{newer, older}})
	if n, err := x.TakeTags(s); n != filledBlobs-2 || err != nil {
		t.Errorf("took %d, %v", n, err)
	}
	for _, want := range []Tag{newer, filledTag(4, 1), filledTag(5, 0)} {
		if got, ok, err := x.Tag(want.Reference); got != want || !ok || err != nil {
			t.Errorf("got %+v, %v, %v, want %+v", got, ok, err, want)
		}
	}
	n := 0
	for range s.Tags() {
		if n++; n == 3 {
			break
		}
	}
}

// FAULTS row 36: what is no index gives nothing, and at once: nothing, a huge
// hole, branches that lead back to themselves.
func TestSalvageOfNonsense(t *testing.T) {
	t.Parallel()
	good := filled(t)
	whole, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	roots := openSalvage(t, good).f.roots()
	loop := slices.Clone(whole)
	for id := 2; id < len(loop)/pageLen; id++ { // each page a branch whose children are this page
		if uint64(id) == roots[0].page {
			continue
		}
		p := loop[id*pageLen:][:pageLen]
		clear(p)
		binary.NativeEndian.PutUint64(p, uint64(id)) // keys in no order, so that all are looked into
		binary.NativeEndian.PutUint16(p[8:], flagBranch)
		binary.NativeEndian.PutUint16(p[10:], 250)
		for i := range 250 {
			binary.NativeEndian.PutUint64(p[pageHeader+i*elementLen+8:], uint64(id))
		}
	}
	for name, content := range map[string][]byte{"empty": nil, "short": whole[:100], "zeros": make([]byte, 1<<20), "loop": loop} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "index.db")
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			if name == "empty" { // and a hole of a tebibyte
				if err := os.Truncate(path, 1<<40); err != nil {
					t.Fatal(err)
				}
			}
			s := openSalvage(t, path)
			for tag := range s.Tags() {
				t.Errorf("tag %+v", tag)
			}
			if r, ok := s.Record(digest(1)); ok {
				t.Errorf("record %+v", r)
			}
			for g := range s.Grants(digest(1)) {
				t.Errorf("grant %+v", g)
			}
		})
	}
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{fifo, t.TempDir(), filepath.Join(t.TempDir(), "none")} {
		if _, err := OpenSalvage(path); err == nil {
			t.Errorf("%s was opened", path)
		}
	}
}

// If the last commit's root is lost, that of the one before is taken.
func TestSalvageOfEarlierRoot(t *testing.T) {
	t.Parallel()
	path := filled(t)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	pf := pageFile{file: f, size: 1 << 30}
	roots := pf.roots()
	if len(roots) != 2 || roots[0].tx <= roots[1].tx {
		t.Fatalf("roots %+v", roots)
	}
	if _, err := f.WriteAt(make([]byte, pageLen), int64(roots[0].page)*pageLen); err != nil {
		t.Fatal(err)
	}
	s := openSalvage(t, path)
	n := 0
	for i := range filledBlobs {
		if r, ok := s.Record(digest(i)); ok && r == record(i, int64(i)*1000) {
			n++
		}
	}
	if n < filledBlobs*8/10 { // the last step brought a tenth of them
		t.Errorf("%d records", n)
	}
}

// Whatever a page says of itself, it is read without a panic, and nothing
// beyond it.
func FuzzPage(f *testing.F) {
	page := make([]byte, 64, 128)
	binary.NativeEndian.PutUint16(page[8:], flagLeaf)
	binary.NativeEndian.PutUint16(page[10:], 1)
	binary.NativeEndian.PutUint32(page[20:], 16)
	binary.NativeEndian.PutUint32(page[24:], 8)
	binary.NativeEndian.PutUint32(page[28:], 24)
	f.Add(page)
	f.Fuzz(func(t *testing.T, data []byte) {
		_, entries, _ := parsePage(data)
		for _, e := range entries {
			if len(e.key)+len(e.value) > len(data) || cap(e.key) != len(e.key) || cap(e.value) != len(e.value) {
				t.Error("an element reaches beyond the page")
			}
			inner := tree{}
			if sub, ok := (&pageFile{}).subtree(e.value); ok && sub.inline != nil {
				inner = sub
			}
			for range inner.from(nil, 1) { //nolint:revive // reads all
				continue
			}
		}
	})
}
