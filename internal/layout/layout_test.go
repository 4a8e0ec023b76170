package layout

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cistern/internal/oci"
)

const name = "docker.io/library/app:1"

// archived writes an image and gives the paths that it can be read by.
func archived(t *testing.T, s shelf, o Options, root oci.Descriptor) []string {
	t.Helper()
	w, err := Create(o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.write(w, name, root); err != nil {
		t.Fatal(err)
	}
	paths, err := filepath.Glob(strings.TrimSuffix(o.Path, "/") + "*")
	if err != nil || len(paths) == 0 {
		t.Fatal(paths, err)
	}
	return paths
}

func opened(t *testing.T, paths ...string) *Archive {
	t.Helper()
	a, err := Open(paths...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return a
}

// TestRoundTrip: what is written is read, in every form, and nothing else lies there.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	s := shelf{}
	amd, arm := s.image(oci.MediaTypeOCIManifest, 10, 3*chunk+7), s.image(oci.MediaTypeOCIManifest, 99)
	roots := map[string]oci.Descriptor{
		"image": amd, "index": s.index(oci.MediaTypeOCIIndex, amd, arm),
		"docker":  s.image(oci.MediaTypeDockerManifest, 5, chunk),
		"sparse":  s.index(oci.MediaTypeOCIIndex, oci.Descriptor{MediaType: oci.MediaTypeOCIManifest, Digest: oci.FromBytes(nil), Size: 7}, arm),
		"list":    s.index(oci.MediaTypeDockerList, s.image(oci.MediaTypeDockerManifest, 7), s.image(oci.MediaTypeDockerManifest, 8)),
		"nothing": s.image(oci.MediaTypeOCIManifest),
	}
	for of, root := range roots {
		for form, o := range map[string]Options{"dir": {Path: "new/"}, "tar": {Path: "x.tar"}, "parts": {Path: "x.tar", Split: 100_000}} {
			t.Run(of+" "+form, func(t *testing.T) {
				t.Parallel()
				o.Path = t.TempDir() + "/" + o.Path
				paths := archived(t, s, o, root)
				s.want(t, opened(t, paths...), root)
				for _, p := range paths {
					if fi, err := os.Stat(p); err != nil || strings.HasSuffix(p, ".partial") || o.Split > 0 && fi.Size() > o.Split {
						t.Errorf("%s: %v, %v", p, fi, err)
					}
				}
			})
		}
	}
}

// TestParts: by the first part, by all in any order, by the name without a number, and put together.
func TestParts(t *testing.T) {
	t.Parallel()
	s, path := shelf{}, t.TempDir()+"/x.tar"
	root := s.image(oci.MediaTypeOCIManifest, 1000, 5000)
	paths := archived(t, s, Options{Path: path, Split: 4096}, root)
	if len(paths) < 3 {
		t.Fatal(paths)
	}
	s.want(t, opened(t, path+".000"), root)
	s.want(t, opened(t, path), root)
	s.want(t, opened(t, append(paths[1:], paths[0])...), root)
	var all []byte
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b...)
	}
	if err := os.WriteFile(path, all, 0o600); err != nil {
		t.Fatal(err)
	}
	s.want(t, opened(t, path), root)
	for _, c := range []struct {
		paths []string
		says  string
	}{
		{paths[1:], "part .000 is missing"},
		{append(paths[:1:1], paths[2:]...), "part .001 is missing"},
		{paths[:2], "a part of it is missing"},
		{[]string{paths[0], paths[0]}, "twice"},
	} {
		if a, err := Open(c.paths...); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%v: %v, %v", c.paths, a, err)
		}
	}
	if _, err := Create(Options{Path: path, Split: 4096}); err == nil || !strings.Contains(err.Error(), "already") {
		t.Error(err)
	}
	if got := Sets([]string{"a.tar.001", "b", "m/a.tar.000", "c.tar"}); len(got) != 3 || len(got[0]) != 2 {
		t.Error(got)
	}
}

