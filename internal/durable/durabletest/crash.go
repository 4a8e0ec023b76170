package durabletest

import (
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"time"
)

// ErrOff is what every operation says once the process or the machine that it
// belongs to is gone.
var ErrOff = errors.New("the machine is off")

// Kill ends the process that uses f, if Close has not, and gives what the next
// one finds: everything that was written, synced or not, without locks or open
// files. f and its files refuse everything from now on.
func (f *FS) Kill() *FS {
	d := f.d
	d.mu.Lock()
	defer d.mu.Unlock()
	f.off = true
	for n := range d.locks {
		d.unlock(n)
	}
	for n := range d.orphans {
		n.opens = 0
		d.forgetIfUnused(n)
	}
	d.each(d.root, func(n *node) { n.opens = 0 })
	return &FS{d: d}
}

// Crash cuts the power and gives what the next boot finds: what was synced, and
// of the rest what rng says. f and its files refuse everything from now on. It
// may be called again, as long as no other process went on here after a Kill,
// and gives another outcome of the same power cut.
func (f *FS) Crash(rng *rand.Rand) *FS {
	d := f.d
	d.mu.Lock()
	defer d.mu.Unlock()
	f.off = true
	after := New(d.o)
	after.d.lastIno = d.lastIno
	o := &outcome{rng: rng, names: d.survivors(rng), d: after.d}
	after.d.root = o.boot(d.root)
	return after
}

// DropCaches has what a failed fsync lost read as it is on stable storage, as
// the kernel does when it wants the memory back.
func (f *FS) DropCaches() {
	d := f.d
	d.mu.Lock()
	defer d.mu.Unlock()
	forget := func(n *node) {
		for i, b := range n.seen.blocks {
			if b == nil || !b.lost {
				continue
			}
			n.seen.blocks[i] = &block{}
			if was := n.stable.at(i); was != nil {
				n.seen.blocks[i] = was
			}
		}
	}
	d.each(d.root, forget)
	for n := range d.orphans {
		forget(n)
	}
}

// Used is what everything takes that has a name or is open, in bytes, the root
// folder aside.
func (f *FS) Used() int64 {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	return f.d.used
}

// each calls do for n and all below it.
func (d *disk) each(n *node, do func(*node)) {
	do(n)
	for _, child := range n.entries {
		d.each(child, do)
	}
}

// eachBelow calls do for n and for all that is stable in it: folders that were
// synced are there no more than the one above them.
func (n *node) eachBelow(do func(*node)) {
	do(n)
	for _, child := range n.below {
		child.eachBelow(do)
	}
}

// half is one name that leads to another node from now on, or to none.
type half struct {
	dir  *node
	name string
	to   *node
}

// change is one step of the names in a folder, or in two; it becomes stable
// whole or not at all.
type change []half

// entry is a name in a folder.
type entry struct {
	dir  *node
	name string
}

// apply carries a change out on the tables that tables gives.
func (c change) apply(tables func(*node) map[string]*node) {
	for _, h := range c {
		if h.to == nil {
			delete(tables(h.dir), h.name)
		} else {
			tables(h.dir)[h.name] = h.to
		}
	}
}

// change does a step: processes see it at once, the journal has it for later.
func (d *disk) change(c ...half) {
	var parted []*node
	for _, h := range c {
		if was := h.dir.entries[h.name]; was != nil {
			was.named = false
			parted = append(parted, was)
		}
	}
	for _, h := range c {
		if h.to == nil {
			continue
		}
		if !slices.Contains(parted, h.to) { // made just now
			d.inodes++
			d.used += h.to.allocated()
		}
		h.to.named, h.to.renamed = true, time.Now()
	}
	change(c).apply(func(n *node) map[string]*node { return n.entries })
	d.journal = append(d.journal, c)
	for _, n := range parted {
		if !n.named {
			d.orphans[n] = true
			d.forgetIfUnused(n)
		}
	}
}

// forgetIfUnused frees a node that has neither a name nor a user.
func (d *disk) forgetIfUnused(n *node) {
	if n.named || n.opens > 0 || !d.orphans[n] {
		return
	}
	delete(d.orphans, n)
	d.inodes--
	d.used -= n.allocated()
}

