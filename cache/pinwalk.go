package cache

import (
	"slices"

	"cistern/internal/durable"
	"cistern/internal/oci"
)

// pinned is a root and its name.
type pinned struct {
	ref oci.Reference
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

	roots   []pinned
	holds   map[oci.Digest]int64
	links   map[oci.Digest]named
	awaited map[oci.Digest]struct{}
	over    map[oci.Reference]bool
	unread  bool
	read    bool // a manifest that was not known
	sum     int64
	counts  map[oci.Reference]int
}

// wanted is a manifest that a root keeps.
type wanted struct {
	digest oci.Digest
	ref    oci.Reference
}

// all keeps first what was known before, of the pins in the order in which they were made,
// so that nothing that is new takes the place of it.
func (w *pinWalk) all() {
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
}

// follow looks what a tag names, and gives up what it named before, once the other can be
// pulled.
func (w *pinWalk) follow(r *pinned) {
	if r.ref.Tag == "" {
		return
	}
	t, ok := w.c.tagNow(r.ref)
	switch {
	case !ok || t.Target.Digest.IsZero():
		return
	case t.Target.Digest == r.last:
		r.next = oci.Digest{}
		return
	}
	r.next = t.Target.Digest.Clone()
	if _, stored := w.c.findStored(r.next); stored && (r.last.IsZero() || w.c.whole(r.next, 0)) {
		r.last, r.next = r.next, oci.Digest{}
	}
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
		w.awaited[m.digest.Clone()] = struct{}{}
		return named{}, false
	}
	more, bytes := 0, int64(0)
	for _, s := range slices.Concat(n.Blobs, n.Manifests) {
		if _, held := w.holds[s.Digest]; !held {
			more++
			bytes += w.takes(s)
		}
	}
	if len(w.holds)+more > maxPinned || w.counts[m.ref]+more > maxParts || w.sum+bytes > w.most {
		w.over[m.ref] = true
		return named{}, false
	}
	w.read = true
	return n, true
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
