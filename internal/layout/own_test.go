package layout

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"cistern/internal/oci"
)

// wantRefused checks that an archive is not begun, and that what lies in the directory stays as it was.
func wantRefused(t *testing.T, o Options, says string) {
	t.Helper()
	before := tree(t, filepath.Dir(o.Path))
	w, err := Create(o)
	if err == nil {
		t.Fatal("begun", w.Abort())
	}
	if !strings.Contains(err.Error(), says) {
		t.Errorf("%v; want %q", err, says)
	}
	after := tree(t, filepath.Dir(o.Path))
	if len(after) != len(before) {
		t.Errorf("there was %d, and is %d", len(before), len(after))
	}
	for name, b := range before {
		if after[name] != b {
			t.Errorf("%s has changed", name)
		}
	}
}

// tree reads the files in and under a directory.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		files[path] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestSecondWriter: of two that write to one path at the same time the second is refused, and
// the first writes its archive to the end.
func TestSecondWriter(t *testing.T) {
	t.Parallel()
	for _, o := range []Options{{Path: "new/"}, {Path: "x.tar"}, {Path: "x.tar", Split: 20_000}} {
		s, dir := shelf{}, t.TempDir()
		o.Path = dir + "/" + o.Path
		root := s.image(oci.MediaTypeOCIManifest, 70_000, 90_000)
		w, err := Create(o)
		if err != nil {
			t.Fatal(err)
		}
		wantRefused(t, o, "already")
		if _, err := s.write(w, name, root); err != nil {
			t.Fatal(err)
		}
		s.want(t, opened(t, o.Path), root)
	}
}

// TestDirectoryAtOnce: of those that begin in one directory at the same time one has it, and the
// others take nothing away.
func TestDirectoryAtOnce(t *testing.T) {
	t.Parallel()
	for range 20 {
		s, path := shelf{}, t.TempDir()+"/new/"
		writers := make(chan *Writer, 8)
		var all sync.WaitGroup
		for range cap(writers) {
			all.Go(func() {
				if w, err := Create(Options{Path: path}); err == nil {
					writers <- w
				}
			})
		}
		all.Wait()
		if len(writers) != 1 {
			t.Fatalf("%d have it", len(writers))
		}
		root := s.image(oci.MediaTypeOCIManifest, 100)
		if _, err := s.write(<-writers, name, root); err != nil {
			t.Fatal(err)
		}
		s.want(t, opened(t, path), root)
	}
}

// TestForeignPartial: what has the name of an unfinished file is somebody else's, and is neither
// written to nor, where it is a link, what it leads to.
func TestForeignPartial(t *testing.T) {
	t.Parallel()
	for _, o := range []Options{{Path: "x.tar"}, {Path: "x.tar", Split: 20_000}} {
		for _, link := range []bool{false, true} {
			dir := t.TempDir()
			o.Path = filepath.Join(dir, "x.tar")
			at := partial(o.Path)
			if o.Split > 0 {
				at = partial(partName(o.Path, 0))
			}
			if link {
				victim := filepath.Join(dir, "precious")
				if err := os.Symlink(victim, at); err != nil {
					t.Fatal(err)
				}
				at = victim
			}
			if err := os.WriteFile(at, []byte("precious"), 0o600); err != nil {
				t.Fatal(err)
			}
			wantRefused(t, o, "remove it")
		}
	}
}

