package cache

import (
	"cmp"
	"slices"

	"cistern/internal/durable"
	"cistern/internal/oci"
)

// pinned is a root and its name.
type pinned struct {
	ref oci.Reference
	was root // when the walk began
	root
}

// pinWalk finds out what the roots keep. What it makes is nobody else's yet; known, sizes
// and absent are what was known before.
type pinWalk struct {
	c      *Cache
	news   uint64
	most   int64 // bytes
	known  map[oci.Digest]named
	sizes  map[oci.Digest]int64
	absent map[oci.Digest]struct{}
	needs  map[oci.Digest]need // of manifests that there was no room for

	roots   []pinned
	holds   map[oci.Digest]int64
	links   map[oci.Digest]named
	awaited map[oci.Digest]struct{}
	again   map[oci.Digest]struct{} // of these, here by their records: to be looked for again
	refused map[oci.Digest]need
	over    map[oci.Reference]need
	unread  bool
	read    bool // a manifest that was not known
	moved   bool // a tag's pin has given up what the tag named before
	sum     int64
	names   int // in links
	counts  map[oci.Reference]int
}

// need is what it takes to keep what a manifest names.
type need struct {
	digests, names int // that are not kept yet; all of them
	bytes          int64
}

// wanted is a manifest that a root keeps.
type wanted struct {
	digest oci.Digest
	ref    oci.Reference
}

// all keeps first what was known before, of the pins in the order in which they were made,
// so that nothing that is new takes the place of it. What a tag named before is given up in
// the next walk: by then what it names now is kept.
func (w *pinWalk) all() {
	slices.SortFunc(w.roots, older)
	var todo []wanted
	for i := range w.roots {
		r := &w.roots[i]
		w.follow(r)
		w.hold(r.ref, sized{Digest: r.last})
		todo = append(todo, wanted{r.last, r.ref})
	}
	for _, r := range w.roots {
		w.hold(r.ref, sized{Digest: r.next})
		todo = append(todo, wanted{r.next, r.ref})
	}
	w.expand(w.expand(todo, w.knew), w.admit)
	for i := range w.roots {
		if r := &w.roots[i]; !r.next.IsZero() && w.whole(r.next, map[oci.Digest]bool{}) {
			r.last, r.next, w.moved = r.next, oci.Digest{}, true
		}
	}
}

func older(a, b pinned) int {
	if n := a.since.Compare(b.since); n != 0 {
		return n
	}
	return cmp.Compare(a.ref.String(), b.ref.String())
}

// follow looks what a tag names. The first that is here is kept at once.
func (w *pinWalk) follow(r *pinned) {
	if r.ref.Tag == "" {
		return
	}
	if t, ok := w.c.tagNow(r.ref); ok && !t.Target.Digest.IsZero() {
		r.next = t.Target.Digest.Clone()
	}
	if r.next == r.last {
		r.next = oci.Digest{}
	}
	if r.next.IsZero() || !r.last.IsZero() {
		return
	}
	if _, stored := w.c.findStored(r.next); stored {
		r.last, r.next = r.next, oci.Digest{}
	}
}

// whole tells whether all that a manifest names is kept, and here also after a power cut,
// or whether one of the manifests that an index names is whole. Those in met are not.
func (w *pinWalk) whole(d oci.Digest, met map[oci.Digest]bool) bool {
	n, kept := w.links[d]
	if met[d] || !kept || !w.c.recorded(d) {
		return false
	}
	met[d] = true
	if len(n.Manifests) > 0 {
		return slices.ContainsFunc(n.Manifests, func(m sized) bool { return w.whole(m.Digest, met) })
	}
	return len(n.Blobs) > 0 && !slices.ContainsFunc(n.Blobs, func(b sized) bool { return !b.Foreign && !w.c.recorded(b.Digest) })
}

// expand keeps what manifests name, each one once, and gives those of which look does not
// know what they name.
func (w *pinWalk) expand(todo []wanted, look func(wanted) (named, bool)) (left []wanted) {
	for len(todo) > 0 {
		m := todo[0]
		todo = todo[1:]
		if _, done := w.links[m.digest]; done || m.digest.IsZero() {
			continue
		}
		n, ok := look(m)
		if !ok {
			left = append(left, m)
			continue
		}
		w.links[m.digest.Clone()] = n
		w.names += len(n.Blobs) + len(n.Manifests)
		for _, b := range n.Blobs {
			w.hold(m.ref, b)
		}
		for _, child := range n.Manifests {
			w.hold(m.ref, child)
			todo = append(todo, wanted{child.Digest, m.ref})
		}
	}
	return left
}

func (w *pinWalk) knew(m wanted) (named, bool) {
	n, ok := w.known[m.digest]
	return n, ok
}

// admit reads what a manifest names, if that is here and there is room for it.
func (w *pinWalk) admit(m wanted) (named, bool) {
	if n, ok := w.known[m.digest]; ok {
		return n, true // below one that is new
	}
	if before, ok := w.needs[m.digest]; ok && !w.fits(m, before) {
		return named{}, false // without reading it again
	}
	_, absent := w.absent[m.digest]
	n, here, err := named{}, false, error(nil)
	if !absent {
		n, here, err = w.c.namedBy(m.digest)
	}
	switch {
	case err != nil:
		w.unread = true
		return named{}, false
	case !here:
		d := m.digest.Clone()
		w.awaited[d] = struct{}{}
		if _, stored := w.c.findStored(d); stored && !absent { // the disk may give it another time
			w.again[d] = struct{}{}
		}
		return named{}, false
	}
	more := need{names: len(n.Blobs) + len(n.Manifests)}
	for _, s := range slices.Concat(n.Blobs, n.Manifests) {
		if _, held := w.holds[s.Digest]; !held {
			more.digests++
			more.bytes += w.takes(s)
		}
	}
	if !w.fits(m, more) {
		return named{}, false
	}
	w.read = true
	return n, true
}

// fits tells whether there is room for what a manifest names, and notes if there is not.
func (w *pinWalk) fits(m wanted, n need) bool {
	if len(w.holds)+n.digests <= maxPinned && w.counts[m.ref]+n.digests <= maxParts && w.names+n.names <= maxNames && w.sum+n.bytes <= w.most {
		return true
	}
	w.over[m.ref] = n
	w.refused[m.digest.Clone()] = n
	return false
}

// hold keeps a digest.
func (w *pinWalk) hold(ref oci.Reference, s sized) {
	if _, held := w.holds[s.Digest]; held || s.Digest.IsZero() {
		return
	}
	bytes, ok := w.sizes[s.Digest]
	if !ok {
		bytes = w.takes(s)
	}
	w.holds[s.Digest.Clone()] = bytes
	w.sum += bytes
	w.counts[ref]++
}

// takes is what a blob takes on the disk, or will.
func (w *pinWalk) takes(s sized) int64 {
	if rec, here := w.c.findStored(s.Digest); here {
		return rec.Allocated
	}
	return durable.RoundUp(max(1, s.Size))
}
