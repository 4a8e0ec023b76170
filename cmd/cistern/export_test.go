package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"

	"cistern/cache"
	"cistern/internal/layout"
	"cistern/internal/oci"
)

// odd is a daemon of which each image can be wrong in its own way. The real one tells most of this at
// once, but it may be older, and what it has may change between its answers.
type odd struct {
	blobs   map[oci.Digest][]byte
	bundles []cache.Bundle
	refuse  map[string]int // of images and digests: the status that is answered
}

// newOdd has an image of each name. All have one layer in common.
func newOdd(names ...string) *odd {
	o := &odd{blobs: map[oci.Digest][]byte{}, refuse: map[string]int{}}
	for _, name := range names {
		o.image(name, nil)
	}
	return o
}

// image adds an image, after its manifest was changed.
func (o *odd) image(name string, change func(manifest string) string) cache.Bundle {
	b := cache.Bundle{Image: "test.example/" + name}
	var layers []string
	for _, data := range [][]byte{[]byte("of all"), []byte("of " + name)} {
		c := o.put(data, oci.MediaTypeOctetStream)
		b.Pieces = append(b.Pieces, c)
		layers = append(layers, fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, c.MediaType, c.Digest, c.Size))
	}
	m := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"layers":[%s]}`, oci.MediaTypeOCIManifest, strings.Join(layers, ","))
	if change != nil {
		m = change(m)
	}
	b.Target = o.put([]byte(m), oci.MediaTypeOCIManifest)
	b.Target.Manifest = true
	b.Pieces = append(b.Pieces, b.Target)
	o.bundles = append(o.bundles, b)
	return b
}

func (o *odd) put(data []byte, mediaType string) cache.Carried {
	d := oci.FromBytes(data)
	o.blobs[d] = data
	return cache.Carried{Digest: d, MediaType: mediaType, Size: int64(len(data))}
}

// ServeHTTP answers as the admin listener does.
func (o *odd) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	image, digest := r.URL.Query().Get("image"), strings.TrimPrefix(r.URL.Path, "/api/v1/blob/")
	if code := o.refuse[image] + o.refuse[digest]; code != 0 {
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(map[string]string{"error": image + digest + " is not to be had\x1b]0;owned\x07"})
		return
	}
	switch r.URL.Path {
	case "/api/v1/images":
		for _, b := range o.bundles {
			_ = json.NewEncoder(w).Encode(cache.ImageInfo{Image: b.Image})
		}
	case "/api/v1/bundle":
		for _, b := range o.bundles {
			if b.Image == image {
				_ = json.NewEncoder(w).Encode(b)
			}
		}
	default:
		d, _ := oci.ParseDigest(digest)
		_, _ = w.Write(o.blobs[d])
	}
}

// export exports from the daemon, and gives the exit code and all that is said.
func (o *odd) export(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	s := httptest.NewServer(o)
	defer s.Close()
	var out, errs bytes.Buffer
	cmd := exec.Command("cistern", append([]string{"export", "--admin", s.Listener.Addr().String()}, args...)...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// TestOneBadImage: with --from access what cannot be carried is named and left out, all else is exported, and the
// last line says how many are missing. Of named images it is an error.
func TestOneBadImage(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		spoil func(o *odd) cache.Bundle
		says  string
	}{
		"a layer of another size": {func(o *odd) cache.Bundle {
			return o.image("bad:1", func(m string) string { return strings.Replace(m, `"size":8`, `"size":9`, 1) })
		}, "has 8 bytes, and its manifest says 9"},
		"a layer without a digest": {func(o *odd) cache.Bundle {
			return o.image("bad:1", func(m string) string { return strings.Replace(m, `"layers":[`, `"layers":[{"size":1},`, 1) })
		}, "without a digest"},
		"a layer that is not listed": {func(o *odd) cache.Bundle {
			b := o.image("bad:1", nil)
			o.bundles[len(o.bundles)-1].Pieces = b.Pieces[1:]
			return b
		}, "is not here"},
		"a child of another size": {func(o *odd) cache.Bundle {
			b := o.image("bad:1", nil)
			b.Target = o.put(fmt.Appendf(nil, `{"schemaVersion":2,"manifests":[{"mediaType":%q,"digest":%q,"size":1}]}`, oci.MediaTypeOCIManifest, b.Target.Digest), oci.MediaTypeOCIIndex)
			b.Target.Manifest = true
			b.Pieces = append(b.Pieces, b.Target)
			o.bundles[len(o.bundles)-1] = b
			return b
		}, "is said to have 1"},
		"a damaged manifest": {func(o *odd) cache.Bundle {
			b := o.image("bad:1", nil)
			o.blobs[b.Target.Digest] = []byte("{}")
			return b
		}, "damaged"},
		"not whole": {func(o *odd) cache.Bundle {
			b := o.image("bad:1", nil)
			o.refuse[b.Image] = http.StatusNotFound
			return b
		}, "is not to be had?]0;owned?"},
		"a manifest that has gone": {func(o *odd) cache.Bundle {
			b := o.image("bad:1", nil)
			o.refuse[b.Target.Digest.String()] = http.StatusNotFound
			return b
		}, "is not to be had?]0;owned?"},
		"a layer that has gone": {func(o *odd) cache.Bundle {
			b := o.image("bad:1", nil)
			o.refuse[b.Pieces[1].Digest.String()] = http.StatusNotFound
			return b
		}, "is not to be had?]0;owned?"},
	} {
		for _, path := range []string{"x.tar", "x/"} {
			o, dir := newOdd("one:1", "two:1"), t.TempDir()
			bad := c.spoil(o)
			o.image("three:1", nil)
			code, out, errs := o.export(t, "-o", dir+"/"+path, "--from", "access")
			if code != 0 || !strings.Contains(errs, "left out: ") || !strings.Contains(errs, bad.Image) || !strings.Contains(errs, c.says) {
				t.Errorf("%s: %d, %q", what, code, errs)
			}
			if !strings.HasSuffix(out, "\n1 images were left out, as said on standard error\n") || strings.Contains(out, bad.Image) {
				t.Errorf("%s: %s", what, out)
			}
			wantImages(t, dir+"/"+path, "test.example/one:1", "test.example/two:1", "test.example/three:1")
			code, _, errs = o.export(t, "-o", dir+"/named", "test.example/one:1", bad.Image)
			if code != exitFailed || !strings.Contains(errs, c.says) {
				t.Errorf("%s, named: %d, %q", what, code, errs)
			}
		}
	}
}

// wantImages checks that an archive has these images whole, and no others.
func wantImages(t *testing.T, path string, names ...string) {
	t.Helper()
	a, err := layout.Open(path)
	if err != nil {
		t.Error(err)
		return
	}
	defer a.Close()
	if len(a.Index().Images) != len(names) {
		t.Errorf("%+v", a.Index().Images)
		return
	}
	for n, i := range a.Index().Images {
		pieces, err := a.Pieces(i)
		if err != nil || i.Name != names[n] {
			t.Errorf("%s: %v; want %s", i.Name, err, names[n])
		}
		for _, p := range pieces {
			if size, ok := a.Size(p.Digest); !ok || size != p.Size {
				t.Errorf("%s lacks %s", i.Name, p.Digest)
			}
		}
	}
}

// TestDaemonFails: a daemon that does not answer as it should ends the export, which leaves nothing: only its word that
// something is not there is about one image.
func TestDaemonFails(t *testing.T) {
	t.Parallel()
	for _, status := range []int{http.StatusServiceUnavailable, http.StatusUnauthorized, http.StatusInternalServerError} {
		for _, of := range []func(b cache.Bundle) string{
			func(b cache.Bundle) string { return b.Image },
			func(b cache.Bundle) string { return b.Target.Digest.String() },
			func(b cache.Bundle) string { return b.Pieces[1].Digest.String() },
		} {
			o, dir := newOdd("one:1", "two:1"), t.TempDir()
			o.refuse[of(o.bundles[1])] = status
			code, out, errs := o.export(t, "-o", dir+"/x/", "--from", "access")
			if code != exitFailed || !strings.Contains(errs, "is not to be had?]0;owned?") || strings.Contains(errs, "left out") {
				t.Errorf("%d: %d, %q, %q", status, code, out, errs)
			}
			if _, err := layout.Open(dir + "/x/"); err == nil {
				t.Error("there is an archive")
			}
		}
	}
}

// TestNothingLeft: an export of which each image has gone is none.
func TestNothingLeft(t *testing.T) {
	t.Parallel()
	o, dir := newOdd("one:1", "two:1"), t.TempDir()
	o.refuse[o.bundles[0].Pieces[0].Digest.String()] = http.StatusNotFound // of both
	code, _, errs := o.export(t, "-o", dir+"/x.tar", "--from", "access")
	if code != exitFailed || strings.Count(errs, "left out: ") != 2 || !strings.Contains(errs, "no image is whole in the cache any more") {
		t.Errorf("%d, %q", code, errs)
	}
	if _, err := layout.Open(dir + "/x.tar"); err == nil {
		t.Error("there is an archive")
	}
}

// TestPrivateArchive: an archive with what was obtained with credentials is for its user's eyes.
func TestPrivateArchive(t *testing.T) {
	t.Parallel()
	o, dir := newOdd("one:1", "two:1"), t.TempDir()
	o.bundles[1].Private = true
	if code, _, errs := o.export(t, "-o", dir+"/x.tar", "--from", "access"); code != 0 {
		t.Fatal(errs)
	}
	if fi, err := os.Stat(dir + "/x.tar"); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
}
