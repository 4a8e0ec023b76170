package layout

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"cistern/internal/oci"
)

// Options say where an archive is written.
type Options struct {
	Path    string    // a directory if it ends in a slash or is one, else a tar
	Split   int64     // bytes of a part of the tar, .000 and so on behind Path; 0: it is in one piece
	Out     io.Writer // the tar goes here, and Path is not used; nil: a file
	Private bool      // nobody but the user may read its files
}

// Writer writes an archive. Nothing looks like one before Finish has found that it is
// closed. Its methods are safe for concurrent use; into a tar one blob goes at a time.
type Writer struct {
	out sink

	mu        sync.Mutex // guards all below
	sizes     map[oci.Digest]int64
	manifests map[oci.Digest][]byte
	elsewhere map[oci.Digest]bool
	bytes     int64
}

// sink is what files are put into: a directory or a tar.
type sink interface {
	// put adds a file of so many bytes, which fill writes.
	put(name string, size int64, fill func(io.Writer) error) error
	// finish gives the archive its name.
	finish() error
	// abort removes what was written, unless it is finished.
	abort() error
}

// Create begins an archive. What lies there already is not touched, but for a tar of
// that name, which Finish replaces; of two that write to one path at the same time the
// second is refused.
func Create(o Options) (*Writer, error) {
	w := &Writer{sizes: map[oci.Digest]int64{}, manifests: map[oci.Digest][]byte{}, elsewhere: map[oci.Digest]bool{}}
	var err error
	mode := os.FileMode(0o666)
	if o.Private {
		mode = 0o600
	}
	switch {
	case o.Out != nil:
		w.out = newTar(unnamed{o.Out})
	case IsDir(o.Path) && o.Split > 0:
		return nil, fmt.Errorf("%s is a directory: only a tar is split", o.Path)
	case IsDir(o.Path):
		w.out, err = createDir(o.Path, mode)
	case o.Split > 0:
		w.out, err = createParts(o.Path, o.Split, mode)
	default:
		w.out, err = createFile(o.Path, mode)
	}
	if err != nil {
		return nil, fmt.Errorf("create archive: %w", err)
	}
	if err := w.file(markName, []byte(mark)); err != nil {
		return nil, errors.Join(err, w.Abort())
	}
	return w, nil
}

func (w *Writer) file(name string, b []byte) error {
	err := w.out.put(name, int64(len(b)), func(to io.Writer) error {
		_, err := to.Write(b)
		return err
	})
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// Has tells whether a blob is in the archive, or in an earlier one.
func (w *Writer) Has(d oci.Digest) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, here := w.sizes[d]
	return here || w.elsewhere[d]
}

// Written is how many blobs and manifests the archive holds, and their bytes.
func (w *Writer) Written() (n int, bytes int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.sizes), w.bytes
}

// Elsewhere notes that a blob is in an archive that this one builds on.
func (w *Writer) Elsewhere(d oci.Digest) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.elsewhere[d] = true
}

// Blob adds a blob, which r gives, if it is what its digest says. After an error the
// archive is of no use any more. Each is added once.
func (w *Writer) Blob(d oci.Descriptor, r io.Reader) error {
	err := w.out.put(blobName(d.Digest), d.Size, func(to io.Writer) error { return copyVerified(to, r, d) })
	if err != nil {
		return fmt.Errorf("write blob %s: %w", d.Digest, err)
	}
	w.added(d.Digest, d.Size, nil)
	return nil
}

// Manifest adds a manifest, unless it is there.
func (w *Writer) Manifest(d oci.Digest, b []byte) error {
	w.mu.Lock()
	_, here := w.sizes[d]
	w.mu.Unlock()
	if here {
		return nil
	}
	if err := w.Blob(oci.Descriptor{Digest: d, Size: int64(len(b))}, bytes.NewReader(b)); err != nil {
		return err
	}
	w.added(d, 0, b)
	return nil
}

func (w *Writer) added(d oci.Digest, size int64, manifest []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if manifest != nil {
		w.manifests[d] = manifest
		return
	}
	w.sizes[d] = size
	w.bytes += size
}

// Finish writes index.json, if all that it leads to is there, and gives the archive its
// name. It gives the digest of index.json.
func (w *Writer) Finish(x Index) (oci.Digest, error) {
	for _, i := range x.Images {
		if err := errors.Join(w.closed(i.Target, false), w.closed(i.Original, true)); err != nil {
			return oci.Digest{}, fmt.Errorf("the archive is not closed: %s: %w", i.Name, err)
		}
	}
	b, err := x.encode()
	if err != nil {
		return oci.Digest{}, err
	}
	if err := w.file(indexName, b); err != nil {
		return oci.Digest{}, err
	}
	if err := w.out.finish(); err != nil {
		return oci.Digest{}, fmt.Errorf("finish archive: %w", err)
	}
	return oci.FromBytes(b), nil
}

// closed checks that all that a manifest leads to is there, in the size that is said.
func (w *Writer) closed(root oci.Descriptor, sparse bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	pieces, err := Pieces(root, sparse, func(d oci.Digest) ([]byte, error) { return w.manifests[d], nil })
	if err != nil {
		return err
	}
	for _, p := range pieces {
		size, here := w.sizes[p.Digest]
		switch {
		case here && size != p.Size:
			return fmt.Errorf("blob %s has %d bytes, and its manifest says %d", p.Digest, size, p.Size)
		case !here && !w.elsewhere[p.Digest]:
			return fmt.Errorf("blob %s is missing", p.Digest)
		}
	}
	return nil
}

// Abort removes what was written, unless Finish has come to its end.
func (w *Writer) Abort() error { return w.out.abort() }

// IsDir tells whether a path means a directory: it ends in a slash, or is one.
func IsDir(path string) bool { return strings.HasSuffix(path, "/") || isDir(path) }
