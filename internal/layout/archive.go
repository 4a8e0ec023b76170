package layout

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"cistern/internal/oci"
)

// Archive is an archive that is read. Its methods but Close are safe for concurrent use.
type Archive struct {
	name   string
	index  Index
	digest oci.Digest
	from   source
}

// source gives the files of a layout by name; fs.ErrNotExist for those that are not there.
type source interface {
	open(name string) (body io.ReadCloser, size int64, err error)
	size(name string) (int64, error)
	// is tells whether a file is one that it is read from.
	is(fi fs.FileInfo) bool
	Close() error
}

// Open opens a directory, a tar, or a tar by its first part or all of them, in any order.
// Whoever has made it, nothing of it is believed but what its digest proves.
func Open(paths ...string) (_ *Archive, err error) {
	a := &Archive{name: paths[0]}
	if isDir(paths[0]) && len(paths) == 1 {
		a.from, err = openDir(paths[0])
	} else {
		a.from, err = openTar(paths)
	}
	if err != nil {
		return nil, fmt.Errorf("archive %s: %w", a.name, err)
	}
	b, err := a.read(indexName, maxIndex)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("there is no %s in it: it is no OCI image layout, or its end is missing", indexName)
	}
	if err == nil {
		a.index, err = decodeIndex(b)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("archive %s: %w", a.name, err), a.Close())
	}
	a.digest = oci.FromBytes(b)
	return a, nil
}

// read reads a small file whole.
func (a *Archive) read(name string, most int64) ([]byte, error) {
	body, size, err := a.from.open(name)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	if size > most {
		return nil, fmt.Errorf("%s is larger than %d bytes", name, most)
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(body, b); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return b, nil
}

// Name is the path that it was opened by.
func (a *Archive) Name() string { return a.name }

// LiesAt tells whether what is at a path, by whatever name, is the archive or a part of it.
func (a *Archive) LiesAt(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && a.from.is(fi)
}

// Index is what it says of itself.
func (a *Archive) Index() Index { return a.index }

// Digest is that of its index.json, by which later archives name it.
func (a *Archive) Digest() oci.Digest { return a.digest }

// Size is the size of a blob; false if it is not in the archive.
func (a *Archive) Size(d oci.Digest) (int64, bool) {
	n, err := a.from.size(blobName(d))
	return n, err == nil
}

// Blob opens a blob, unverified; fs.ErrNotExist if it is not in the archive.
func (a *Archive) Blob(d oci.Digest) (io.ReadCloser, int64, error) {
	body, size, err := a.from.open(blobName(d))
	if err != nil {
		return nil, 0, fmt.Errorf("archive %s: blob %s: %w", a.name, d, err)
	}
	return body, size, nil
}

// Check reads a blob and tells whether it is what its digest names, in the size that is said:
// before it is sent to where a damaged one would cost something.
func (a *Archive) Check(ctx context.Context, d oci.Descriptor) error {
	body, _, err := a.Blob(d.Digest)
	if err != nil {
		return err
	}
	defer body.Close()
	if err := copyVerified(io.Discard, &until{ctx, body}, d); err != nil {
		return fmt.Errorf("archive %s: %s is damaged: %w", a.name, blobName(d.Digest), err)
	}
	return nil
}

// until reads as long as nobody has had enough of it.
type until struct {
	ctx context.Context
	io.Reader
}

// Read implements io.Reader.
func (u *until) Read(b []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.Reader.Read(b)
}

// Manifest gives a manifest, verified; nil if it is not in the archive.
func (a *Archive) Manifest(d oci.Digest) ([]byte, error) {
	b, err := a.read(blobName(d), MaxManifest)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("archive %s: %w", a.name, err)
	case !d.Verify(b):
		return nil, fmt.Errorf("archive %s: %s is damaged: the bytes are not what the digest names", a.name, blobName(d))
	}
	return b, nil
}

// Pieces lists what an image of the archive consists of: of all platforms that were
// exported. Blobs among them may be in an archive that this one builds on.
func (a *Archive) Pieces(i Image) ([]Piece, error) {
	ps, err := Pieces(i.Original, true, a.Manifest)
	if err != nil {
		return nil, fmt.Errorf("archive %s: %s: %w", a.name, i.Name, err)
	}
	return ps, nil
}

// Close closes its files.
func (a *Archive) Close() error { return a.from.Close() }

// folder is a layout in a directory. No link leads out of it.
type folder struct{ root *os.Root }

func openDir(path string) (source, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	return folder{root}, nil
}

func (f folder) open(name string) (io.ReadCloser, int64, error) {
	if _, err := f.size(name); err != nil { // before it is opened: opening a pipe waits
		return nil, 0, err
	}
	file, err := f.root.Open(name)
	if err != nil {
		return nil, 0, err
	}
	fi, err := file.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, file.Close())
	}
	return file, fi.Size(), nil
}

func (f folder) size(name string) (int64, error) {
	fi, err := f.root.Lstat(name)
	if err != nil {
		return 0, err
	}
	if !fi.Mode().IsRegular() {
		return 0, fmt.Errorf("%s is no plain file", name)
	}
	return fi.Size(), nil
}

func (f folder) is(fi fs.FileInfo) bool {
	own, err := f.root.Stat(".")
	return err == nil && os.SameFile(own, fi)
}

func (f folder) Close() error { return f.root.Close() }
