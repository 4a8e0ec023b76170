package layout

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// dir is a layout in a directory. It is none before index.json has its name.
type dir struct {
	root *os.Root
	path string
	mode os.FileMode // of its files
	made bool        // the directory itself
	done bool
}

func isDir(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.IsDir()
}

// createDir begins a layout in a directory, which may hold other things.
func createDir(path string, mode os.FileMode) (*dir, error) {
	d := &dir{path: path, mode: mode}
	switch err := os.Mkdir(path, d.folderMode()); {
	case err == nil:
		d.made = true
	case !errors.Is(err, fs.ErrExist):
		return nil, err
	}
	for _, name := range []string{markName, indexName, "blobs"} {
		if _, err := os.Lstat(filepath.Join(path, name)); err == nil {
			return nil, fmt.Errorf("%s holds %s already: name another directory, or remove it", path, name)
		}
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	d.root = root
	if err := root.Mkdir("blobs", d.folderMode()); err != nil { // by another export, since we looked: it is not ours to remove
		return nil, errors.Join(fmt.Errorf("%s: another export writes there: %w", path, err), root.Close())
	}
	if err := root.Mkdir("blobs/sha256", d.folderMode()); err != nil {
		return nil, errors.Join(err, d.abort())
	}
	return d, nil
}

// folderMode is that of its folders: who may read the files may list them.
func (d *dir) folderMode() os.FileMode { return d.mode | d.mode&0o444>>2 }

func (d *dir) put(name string, _ int64, fill func(io.Writer) error) error {
	at := name
	if name == indexName {
		at += ".part"
	}
	f, err := d.root.OpenFile(at, os.O_WRONLY|os.O_CREATE|os.O_EXCL, d.mode)
	if errors.Is(err, fs.ErrNotExist) { // a digest of another algorithm
		if err = d.root.MkdirAll(filepath.Dir(at), d.folderMode()); err == nil {
			f, err = d.root.OpenFile(at, os.O_WRONLY|os.O_CREATE|os.O_EXCL, d.mode)
		}
	}
	if err != nil {
		return err
	}
	return errors.Join(fill(f), f.Close())
}

func (d *dir) finish() error {
	if err := d.root.Rename(indexName+".part", indexName); err != nil {
		return err
	}
	d.done = true
	return d.root.Close()
}

func (d *dir) abort() error {
	if d.done {
		return nil
	}
	d.done = true
	err := d.root.RemoveAll("blobs")
	for _, name := range []string{markName, indexName + ".part"} {
		if rerr := d.root.Remove(name); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}
	err = errors.Join(err, d.root.Close())
	if d.made {
		err = errors.Join(err, os.Remove(d.path))
	}
	return err
}
