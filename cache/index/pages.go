package index

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/fnv"
	"iter"
	"os"
	"slices"
	"syscall"
)

// A file that broke the index is read here, and not through bbolt: it takes any
// page for sound, panics, and then shows nothing of the rest. This reader
// believes nothing and copies instead of mapping, so that nothing can fault.

// bbolt's file format.
const (
	pageHeader  = 16
	elementLen  = 16
	bucketLen   = 16 // before an inline bucket's page
	metaLen     = 64
	metaMagic   = 0xED0CDAED
	metaVersion = 2

	flagBranch = 0x01
	flagLeaf   = 0x02
	flagBucket = 0x01 // of an element
)

const (
	// maxDepth is more than a tree of 2^64 pages has.
	maxDepth = 16
	// maxOverflow is how many more pages one page may take: our longest key and
	// value take two.
	maxOverflow = 16
	// lookupPages bounds a search for one key, whatever the branches say.
	lookupPages = 256
)

// pageFile reads pages. Its methods may be called concurrently.
type pageFile struct {
	file     *os.File
	pageSize int64
	size     int64 // of the file
}

// entry is an element of a page: child in a branch, value in a leaf.
type entry struct {
	key, value []byte
	child      uint64
	bucket     bool
}

// read gives a page's bytes, nil if it cannot be read.
func (f *pageFile) read(id uint64) []byte {
	if id >= uint64(f.size/f.pageSize) {
		return nil
	}
	data := make([]byte, f.pageSize)
	if _, err := f.file.ReadAt(data, int64(id)*f.pageSize); err != nil {
		return nil
	}
	n := binary.NativeEndian.Uint32(data[12:])
	if n == 0 || n > maxOverflow {
		return data
	}
	more := make([]byte, int64(n)*f.pageSize)
	if _, err := f.file.ReadAt(more, (int64(id)+1)*f.pageSize); err != nil {
		return data
	}
	return append(data, more...)
}

// load reads the elements of a page of a tree; false if it is damaged.
func (f *pageFile) load(id uint64) (flags uint16, entries []entry, ok bool) {
	data := f.read(id)
	if data == nil || binary.NativeEndian.Uint64(data) != id {
		return 0, nil, false
	}
	return parsePage(data)
}

// parsePage reads all elements. One that points out of the page is left out and
// makes the page damaged, as one out of order does.
func parsePage(data []byte) (flags uint16, entries []entry, ok bool) {
	if len(data) < pageHeader {
		return 0, nil, false
	}
	flags = binary.NativeEndian.Uint16(data[8:])
	count := int(binary.NativeEndian.Uint16(data[10:]))
	if flags != flagBranch && flags != flagLeaf || pageHeader+count*elementLen > len(data) {
		return 0, nil, false
	}
	entries = make([]entry, 0, count)
	damaged := false
	for i := range count {
		e := data[pageHeader+i*elementLen:]
		n := func(at int) uint64 { return uint64(binary.NativeEndian.Uint32(e[at:])) }
		var pos, klen, vlen uint64
		var x entry
		if flags == flagBranch {
			pos, klen, x.child = n(0), n(4), binary.NativeEndian.Uint64(e[8:])
		} else {
			pos, klen, vlen, x.bucket = n(4), n(8), n(12), n(0) == flagBucket
		}
		if pos+klen+vlen > uint64(len(e)) {
			damaged = true
			continue
		}
		x.key, x.value = e[pos:pos+klen:pos+klen], e[pos+klen:pos+klen+vlen:pos+klen+vlen]
		if n := len(entries); n > 0 && bytes.Compare(entries[n-1].key, x.key) >= 0 {
			damaged = true
		}
		entries = append(entries, x)
	}
	return flags, entries, !damaged
}

// tree is one of the file's trees, or a small bucket within its parent's page.
type tree struct {
	f      *pageFile
	root   uint64
	inline []byte
}

// subtree reads a bucket's entry.
func (f *pageFile) subtree(value []byte) (tree, bool) {
	if len(value) < bucketLen {
		return tree{}, false
	}
	root := binary.NativeEndian.Uint64(value)
	if root == 0 {
		return tree{f: f, inline: value[bucketLen:]}, true
	}
	return tree{f: f, root: root}, true
}

// from yields the leaves' entries from the first key that is not less than key;
// then, if it met a damaged page, false once. It looks into each page once, and
// into limit pages at most if that is not 0.
func (t tree) from(key []byte, limit int) iter.Seq2[entry, bool] {
	return func(yield func(entry, bool) bool) {
		w := walk{f: t.f, key: key, limit: limit, yield: yield}
		if t.inline != nil {
			flags, entries, ok := parsePage(t.inline)
			w.damaged = !ok || flags != flagLeaf
			w.leaf(entries)
		} else {
			if limit == 0 {
				w.seen = make([]uint64, t.f.size/t.f.pageSize/64+1)
			}
			w.page(t.root, 0)
		}
		if w.damaged && !w.over {
			yield(entry{}, false)
		}
	}
}