// TestForeignParts: an archive in parts is not begun beside any part of another one, whose first
// may be on another medium.
func TestForeignParts(t *testing.T) {
	t.Parallel()
	for _, there := range []string{"x.tar.000", "x.tar.001", "x.tar.999", "x.tar.002.partial"} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, there), []byte("of another archive"), 0o600); err != nil {
			t.Fatal(err)
		}
		wantRefused(t, Options{Path: filepath.Join(dir, "x.tar"), Split: 20_000}, there+" is there already")
	}
	s, dir := shelf{}, t.TempDir()
	for _, other := range []string{"y.tar.001", "x.tar", "x.tar.0001", "x.tar.sum"} {
		if err := os.WriteFile(filepath.Join(dir, other), []byte("no part of it"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w, err := Create(Options{Path: filepath.Join(dir, "x.tar"), Split: 20_000})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.write(w, name, s.image(oci.MediaTypeOCIManifest, 50_000)); err != nil {
		t.Error(err)
	}
}

// TestFinishFails: an archive that cannot be given its name is not there, and nothing of it is left;
// what is in its way stays.
func TestFinishFails(t *testing.T) {
	t.Parallel()
	for inTheWay, split := range map[string]int64{"x.tar": 0, "x.tar.001": 20_000} {
		for _, folder := range []bool{true, false} {
			if !folder && split == 0 {
				continue // that is replaced
			}
			s, dir := shelf{}, t.TempDir()
			w, err := Create(Options{Path: filepath.Join(dir, "x.tar"), Split: split})
			if err != nil {
				t.Fatal(err)
			}
			if at := filepath.Join(dir, inTheWay); folder {
				err = os.MkdirAll(at+"/full", 0o700)
			} else {
				err = os.WriteFile(at, nil, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.write(w, name, s.image(oci.MediaTypeOCIManifest, 50_000)); err == nil {
				t.Errorf("%s: finished", inTheWay)
			}
			if err := w.Abort(); err != nil {
				t.Error(err)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) != 1 || left[0].Name() != inTheWay {
				t.Errorf("%s: left behind: %v, %v", inTheWay, left, err)
			}
		}
	}
}

// TestLiesAt: an archive knows its files by whatever name they are called.
func TestLiesAt(t *testing.T) {
	t.Parallel()
	for _, o := range []Options{{Path: "new/"}, {Path: "x.tar"}, {Path: "x.tar", Split: 2048}} {
		s, dir := shelf{}, t.TempDir()
		o.Path = dir + "/" + o.Path
		paths := archived(t, s, o, s.image(oci.MediaTypeOCIManifest, 5000))
		a, link := opened(t, o.Path), filepath.Join(dir, "link")
		if err := os.Symlink(paths[len(paths)-1], link); err != nil {
			t.Fatal(err)
		}
		for _, p := range append(paths, link) {
			if !a.LiesAt(p) {
				t.Errorf("not at %s", p)
			}
		}
		if a.LiesAt(dir) || a.LiesAt(dir+"/none") {
			t.Error("it lies where it does not")
		}
	}
}

// TestPrivate: nobody else may read an archive of what was obtained with credentials.
func TestPrivate(t *testing.T) {
	t.Parallel()
	for _, o := range []Options{{Path: "new/"}, {Path: "x.tar"}, {Path: "x.tar", Split: 20_000}} {
		s, dir := shelf{}, t.TempDir()
		o.Path, o.Private = dir+"/"+o.Path, true
		for _, p := range archived(t, s, o, s.image(oci.MediaTypeOCIManifest, 50_000)) {
			if fi, err := os.Stat(p); err != nil || fi.Mode().Perm()&0o077 != 0 {
				t.Errorf("%v, %v", fi.Mode(), err)
			}
		}
	}
}

// TestCheck: a blob that is not what its digest names is found without anything being written.
func TestCheck(t *testing.T) {
	t.Parallel()
	s, path := shelf{}, t.TempDir()+"/new/"
	archived(t, s, Options{Path: path}, s.image(oci.MediaTypeOCIManifest, 100, 2*chunk))
	a := opened(t, path)
	for _, n := range []int{100, 2 * chunk} {
		layer := oci.Descriptor{Size: int64(n)}
		for d, b := range s {
			if len(b) == n {
				layer.Digest = d
			}
		}
		if err := a.Check(t.Context(), layer); err != nil {
			t.Error(err)
		}
		longer := layer
		longer.Size++
		if err := a.Check(t.Context(), longer); err == nil || !strings.Contains(err.Error(), "is damaged") {
			t.Error(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := a.Check(ctx, layer); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if err := os.WriteFile(path+blobName(layer.Digest), make([]byte, n), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := a.Check(t.Context(), layer); !errors.Is(err, ErrMismatch) {
			t.Error(err)
		}
	}
	if err := a.Check(t.Context(), oci.Descriptor{Digest: oci.FromBytes(nil)}); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
