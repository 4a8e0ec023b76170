package layout

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cistern/internal/oci"
)

// tarOf makes a tar of headers, each with as many bytes as it says or data has.
func tarOf(t testing.TB, files map[string]string, extra ...*tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range extra {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := w.Write(make([]byte, h.Size)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, data := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Size: int64(len(data)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func indexOf(d oci.Descriptor) string {
	return fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"mediaType":%q,"digest":%q,"size":%d}]}`, d.MediaType, d.Digest, d.Size)
}

// TestHostileTar: what is odd in a tar is passed over or refused, and written nowhere.
func TestHostileTar(t *testing.T) {
	t.Parallel()
	s := shelf{}
	root := s.image(oci.MediaTypeOCIManifest, 10)
	m, other := string(s[root.Digest]), string(noise(len(s[root.Digest]), 9))
	nested := root
	for range maxNesting + 2 {
		nested = s.index(oci.MediaTypeOCIIndex, nested)
	}
	deep := map[string]string{indexName: indexOf(nested)}
	for d, b := range s {
		deep[blobName(d)] = string(b)
	}
	plain := tarOf(t, map[string]string{indexName: indexOf(root), blobName(root.Digest): m})
	for what, c := range map[string]struct {
		tar  []byte
		says string // "": it is fine
	}{
		"plain":         {plain, ""},
		"./ and others": {tarOf(t, map[string]string{"./" + indexName: indexOf(root), "./" + blobName(root.Digest): m, "../../etc/passwd": "x", "/abs": "y"}), ""},
		"links":         {tarOf(t, map[string]string{indexName: indexOf(root)}, &tar.Header{Typeflag: tar.TypeSymlink, Name: blobName(root.Digest), Linkname: "/etc/passwd"}), "missing"},
		"wrong bytes":   {tarOf(t, map[string]string{indexName: indexOf(root), blobName(root.Digest): other}), "damaged"},
		"no index":      {tarOf(t, map[string]string{"repositories": "{}"}), "no index.json"},
		"docker save":   {tarOf(t, map[string]string{"manifest.json": "[]"}), "no OCI image layout"},
		"odd index":     {tarOf(t, map[string]string{indexName: `{"schemaVersion":2,"manifests":[{"digest":"sha256:../../../x","size":1}]}`}), "not valid"},
		"no digest":     {tarOf(t, map[string]string{indexName: `{"schemaVersion":2,"manifests":[{"size":1}]}`}), "without its digest"},
		"list":          {tarOf(t, map[string]string{indexName: `[]`}), "index.json"},
		"large index":   {tarOf(t, nil, &tar.Header{Typeflag: tar.TypeReg, Name: indexName, Size: maxIndex + 1}), "larger than"},
		"large manifest": {tarOf(t, map[string]string{indexName: indexOf(root)},
			&tar.Header{Typeflag: tar.TypeReg, Name: blobName(root.Digest), Size: MaxManifest + 1}), "larger than"},
		"deep":       {tarOf(t, deep), "within each other"},
		"cut":        {plain[:700], "missing"},
		"compressed": {[]byte("\x1f\x8b\x08 and so on, for more than a header"), "gunzip"},
		"text":       {bytes.Repeat([]byte("no tar. "), 200), "no tar"},
		"empty":      {nil, "no index.json"},
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, "x.tar")
		if err := os.WriteFile(path, c.tar, 0o600); err != nil {
			t.Fatal(err)
		}
		err := readAll(path)
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v; want %q", what, err, c.says)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
			t.Errorf("%s: %v, %v", what, left, err)
		}
	}
}

// readAll opens an archive and lists what its images consist of.
func readAll(paths ...string) error {
	a, err := Open(paths...)
	if err != nil {
		return err
	}
	defer a.Close()
	for _, i := range a.Index().Images {
		if _, err := a.Pieces(i); err != nil {
			return err
		}
	}
	return nil
}

// TestHostileFolder: no link leads out, and nothing but files is opened.
func TestHostileFolder(t *testing.T) {
	t.Parallel()
	s := shelf{}
	root := s.image(oci.MediaTypeOCIManifest)
	outside := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(outside, s[root.Digest], 0o600); err != nil {
		t.Fatal(err)
	}
	for _, link := range []string{blobName(root.Digest), "blobs", indexName} {
		dir := t.TempDir()
		if err := os.WriteFile(dir+"/"+indexName, []byte(indexOf(root)), 0o600); err != nil {
			t.Fatal(err)
		}
		to := outside
		if link == "blobs" {
			to = filepath.Dir(outside)
		}
		if err := os.RemoveAll(dir + "/" + link); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Dir(dir+"/"+link), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(to, dir+"/"+link); err != nil {
			t.Fatal(err)
		}
		if err := readAll(dir); err == nil {
			t.Errorf("%s led outside", link)
		}
	}
}

// FuzzTar: whatever a tar holds, reading it ends with an answer or an error.
func FuzzTar(f *testing.F) {
	s := shelf{}
	root := s.index(oci.MediaTypeDockerList, s.image(oci.MediaTypeDockerManifest, 10), s.image(oci.MediaTypeOCIManifest, 3))
	files := map[string]string{indexName: indexOf(root)}
	for d, b := range s {
		files[blobName(d)] = string(b)
	}
	f.Add(tarOf(f, files))
	f.Add([]byte("\x1f\x8b"))
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "x.tar")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		_ = readAll(path)
	})
}

// FuzzManifest: what a manifest says is listed and made portable, or refused.
func FuzzManifest(f *testing.F) {
	s := shelf{}
	image := s.image(oci.MediaTypeDockerManifest, 10)
	f.Add(s[image.Digest], oci.MediaTypeDockerManifest)
	f.Add(s[s.index(oci.MediaTypeDockerList, image).Digest], oci.MediaTypeDockerList)
	f.Add([]byte(`{"manifests":[],"layers":null,"config":[]}`), oci.MediaTypeOCIIndex)
	f.Fuzz(func(t *testing.T, b []byte, mediaType string) {
		root := oci.Descriptor{MediaType: mediaType, Digest: oci.FromBytes(b), Size: int64(len(b))}
		at := func(d oci.Digest) ([]byte, error) {
			if d == root.Digest {
				return b, nil
			}
			return s[d], nil
		}
		_, _ = Pieces(root, true, at)
		docs, err := Portable(root, at)
		for _, d := range docs {
			if err != nil || !d.Digest.Verify(d.Bytes) || d.Size != int64(len(d.Bytes)) {
				t.Errorf("%v, %v", d, err)
			}
		}
	})
}

// FuzzIndex: an index.json that is read is written and read again as it was.
func FuzzIndex(f *testing.F) {
	d := oci.Descriptor{MediaType: oci.MediaTypeOCIIndex, Digest: oci.FromBytes(nil), Size: 3}
	b, err := Index{Images: []Image{{Name: name, Target: d, Original: oci.Descriptor{Digest: oci.FromBytes([]byte{1}), Size: -1}, Private: true}}, Since: []oci.Digest{d.Digest, d.Digest}}.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := decodeIndex(b)
		if err != nil {
			return
		}
		again, err := x.encode()
		if err != nil {
			t.Fatal(err)
		}
		y, err := decodeIndex(again)
		if err != nil || len(x.Images) != len(y.Images) || len(x.Since) != len(y.Since) {
			t.Fatalf("%+v, %+v, %v", x, y, err)
		}
	})
}
