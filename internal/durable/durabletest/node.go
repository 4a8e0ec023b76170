package durabletest

import (
	"io/fs"
	"slices"
	"sync"
	"syscall"
	"time"
)

// blockSize is the unit in which space is handed out and data is lost.
const blockSize = 4096

// disk is a file system: what processes see, and what is stable.
type disk struct {
	o Options

	mu      sync.Mutex // guards all below, and every node
	root    *node
	used    int64 // allocated bytes of all that has a name or is open
	inodes  int64
	lastIno uint64
	journal []change // of names, not stable yet, in order
	locks   map[*node]chan struct{}
	orphans map[*node]bool // without a name, but open
}

// node is a file, a folder, or something else.
type node struct {
	ino      uint64
	mode     fs.FileMode // with its type
	modified time.Time
	renamed  time.Time // when it last got a name
	opens    int
	named    bool

	seen, stable content          // of a file
	entries      map[string]*node // of a folder, as processes see it
	below        map[string]*node // of a folder, as it is stable
}

// content is the data of a file; a nil block reads as zeros.
type content struct {
	size   int64
	blocks []*block
}

// block is 4 KiB. One that is shared with stable storage is never written to.
type block struct {
	data   [blockSize]byte
	shared bool
	// lost: writing it out failed. It reads well as long as it is in memory,
	// counts as written, and is not on stable storage.
	lost bool
}

// newNode makes a node without a name. d.mu is held, or nobody else knows d.
func (d *disk) newNode(mode fs.FileMode) *node {
	d.lastIno++
	n := &node{ino: d.lastIno, mode: mode, modified: time.Now()}
	if mode.IsDir() {
		n.entries, n.below = map[string]*node{}, map[string]*node{}
	}
	return n
}

// allocated is what a node takes, in bytes.
func (n *node) allocated() (bytes int64) {
	if n.mode.IsDir() {
		return blockSize
	}
	for _, b := range n.seen.blocks {
		if b != nil {
			bytes += blockSize
		}
	}
	return bytes
}

// at gives the i-th block, nil where there is none.
func (c *content) at(i int) *block {
	if i < len(c.blocks) {
		return c.blocks[i]
	}
	return nil
}

// blocksOf is how many blocks hold so many bytes.
func blocksOf(size int64) int { return int((size + blockSize - 1) / blockSize) }

// own gives the i-th block to write to, nil if the disk is full.
func (d *disk) own(n *node, i int) *block {
	for len(n.seen.blocks) <= i {
		n.seen.blocks = append(n.seen.blocks, nil)
	}
	was := n.seen.blocks[i]
	switch {
	case was == nil && d.used+blockSize > d.o.Size:
		return nil
	case was == nil:
		d.used += blockSize
		n.seen.blocks[i] = &block{}
	case was.shared:
		n.seen.blocks[i] = &block{data: was.data}
	}
	return n.seen.blocks[i]
}

// resize cuts a file or lengthens it by zeros.
func (d *disk) resize(n *node, size int64) {
	n.modified = time.Now()
	keep := min(blocksOf(size), len(n.seen.blocks))
	for _, b := range n.seen.blocks[keep:] {
		if b != nil {
			d.used -= blockSize
		}
	}
	n.seen.blocks = slices.Clip(n.seen.blocks[:keep])
	if rest, last := size%blockSize, blocksOf(size)-1; size < n.seen.size && rest > 0 && n.seen.at(last) != nil {
		clear(d.own(n, last).data[rest:])
	}
	n.seen.size = size
}

// settle makes a file's content stable, but for what was lost on the way.
func (n *node) settle() {
	blocks := make([]*block, len(n.seen.blocks))
	for i, b := range n.seen.blocks {
		if b != nil && b.lost {
			b = n.stable.at(i)
		}
		if b != nil {
			b.shared = true
		}
		blocks[i] = b
	}
	n.stable = content{n.seen.size, blocks}
}

// lose marks what was to be written out as written, which it is not.
func (n *node) lose() {
	for i, b := range n.seen.blocks {
		if b != nil && b != n.stable.at(i) {
			b.lost, b.shared = true, true
		}
	}
}

// info describes a node.
func (n *node) info(name string) fs.FileInfo {
	st := &syscall.Stat_t{Ino: n.ino, Nlink: 1, Mode: uint32(n.mode.Perm()), Size: n.seen.size, Blocks: n.allocated() / 512, Blksize: blockSize}
	changed := n.modified
	if n.renamed.After(changed) {
		changed = n.renamed
	}
	st.Ctim = syscall.NsecToTimespec(changed.UnixNano())
	if n.mode.IsDir() {
		st.Size = blockSize
	}
	return &info{name, n.mode, n.modified, st}
}

// info implements fs.FileInfo.
type info struct {
	name     string
	mode     fs.FileMode
	modified time.Time
	stat     *syscall.Stat_t
}

func (i *info) Name() string       { return i.name }
func (i *info) Size() int64        { return i.stat.Size }
func (i *info) Mode() fs.FileMode  { return i.mode }
func (i *info) ModTime() time.Time { return i.modified }
func (i *info) IsDir() bool        { return i.mode.IsDir() }
func (i *info) Sys() any           { return i.stat }