type walk struct {
	f       *pageFile
	key     []byte
	limit   int
	loaded  int
	seen    []uint64 // a bit for each page
	damaged bool
	over    bool // the consumer has enough
	yield   func(entry, bool) bool
}

// visited counts a page; true if it must not be read.
func (w *walk) visited(id uint64) bool {
	w.loaded++
	if w.limit > 0 {
		return w.loaded > w.limit
	}
	if id/64 >= uint64(len(w.seen)) || w.seen[id/64]>>(id%64)&1 == 1 {
		return true
	}
	w.seen[id/64] |= 1 << (id % 64)
	return false
}

func (w *walk) page(id uint64, depth int) {
	if depth == maxDepth || w.visited(id) {
		w.damaged = true
		return
	}
	flags, entries, ok := w.f.load(id)
	w.damaged = w.damaged || !ok
	if flags == flagLeaf {
		w.leaf(entries)
		return
	}
	// A child holds the keys from its own on: the search begins in the last
	// one that does not begin behind it.
	at, found := 0, false
	if ok {
		at, found = slices.BinarySearchFunc(entries, w.key, func(e entry, key []byte) int { return bytes.Compare(e.key, key) })
	}
	if !found && at > 0 {
		at--
	}
	for _, e := range entries[at:] {
		if w.page(e.child, depth+1); w.over {
			return
		}
	}
}

func (w *walk) leaf(entries []entry) {
	for _, e := range entries {
		if bytes.Compare(e.key, w.key) >= 0 && !w.yield(e, true) {
			w.over = true
			return
		}
	}
}

// all yields the entries of all leaves that the file has, of whatever tree,
// also of pages that are in none any more; those of inline buckets too.
func (f *pageFile) all() iter.Seq[entry] {
	return func(yield func(entry) bool) {
		for id := uint64(0); id < uint64(f.size/f.pageSize); id++ {
			flags, entries, _ := parsePage(f.read(id))
			if flags != flagLeaf {
				id = f.skipHole(id)
				continue
			}
			for _, e := range entries {
				if t, ok := f.subtree(e.value); e.bucket && ok && t.inline != nil {
					_, inner, _ := parsePage(t.inline)
					for _, e := range inner {
						if !yield(e) {
							return
						}
					}
				} else if !e.bucket && !yield(e) {
					return
				}
			}
		}
	}
}

// seekData is SEEK_DATA of lseek(2).
const seekData = 3

// skipHole gives the last page of the hole that page id lies in, or id.
func (f *pageFile) skipHole(id uint64) uint64 {
	at, err := f.file.Seek(int64(id)*f.pageSize, seekData)
	switch {
	case errors.Is(err, syscall.ENXIO): // nothing but a hole up to the end
		return uint64(f.size / f.pageSize)
	case err != nil: // a file system that does not say
		return id
	}
	return max(id+1, uint64(at/f.pageSize)) - 1
}

// root is a root of the whole file with the transaction it is of.
type root struct{ page, tx uint64 }

// roots reads the two meta pages and gives the later one's root first. A file
// whose page size nobody knows any more is read with the machine's.
func (f *pageFile) roots() (roots []root) {
	f.pageSize = int64(os.Getpagesize())
	for shift := range 15 { // as bbolt looks for the second
		size := int64(1024) << shift
		if _, ok := f.meta(size, size); ok {
			f.pageSize = size
			break
		}
	}
	if _, ok := f.meta(0, 0); ok { // it knows better
		f.pageSize = f.metaPageSize(0)
	}
	for _, at := range []int64{0, f.pageSize} {
		if r, ok := f.meta(at, f.pageSize); ok {
			roots = append(roots, r)
		}
	}
	slices.SortFunc(roots, func(a, b root) int { return int(int64(b.tx - a.tx)) })
	return roots
}

// meta reads a meta page that should be of a file of that page size; 0: any.
func (f *pageFile) meta(at, pageSize int64) (root, bool) {
	b := make([]byte, metaLen)
	if _, err := f.file.ReadAt(b, at+pageHeader); err != nil {
		return root{}, false
	}
	n := binary.NativeEndian
	sum := fnv.New64a()
	_, _ = sum.Write(b[:metaLen-8]) // a hash takes everything
	size := int64(n.Uint32(b[8:]))
	switch {
	case n.Uint32(b) != metaMagic, n.Uint32(b[4:]) != metaVersion, n.Uint64(b[metaLen-8:]) != sum.Sum64():
		return root{}, false
	case size < 1024 || size > 1<<24 || size&(size-1) != 0, pageSize != 0 && size != pageSize:
		return root{}, false
	}
	return root{page: n.Uint64(b[16:]), tx: n.Uint64(b[metaLen-16:])}, true
}

func (f *pageFile) metaPageSize(at int64) int64 {
	b := make([]byte, 4)
	if _, err := f.file.ReadAt(b, at+pageHeader+8); err != nil {
		return int64(os.Getpagesize())
	}
	return int64(binary.NativeEndian.Uint32(b))
}
