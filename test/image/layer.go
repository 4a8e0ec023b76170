// Package image makes container images out of nothing: layers of a chosen size, media type and compression
// whose tar archives every engine can unpack, manifests around them, and artifacts. The same name always
// gives the same bytes.
//
// It is not a builder for images that do anything when run.
package image

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
)

// Layer is one tar archive with a single file of random bytes, compressed on disk.
type Layer struct {
	path   string
	media  types.MediaType
	digest v1.Hash
	diffID v1.Hash
	size   int64
}

var _ v1.Layer = (*Layer)(nil)

// NewLayer writes a layer whose file holds size random bytes, derived from the seed, into the folder. The media type
// decides the compression: gzip, zstd, or none.
func NewLayer(dir, seed string, size int64, media types.MediaType) (*Layer, error) {
	f, err := os.Create(filepath.Join(dir, fmt.Sprintf("%x", sha256.Sum256([]byte(seed+string(media))))))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	packed, plain := sha256.New(), sha256.New()
	out, err := compressor(io.MultiWriter(f, packed), media)
	if err != nil {
		return nil, err
	}
	if err := writeTar(io.MultiWriter(out, plain), seed, size); err != nil {
		return nil, err
	}
	if err := out.Close(); err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return &Layer{
		path: f.Name(), media: media, size: info.Size(),
		digest: v1.Hash{Algorithm: "sha256", Hex: fmt.Sprintf("%x", packed.Sum(nil))},
		diffID: v1.Hash{Algorithm: "sha256", Hex: fmt.Sprintf("%x", plain.Sum(nil))},
	}, nil
}

func compressor(w io.Writer, media types.MediaType) (io.WriteCloser, error) {
	switch media {
	case types.OCILayerZStd:
		return zstd.NewWriter(w)
	case types.OCILayer, types.DockerLayer:
		// The content is random: any effort to make it smaller is lost.
		return gzip.NewWriterLevel(w, gzip.HuffmanOnly)
	default:
		return nopCloser{w}, nil
	}
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

func writeTar(w io.Writer, seed string, size int64) error {
	t := tar.NewWriter(w)
	name := fmt.Sprintf("data/%x", sha256.Sum256([]byte(seed)))[:24]
	for _, h := range []*tar.Header{
		{Typeflag: tar.TypeDir, Name: "data/", Mode: 0o755},
		{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size},
	} {
		if err := t.WriteHeader(h); err != nil {
			return err
		}
	}
	if _, err := io.Copy(t, io.LimitReader(Random(seed), size)); err != nil {
		return err
	}
	return t.Close()
}

// Random is an endless stream of bytes that the seed determines.
func Random(seed string) io.Reader { return rand.NewChaCha8(sha256.Sum256([]byte(seed))) }

// Digest is the hash of the compressed layer, under which a registry keeps it.
func (l *Layer) Digest() (v1.Hash, error) { return l.digest, nil }

// DiffID is the hash of the tar archive.
func (l *Layer) DiffID() (v1.Hash, error) { return l.diffID, nil }

// Compressed opens the layer as a registry keeps it.
func (l *Layer) Compressed() (io.ReadCloser, error) { return os.Open(l.path) }

// Uncompressed is not needed to push an image, and refused.
func (l *Layer) Uncompressed() (io.ReadCloser, error) {
	return nil, fmt.Errorf("layer %s is for pushing only", l.digest)
}

// Size is the length of the compressed layer.
func (l *Layer) Size() (int64, error) { return l.size, nil }

// MediaType is the type under which the layer was made.
func (l *Layer) MediaType() (types.MediaType, error) { return l.media, nil }
