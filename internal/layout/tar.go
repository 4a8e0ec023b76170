package layout

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// target is where a tar goes: a file, its parts, or whatever takes bytes.
type target interface {
	io.Writer
	// finish gives it its name.
	finish() error
	// abort removes it, whatever finish has come to before it failed.
	abort() error
}

// unnamed is a target that is nothing to give a name to.
type unnamed struct{ io.Writer }

func (unnamed) finish() error { return nil }
func (unnamed) abort() error  { return nil }

// tarball is a layout in a tar. The same files in the same order give the same bytes.
type tarball struct {
	mu   sync.Mutex // guards all below
	to   target
	tar  *tar.Writer
	dirs map[string]bool
	done bool
}

func newTar(to target) *tarball {
	return &tarball{to: to, tar: tar.NewWriter(to), dirs: map[string]bool{}}
}

func (t *tarball) put(name string, size int64, fill func(io.Writer) error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range name {
		if folder := name[:i+1]; name[i] == '/' && !t.dirs[folder] {
			t.dirs[folder] = true
			if err := t.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: folder, Mode: 0o755, ModTime: time.Unix(0, 0)}); err != nil {
				return err
			}
		}
	}
	if err := t.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: time.Unix(0, 0)}); err != nil {
		return err
	}
	return fill(t.tar)
}

func (t *tarball) finish() error {
	if err := t.tar.Close(); err != nil {
		return err
	}
	if err := t.to.finish(); err != nil {
		return err
	}
	t.done = true
	return nil
}

func (t *tarball) abort() error {
	if t.done {
		return nil
	}
	t.done = true
	return t.to.abort()
}

// partial is the name of a file that is not finished.
func partial(path string) string { return path + partialSuffix }

const partialSuffix = ".partial"

// createPartial makes a file that is not finished. What has that name already is somebody else's,
// a link to anything included.
func createPartial(path string, mode os.FileMode) (*os.File, error) {
	f, err := os.OpenFile(partial(path), os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%s is there already: another export writes it, or one was killed; if none runs, remove it", partial(path))
	}
	return f, err
}

// removeFile removes a file, if it is there.
func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// file is a tar in one file.
type file struct {
	*os.File
	path string
}

func createFile(path string, mode os.FileMode) (*tarball, error) {
	f, err := createPartial(path, mode)
	if err != nil {
		return nil, err
	}
	return newTar(&file{f, path}), nil
}

func (f *file) finish() error {
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), f.path)
}

func (f *file) abort() error {
	_ = f.Close() // finish may have closed it, and what is removed need not be whole
	return removeFile(f.Name())
}

// maxParts is how many parts a tar is split into: their names have three digits, so that
// they stand in order.
const maxParts = 1000

// parts is a tar in several files of the same size, but for the last.
type parts struct {
	path  string
	size  int64
	mode  os.FileMode
	f     *os.File
	room  int64 // in f
	n     int   // parts so far
	named int   // those that have their names, the last ones
}

func partName(path string, n int) string { return fmt.Sprintf("%s.%03d", path, n) }

// createParts begins a tar in parts, where none of any archive of that name lies: the first ones of
// another may be on another medium.
func createParts(path string, size int64, mode os.FileMode) (*tarball, error) {
	beside, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	for _, e := range beside {
		whole, _, isPart := part(strings.TrimSuffix(e.Name(), partialSuffix))
		if isPart && whole == filepath.Base(path) {
			return nil, fmt.Errorf("%s is there already: name another archive, or remove its parts", filepath.Join(filepath.Dir(path), e.Name()))
		}
	}
	return newTar(&parts{path: path, size: size, mode: mode}), nil
}

// Write implements io.Writer.
func (p *parts) Write(b []byte) (n int, err error) {
	for len(b) > 0 {
		if p.room == 0 {
			if err := p.next(); err != nil {
				return n, err
			}
		}
		m, err := p.f.Write(b[:min(int64(len(b)), p.room)])
		n, p.room, b = n+m, p.room-int64(m), b[m:]
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

func (p *parts) next() error {
	if err := p.close(); err != nil {
		return err
	}
	if p.n == maxParts {
		return fmt.Errorf("it does not fit into %d parts: make them larger", maxParts)
	}
	f, err := createPartial(partName(p.path, p.n), p.mode)
	if err != nil {
		return err
	}
	p.f, p.room, p.n = f, p.size, p.n+1
	return nil
}

func (p *parts) close() error {
	if p.f == nil {
		return nil
	}
	f := p.f
	p.f = nil
	return f.Close()
}

// finish names the first part last: without it there is no archive.
func (p *parts) finish() error {
	if err := p.close(); err != nil {
		return err
	}
	for n := p.n - 1; n >= 0; n-- {
		name := partName(p.path, n)
		if exists(name) {
			return fmt.Errorf("%s is there by now, of something else", name)
		}
		if err := os.Rename(partial(name), name); err != nil {
			return err
		}
		p.named++
	}
	return nil
}

func (p *parts) abort() error {
	err := p.close()
	for n := range p.n {
		name := partName(p.path, n)
		if n < p.n-p.named {
			name = partial(name)
		}
		err = errors.Join(err, removeFile(name))
	}
	return err
}