// settle makes the names in a folder stable: all steps that touch it, and of
// those before them the ones that led there. What is moved is not lost: a rename
// brings the folders along that it leads to.
func (d *disk) settle(dir *node) {
	stable := make([]bool, len(d.journal))
	needed := map[entry]bool{}
	target := map[*node]bool{} // folders that are to be there
	for i, c := range slices.Backward(d.journal) {
		stable[i] = slices.ContainsFunc(c, func(h half) bool {
			return h.dir == dir || needed[entry{h.dir, h.name}] || target[h.to]
		})
		for _, h := range c {
			if !stable[i] {
				continue
			}
			needed[entry{h.dir, h.name}] = true
			target[h.dir] = target[h.dir] || len(c) > 1 || target[h.to]
		}
	}
	var rest []change
	for i, c := range d.journal {
		if stable[i] {
			c.apply(func(n *node) map[string]*node { return n.below })
		} else {
			rest = append(rest, c)
		}
	}
	d.journal = rest
}

// SyncAll implements durable.FS.
func (f *FS) SyncAll() error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.usable(); err != nil {
		return err
	}
	for _, c := range f.d.journal {
		c.apply(func(n *node) map[string]*node { return n.below })
	}
	f.d.journal = nil
	f.d.each(f.d.root, func(n *node) {
		if !n.mode.IsDir() {
			n.settle()
		}
	})
	return nil
}

// luck is how much of what was not synced survives: nothing, all, or a share.
func luck(rng *rand.Rand) float64 {
	switch rng.IntN(4) {
	case 0:
		return 0
	case 1:
		return 1
	}
	return rng.Float64()
}

// survivors gives the names in each folder after a power cut. A step survives
// only with those before it that the same names went through, and with the
// folders that it happened in.
func (d *disk) survivors(rng *rand.Rand) map[*node]map[string]*node {
	names := map[*node]map[string]*node{}
	lost, unborn := map[entry]bool{}, map[*node]bool{}
	share := luck(rng)
	for _, c := range d.journal {
		if rng.Float64() >= share || slices.ContainsFunc(c, func(h half) bool { return unborn[h.dir] || lost[entry{h.dir, h.name}] }) {
			for _, h := range c {
				lost[entry{h.dir, h.name}] = true
				if len(c) == 1 && h.to != nil {
					h.to.eachBelow(func(n *node) { unborn[n] = true })
				}
			}
			continue
		}
		c.apply(func(n *node) map[string]*node {
			if names[n] == nil {
				names[n] = maps.Clone(n.below)
			}
			return names[n]
		})
	}
	return names
}

// outcome makes the disk that is there after a power cut.
type outcome struct {
	rng   *rand.Rand
	names map[*node]map[string]*node // where they are not the stable ones
	d     *disk
}

// boot gives a node as it is found, with all below it.
func (o *outcome) boot(n *node) *node {
	found := &node{ino: n.ino, mode: n.mode, modified: n.modified, renamed: n.renamed, named: true}
	if !n.mode.IsDir() {
		found.seen = o.content(n)
		found.stable = content{found.seen.size, slices.Clone(found.seen.blocks)}
		o.d.used += found.allocated()
		return found
	}
	names := o.names[n]
	if names == nil {
		names = n.below
	}
	found.entries = map[string]*node{}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if names[name].mode.IsDir() {
			o.d.used += blockSize
		}
		o.d.inodes++
		found.entries[name] = o.boot(names[name])
	}
	found.below = maps.Clone(found.entries)
	return found
}

// content gives a file's data as it is found. Its size is the stable one or the
// newest or, where it grew, any between; each block is the stable one, which
// may be none, or the newest.
func (o *outcome) content(n *node) content {
	c := content{size: n.stable.size}
	if o.rng.Float64() < luck(o.rng) {
		c.size = n.seen.size
	}
	if grown := n.seen.size - n.stable.size; grown > 0 && o.rng.IntN(8) == 0 {
		c.size = n.stable.size + o.rng.Int64N(grown)
	}
	share := luck(o.rng)
	for i := range blocksOf(c.size) {
		b := n.stable.at(i)
		newest := n.seen.at(i)
		gone := newest == nil && i >= blocksOf(n.seen.size) || newest != nil && newest.lost
		if newest != b && !gone && o.rng.Float64() < share {
			b = newest
		}
		if b != nil && !b.shared {
			b.shared = true
		}
		c.blocks = append(c.blocks, b)
	}
	if rest := c.size % blockSize; rest > 0 && c.blocks[len(c.blocks)-1] != nil {
		last := &block{data: c.blocks[len(c.blocks)-1].data, shared: true}
		clear(last.data[rest:])
		c.blocks[len(c.blocks)-1] = last
	}
	return c
}
