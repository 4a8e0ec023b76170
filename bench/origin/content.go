package origin

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"time"

	"bytes"

	"archive/tar"
)

const (
	blockSize = 1 << 20 // of the random block that all blobs repeat
	pageSize  = 4 << 10 // each page begins with a stamp of blob and offset
	stampSize = 16
	tarBlock  = 512
	minLayer  = 4 << 10 // below, a layer is not a tar file but bytes alone
)

// Blob is one piece of content: small ones hold their bytes, layers are computed
// as they are read. Immutable, safe for concurrent use.
type Blob struct {
	// Digest is "sha256:" and the hex digits.
	Digest string
	// Size is in bytes.
	Size int64
	// CRC is the CRC-32C of the whole blob: a check that costs a reader next to nothing.
	CRC uint32
	// MediaType is what a manifest is served as; empty for blobs.
	MediaType string

	data []byte // small blobs
	fill filler // layers
}

// Open returns a reader from the blob's start. Each reader has its own position.
func (b *Blob) Open() io.ReadSeeker {
	if b.data != nil {
		return bytes.NewReader(b.data)
	}
	return io.NewSectionReader(&b.fill, 0, b.Size)
}

// filler computes a layer: the shared random block over and over, each page
// stamped with the layer's id and the offset (so that bytes of another blob or
// place never pass for these), framed as a tar archive with one file in it, so
// that real clients can unpack what the synthetic registry serves.
type filler struct {
	base []byte
	id   uint64
	size int64
	head []byte // tar header; empty for layers below minLayer
	body int64  // where the file inside the tar ends; zeros from there
}

var _ io.ReaderAt = (*filler)(nil)

// ReadAt implements [io.ReaderAt].
func (f *filler) ReadAt(p []byte, off int64) (int, error) {
	if off >= f.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), f.size-off))
	f.random(p[:n], off)
	if off < int64(len(f.head)) {
		copy(p[:n], f.head[off:])
	}
	if end := off + int64(n); end > f.body {
		clear(p[max(f.body-off, 0):n])
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *filler) random(p []byte, off int64) {
	for at := 0; at < len(p); {
		at += copy(p[at:], f.base[(off+int64(at))%blockSize:])
	}
	var stamp [stampSize]byte
	binary.BigEndian.PutUint64(stamp[:], f.id)
	for page := off - off%pageSize; page < off+int64(len(p)); page += pageSize {
		binary.BigEndian.PutUint64(stamp[8:], uint64(page))
		if rel := page - off; rel >= 0 {
			copy(p[rel:], stamp[:])
		} else if -rel < stampSize {
			copy(p, stamp[-rel:])
		}
	}
}

// generator makes content from a seed; the same seed makes the same digests.
type generator struct {
	seed  uint64
	base  []byte
	known *digestCache
}

func newGenerator(seed uint64, known *digestCache) *generator {
	var key [32]byte
	binary.BigEndian.PutUint64(key[:], seed)
	src := rand.NewChaCha8(key)
	base := make([]byte, blockSize)
	for i := 0; i < len(base); i += 8 {
		binary.BigEndian.PutUint64(base[i:], src.Uint64())
	}
	return &generator{seed: seed, base: base, known: known}
}

// layer returns the layer called name. Hashing is the dear part (about 0.6 s per
// GB), and is done once per seed, name and size where the digest cache is kept.
func (g *generator) layer(name string, size int64) (*Blob, error) {
	h := sha256.Sum256(fmt.Appendf(nil, "%d %s %d", g.seed, name, size))
	b := &Blob{Size: size, fill: filler{base: g.base, id: binary.BigEndian.Uint64(h[:]), size: size, body: size}}
	if size >= minLayer {
		if err := b.fill.frame(); err != nil {
			return nil, fmt.Errorf("framing layer %s: %w", name, err)
		}
	}
	key := fmt.Sprintf("%s/%d", hex.EncodeToString(h[:16]), size)
	if e, ok := g.known.get(key); ok {
		b.Digest, b.CRC = e.digest, e.crc
		return b, nil
	}
	sum, crc := sha256.New(), crc32.New(crc32.MakeTable(crc32.Castagnoli))
	if _, err := io.CopyBuffer(io.MultiWriter(sum, crc), struct{ io.Reader }{b.Open()}, make([]byte, blockSize)); err != nil {
		return nil, fmt.Errorf("hashing layer %s: %w", name, err)
	}
	b.Digest, b.CRC = "sha256:"+hex.EncodeToString(sum.Sum(nil)), crc.Sum32()
	return b, g.known.put(key, known{digest: b.Digest, crc: b.CRC})
}

// frame makes the layer a tar archive of one file that fills it but for the
// header, the padding and the two empty blocks at the end.
func (f *filler) frame() error {
	file := (f.size - 3*tarBlock) / tarBlock * tarBlock
	var head bytes.Buffer
	err := tar.NewWriter(&head).WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: fmt.Sprintf("data/%016x", f.id), Size: file,
		Mode: 0o644, ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR,
	})
	f.head, f.body = head.Bytes(), int64(head.Len())+file
	return err
}

func bytesBlob(data []byte, mediaType string) *Blob {
	sum := sha256.Sum256(data)
	return &Blob{
		Digest: "sha256:" + hex.EncodeToString(sum[:]), Size: int64(len(data)), MediaType: mediaType,
		CRC: crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli)), data: data,
	}
}
