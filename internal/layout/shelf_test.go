package layout

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"cistern/internal/oci"
)

// shelf holds what images consist of.
type shelf map[oci.Digest][]byte

func (s shelf) put(b []byte) oci.Digest {
	d := oci.FromBytes(b)
	s[d] = b
	return d
}

func (s shelf) manifest(d oci.Digest) ([]byte, error) { return s[d], nil }

func noise(n int, seed uint64) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed)}).Read(b)
	return b
}

const (
	dockerLayer  = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	dockerConfig = "application/vnd.docker.container.image.v1+json"
	ociLayer     = "application/vnd.oci.image.layer.v1.tar+gzip"
	ociConfig    = "application/vnd.oci.image.config.v1+json"
)

func ref(mediaType string, b []byte) string {
	return fmt.Sprintf(`"mediaType":%q,"digest":%q,"size":%d`, mediaType, oci.FromBytes(b), len(b))
}

// image makes one with a layer of each of the sizes.
func (s shelf) image(mediaType string, sizes ...int) oci.Descriptor {
	config, layer := ociConfig, ociLayer
	if mediaType == oci.MediaTypeDockerManifest {
		config, layer = dockerConfig, dockerLayer
	}
	c := fmt.Appendf(nil, `{"architecture":"amd64","n":%d}`, len(s))
	s.put(c)
	var layers []string
	for i, n := range sizes {
		b := noise(n, uint64(i+n))
		s.put(b)
		layers = append(layers, "{"+ref(layer, b)+"}")
	}
	b := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{%s},"layers":[%s]}`, mediaType, ref(config, c), strings.Join(layers, ","))
	return oci.Descriptor{MediaType: mediaType, Digest: s.put(b), Size: int64(len(b))}
}

// index makes one of the children.
func (s shelf) index(mediaType string, children ...oci.Descriptor) oci.Descriptor {
	var all []string
	for i, c := range children {
		all = append(all, fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d,"platform":{"os":"linux","architecture":"a%d"}}`, c.MediaType, c.Digest, c.Size, i))
	}
	b := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"manifests":[%s],"annotations":{"kept":"as it is"}}`, mediaType, strings.Join(all, ","))
	return oci.Descriptor{MediaType: mediaType, Digest: s.put(b), Size: int64(len(b))}
}

// write writes the image, all of it that is on the shelf, as a user of the package does.
func (s shelf) write(w *Writer, name string, root oci.Descriptor, since ...oci.Digest) (oci.Digest, error) {
	pieces, err := Pieces(root, true, s.manifest)
	if err != nil {
		return oci.Digest{}, err
	}
	for _, p := range pieces {
		b := s[p.Digest]
		if p.Manifest {
			err = w.Manifest(p.Digest, b)
		} else if !w.Has(p.Digest) {
			err = w.Blob(p.Descriptor, io.MultiReader(bytes.NewReader(b)))
		}
		if err != nil {
			return oci.Digest{}, err
		}
	}
	docs, err := Portable(root, s.manifest)
	if err != nil {
		return oci.Digest{}, err
	}
	for _, d := range docs {
		if err := w.Manifest(d.Digest, d.Bytes); err != nil {
			return oci.Digest{}, err
		}
	}
	return w.Finish(Index{Images: []Image{{Name: name, Target: docs[len(docs)-1].Descriptor, Original: root}}, Since: since})
}

// want checks that an archive holds the image.
func (s shelf) want(t *testing.T, a *Archive, root oci.Descriptor) {
	t.Helper()
	x := a.Index()
	if len(x.Images) != 1 || x.Images[0].Original.Digest != root.Digest {
		t.Fatalf("%+v", x)
	}
	pieces, err := a.Pieces(x.Images[0])
	if err != nil || pieces[len(pieces)-1].Digest != root.Digest {
		t.Fatalf("%v, %v", pieces, err)
	}
	for _, p := range pieces {
		body, size, err := a.Blob(p.Digest)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(body)
		body.Close()
		if err != nil || size != p.Size || !bytes.Equal(b, s[p.Digest]) {
			t.Errorf("%s: %d bytes of %d, %v", p.Digest, len(b), size, err)
		}
	}
	strict, err := Pieces(x.Images[0].Target, false, a.Manifest)
	if err != nil {
		t.Errorf("not closed: %v", err)
	}
	for _, p := range strict {
		if n, ok := a.Size(p.Digest); !ok || n != p.Size {
			t.Errorf("not closed: %s is missing", p.Digest)
		}
	}
}
