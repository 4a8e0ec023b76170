package cache

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"cistern/cache/index"
	"cistern/internal/durable/durabletest"
	"cistern/internal/oci"
)

// indexFile is where the index lies: a real file, since bbolt maps it. What a
// power cut or a kill leaves of it is what the last completed transaction made
// of it, or that and the one under way.
type indexFile struct {
	root, dir string // dir is the folder of this process's copy, in root
	lives     int

	mu      sync.Mutex // guards all below
	before  folder     // the transaction that is under way
	running bool
	off     bool     // nothing is written any more
	left    []folder // what there may be after the cut
	fault   func(op string) *durabletest.Fault
}

// folder is the files of a folder.
type folder map[string]extents

// extents are the pieces of a file that were ever written.
type extents struct {
	size int64
	data map[int64][]byte
}

// seekData and seekHole are whences of lseek.
const (
	seekData = 3
	seekHole = 4
)

// emptyIndex is one without records, as large as bbolt likes it: to make it costs
// two fsyncs, whatever Options.NoSync says.
var emptyIndex = sync.OnceValue(func() folder {
	dir, err := os.MkdirTemp("", "index")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	x, err := index.Open(filepath.Join(dir, indexName), index.Options{NoSync: true})
	if err == nil {
		err = errors.Join(x.Apply(index.Batch{Delete: []oci.Digest{oci.FromBytes(nil)}}), x.Close())
	}
	if err != nil {
		panic(err)
	}
	return (&indexFile{dir: dir}).copy()
})

// hook is index.Options.Hook.
func (x *indexFile) hook(op string, call func() error) error {
	x.mu.Lock()
	writes := op == "open" || op == "create" || op == "recount" || op == "apply"
	if x.off && writes {
		x.mu.Unlock()
		return durabletest.ErrOff
	}
	if writes {
		x.before, x.running = x.copy(), true
	}
	var fault *durabletest.Fault
	if x.fault != nil && !x.off {
		fault = x.fault(op)
	}
	x.mu.Unlock()
	if writes {
		defer x.over()
	}
	return happen(fault, call)
}

// happen runs a call, or what happens instead, or as well.
func happen(f *durabletest.Fault, call func() error) error {
	if f == nil {
		return call()
	}
	err := f.Err
	if f.Done || f.Err == nil && f.Panic == nil {
		err = errors.Join(call(), f.Err)
	}
	if f.After != nil {
		f.After()
	}
	if f.Panic != nil {
		panic(f.Panic)
	}
	return err
}

// faultAt sets what happens to calls from here on.
func (x *indexFile) faultAt(choose func(op string) *durabletest.Fault) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.fault = choose
}

// over ends a transaction.
func (x *indexFile) over() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.off && x.running {
		x.left = append(x.left, x.copy())
	}
	x.running = false
}

// freeze is the moment of a power cut.
func (x *indexFile) freeze() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.off = true
	if x.running {
		x.left = []folder{x.before}
	} else {
		x.left = []folder{x.copy()}
	}
}

// thaw makes the file that the next process finds, one of those that there may
// be; it is another file, so that what is left of the process before cannot
// write to it.
func (x *indexFile) thaw(rng *rand.Rand) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.left) == 0 {
		x.left = []folder{x.copy()}
	}
	chosen := x.left[len(x.left)-1]
	if rng != nil {
		chosen = x.left[rng.IntN(len(x.left))]
	}
	x.off, x.running, x.left, x.before = false, false, nil, nil
	x.lives++
	if x.dir != "" {
		_ = os.RemoveAll(x.dir)
	}
	x.dir = filepath.Join(x.root, fmt.Sprint(x.lives))
	if err := chosen.write(x.dir); err != nil {
		panic(err)
	}
}

// size is what the files take, in bytes.
func (x *indexFile) size() (n int64) {
	for _, name := range []string{indexName, indexName + brokenSuffix} {
		var st syscall.Stat_t
		if err := syscall.Lstat(filepath.Join(x.dir, name), &st); err == nil {
			n += st.Blocks * 512
		}
	}
	return n
}

func (x *indexFile) copy() folder {
	img := folder{}
	if x.dir == "" {
		return img
	}
	for _, name := range []string{indexName, indexName + brokenSuffix} {
		f, err := os.Open(filepath.Join(x.dir, name))
		if err != nil {
			continue
		}
		img[name] = read(f)
		_ = f.Close() // it was for reading only
	}
	return img
}

func read(f *os.File) extents {
	e := extents{data: map[int64][]byte{}}
	if fi, err := f.Stat(); err == nil {
		e.size = fi.Size()
	}
	for at := int64(0); at < e.size; {
		begin, err := f.Seek(at, seekData)
		if err != nil {
			break // no more
		}
		end, err := f.Seek(begin, seekHole)
		if err != nil {
			end = e.size
		}
		p := make([]byte, end-begin)
		n, _ := io.ReadFull(io.NewSectionReader(f, begin, end-begin), p)
		e.data[begin], at = p[:n], end
	}
	return e
}

func (img folder) write(dir string) error {
	err := os.Mkdir(dir, 0o700)
	for name, e := range img {
		f, ferr := os.OpenFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE, 0o600)
		if ferr != nil {
			return errors.Join(err, ferr)
		}
		err = errors.Join(err, f.Truncate(e.size))
		for at, p := range e.data {
			_, werr := f.WriteAt(p, at)
			err = errors.Join(err, werr)
		}
		err = errors.Join(err, f.Close())
	}
	return err
}