// TestNotClosed: what is not whole, or not what it is said to be, never looks finished.
func TestNotClosed(t *testing.T) {
	t.Parallel()
	for _, o := range []Options{{Path: "new/"}, {Path: "x.tar"}, {Path: "x.tar", Split: 1 << 20}} {
		s, dir := shelf{}, t.TempDir()
		o.Path = dir + "/" + o.Path
		root := s.image(oci.MediaTypeOCIManifest, 100)
		layer := oci.FromBytes(noise(100, 100))
		for what, write := range map[string]func(w *Writer) error{
			"missing": func(w *Writer) error {
				_, err := w.Finish(Index{Images: []Image{{Name: name, Target: root, Original: root}}})
				return err
			},
			"no layer": func(w *Writer) error { return finishWithout(w, s, root, layer) },
			"wrong": func(w *Writer) error {
				return w.Blob(oci.Descriptor{Digest: layer, Size: 100}, bytes.NewReader(make([]byte, 100)))
			},
			"too short": func(w *Writer) error {
				return w.Blob(oci.Descriptor{Digest: layer, Size: 100}, bytes.NewReader(noise(99, 100)))
			},
			"too long": func(w *Writer) error {
				return w.Blob(oci.Descriptor{Digest: layer, Size: 99}, bytes.NewReader(noise(100, 100)))
			},
		} {
			w, err := Create(o)
			if err != nil {
				t.Fatal(err)
			}
			if err := write(w); err == nil {
				t.Errorf("%s: no error", what)
			}
			if err := w.Abort(); err != nil {
				t.Error(err)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("%s leaves %v, %v", what, left, err)
			}
		}
	}
}

// finishWithout writes all of an image but a layer.
func finishWithout(w *Writer, s shelf, root oci.Descriptor, layer oci.Digest) error {
	pieces, err := Pieces(root, false, s.manifest)
	for _, p := range pieces {
		if p.Digest != layer && !p.Manifest && err == nil {
			err = w.Blob(p.Descriptor, bytes.NewReader(s[p.Digest]))
		}
	}
	if err == nil {
		err = w.Manifest(root.Digest, s[root.Digest])
	}
	if err != nil {
		return nil // nothing of that may fail
	}
	_, err = w.Finish(Index{Images: []Image{{Name: name, Target: root, Original: root}}})
	return err
}

// TestPortable: an index is cut down to what is here, and Docker's types become OCI's; the rest stays as it is.
func TestPortable(t *testing.T) {
	t.Parallel()
	s := shelf{}
	amd, arm := s.image(oci.MediaTypeDockerManifest, 5), s.image(oci.MediaTypeDockerManifest, 6)
	list := s.index(oci.MediaTypeDockerList, amd, arm)
	delete(s, arm.Digest)
	docs, err := Portable(list, s.manifest)
	if err != nil || len(docs) != 2 {
		t.Fatal(docs, err)
	}
	child, index := docs[0], docs[1]
	for _, want := range []string{oci.MediaTypeOCIIndex, oci.MediaTypeOCIManifest, child.Digest.String(), `"architecture":"a0"`, "as it is"} {
		if !strings.Contains(string(index.Bytes), want) {
			t.Errorf("%s lacks %s", index.Bytes, want)
		}
	}
	for _, want := range []string{oci.MediaTypeOCIManifest, ociConfig, ociLayer} {
		if !strings.Contains(string(child.Bytes), want) {
			t.Errorf("%s lacks %s", child.Bytes, want)
		}
	}
	for _, d := range docs {
		if strings.Contains(string(d.Bytes), "docker") || strings.Contains(string(d.Bytes), `"a1"`) || !d.Digest.Verify(d.Bytes) || d.Size != int64(len(d.Bytes)) {
			t.Errorf("%s", d.Bytes)
		}
	}
	whole := s.index(oci.MediaTypeOCIIndex, s.image(oci.MediaTypeOCIManifest, 1))
	if docs, err := Portable(whole, s.manifest); err != nil || docs[len(docs)-1].Digest != whole.Digest {
		t.Error(docs, err)
	}
	if docs, err := Portable(s.index(oci.MediaTypeOCIIndex, arm), s.manifest); err != nil || docs != nil {
		t.Error(docs, err)
	}
}

// TestSince: what an earlier archive has is not in it, and it says so.
func TestSince(t *testing.T) {
	t.Parallel()
	s := shelf{}
	root := s.image(oci.MediaTypeOCIManifest, 100)
	layer, base := oci.FromBytes(noise(100, 100)), oci.FromBytes([]byte("base"))
	path := t.TempDir() + "/x.tar"
	w, err := Create(Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	w.Elsewhere(layer)
	digest, err := s.write(w, name, root, base)
	if err != nil {
		t.Fatal(err)
	}
	a := opened(t, path)
	if _, here := a.Size(layer); here || a.Digest() != digest || len(a.Index().Since) != 1 || a.Index().Since[0] != base {
		t.Errorf("%v, %+v", here, a.Index())
	}
	if ps, err := a.Pieces(a.Index().Images[0]); err != nil || len(ps) != 3 {
		t.Error(ps, err)
	}
}
