package cache

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"cistern/cache/index"
	"cistern/internal/oci"
)

// maxPinned bounds the blobs and manifests that pins keep: they are known in memory, and
// passed over by each search for what may be evicted. One pin keeps maxParts at most.
const maxPinned = 1 << 14

// maxNames bounds what all these manifests name together, each for itself: it is in memory,
// and in the file.
const maxNames = 2 * maxPinned

// pins are what people want to be kept, and which blobs that are. What a manifest names
// never changes, so what was read once of one that is pinned is known from then on, and
// written down. What is pinned is found out anew when something has happened that may
// change it; what is kept already is never given up for what comes later.
type pins struct {
	changing sync.Mutex  // held by who changes roots and writes them down; taken first of all
	walking  sync.Mutex  // held by who finds out what is pinned
	any      atomic.Bool // there are roots

	mu      sync.Mutex // guards all below; taken after all others
	roots   map[oci.Reference]root
	holds   map[oci.Digest]int64    // what is kept, and what it takes on the disk, or will
	links   map[oci.Digest]named    // of the manifests among these, as far as they were read
	awaited map[oci.Digest]struct{} // the others: not here
	came    map[oci.Digest]struct{} // of these, here since they were looked for, or to be looked for again
	refused map[oci.Digest]need     // of what there was no room for, so that it is not read again and again
	recent  map[oci.Digest]struct{} // what came while somebody was finding out; nil: nobody is
	over    map[oci.Reference]need  // roots of which not all is kept, and what there is no room for
	unread  bool                    // a manifest is here and could not be read at the moment
	news    uint64                  // what has happened that may change what is kept
	heeded  uint64                  // as far as holds knows of it
	unsaved bool                    // the file says something else
	recount bool                    // what is here may take more than its manifest says
	reread  bool                    // what there was no room for may have it now
	tooMuch bool                    // more is pinned than there is room for
}

// root is what one pin keeps: a manifest, and all that it names.
type root struct {
	last  oci.Digest // zero: nobody has pulled it yet
	next  oci.Digest // what the tag names by now, which is kept too; it takes last's place once it can be pulled
	since time.Time
}

func newPins() pins {
	return pins{
		roots: map[oci.Reference]root{}, holds: map[oci.Digest]int64{}, links: map[oci.Digest]named{},
		awaited: map[oci.Digest]struct{}{}, came: map[oci.Digest]struct{}{}, over: map[oci.Reference]need{},
	}
}

// happened notes that what is pinned is to be found out anew.
func (p *pins) happened() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.news++
}

// moved notes what a tag names, at once: it may be no tag any more when what is pinned is
// found out.
func (p *pins) moved(tag oci.Reference, to oci.Digest) {
	if !p.any.Load() {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	r, ok := p.roots[tag]
	if to == r.last {
		to = oci.Digest{}
	}
	if ok && to != r.next {
		r.next = to.Clone()
		p.roots[tag] = r
		p.unsaved = true
		p.news++
	}
}

// arrived notes that a blob is here: a manifest that is pinned may be the one of a
// platform that was not here before.
func (p *pins) arrived(d oci.Digest) {
	if !p.any.Load() {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.recent != nil {
		p.recent[d] = struct{}{}
	}
	p.cameLocked(d)
}

func (p *pins) cameLocked(d oci.Digest) {
	if _, ok := p.awaited[d]; ok {
		p.came[d] = struct{}{}
		p.news++
	}
}

// holding tells whether a digest is known to be pinned.
func (p *pins) holding(d oci.Digest) bool {
	if !p.any.Load() {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.holds[d]
	return ok
}

// rooted tells whether an image is pinned by that name.
func (p *pins) rooted(ref oci.Reference) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.roots[ref]
	return ok
}

// last gives what a pin by that name keeps; zero if there is none, or nothing.
func (p *pins) last(ref oci.Reference) oci.Digest {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.roots[ref].last
}

// unclear tells whether a manifest that is pinned is here and cannot be read.
func (p *pins) unclear() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.any.Load() && p.unread
}

// keeps tells whether a blob must not be removed: it is pinned, or it is not known at the
// moment what is.
func (p *pins) keeps(d oci.Digest) bool { return p.any.Load() && (!p.settled() || p.holding(d)) }

func (p *pins) settled() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.any.Load() || p.heeded == p.news && !p.unread
}

// repin finds out what is pinned, if that may have changed. False if it is not known for
// sure: a manifest is here and cannot be read, or more happens meanwhile.
func (c *Cache) repin() bool {
	p := &c.pins
	if p.settled() {
		return true
	}
	p.walking.Lock()
	defer p.walking.Unlock()
	for range maxRounds {
		if p.settled() {
			return true
		}
		w := p.begin(c)
		w.all()
		c.sayOver(p.end(w))
	}
	return p.settled()
}

// begin begins to find out what is pinned; walking is held.
func (p *pins) begin(c *Cache) *pinWalk {
	most := c.pinnable()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.recent = map[oci.Digest]struct{}{}
	sizes := p.holds
	if p.recount {
		sizes, p.recount = nil, false
	}
	if p.reread {
		p.refused, p.reread = nil, false
	}
	w := &pinWalk{
		c: c, news: p.news, most: most, known: p.links, sizes: sizes, needs: p.refused, counts: map[oci.Reference]int{},
		holds: map[oci.Digest]int64{}, links: map[oci.Digest]named{}, awaited: map[oci.Digest]struct{}{}, over: map[oci.Reference]need{},
		absent: map[oci.Digest]struct{}{}, again: map[oci.Digest]struct{}{}, refused: map[oci.Digest]need{},
	}
	for ref, r := range p.roots {
		w.roots = append(w.roots, pinned{ref, r, r})
	}
	for d := range p.awaited {
		if _, came := p.came[d]; !came {
			w.absent[d] = struct{}{}
		}
	}
	clear(p.came)
	return w
}

// end takes what was found out, and gives what is kept in part only, and whether more is
// pinned than there is room for, each if that is new.
func (p *pins) end(w *pinWalk) (over []oci.Reference, tooMuch bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range w.roots {
		if now, ok := p.roots[r.ref]; ok && now == r.was { // else it was unpinned meanwhile
			p.roots[r.ref] = r.root
			p.unsaved = p.unsaved || r.was != r.root
		}
	}
	for ref := range w.over {
		if _, before := p.over[ref]; !before {
			over = append(over, ref)
		}
	}
	tooMuch = w.sum > w.most && !p.tooMuch
	p.tooMuch = w.sum > w.most
	p.unsaved = p.unsaved || len(w.links) != len(p.links) || w.read
	p.holds, p.links, p.awaited, p.over, p.unread, p.heeded = w.holds, w.links, w.awaited, w.over, w.unread, w.news
	p.refused = w.refused
	if w.moved {
		p.news++
	}
	for d := range w.again {
		p.came[d] = struct{}{}
	}
	recent := p.recent
	p.recent = nil
	for d := range p.awaited {
		if _, came := recent[d]; came {
			p.cameLocked(d)
		}
	}
	return over, tooMuch
}

// sayOver says of which pins something is not kept, or will not be.
func (c *Cache) sayOver(over []oci.Reference, tooMuch bool) {
	if tooMuch {
		c.log.Error("more is pinned than there is room for: what is here stays, and what is not here yet is streamed, and not kept; raise cache.max_size, or unpin something",
			zap.Int64("pinned_bytes", c.pins.bytes()), zap.Int64("limit_bytes", c.pinnable()))
	}
	for _, ref := range over {
		c.log.Error("not all of a pinned image is kept: its tag names a larger one by now, or more of its platforms are here, and there is no room for them among what is pinned; raise cache.max_size, or unpin something",
			zap.Stringer("image", ref), zap.Int64("pinned_bytes", c.pins.bytes()), zap.Int64("limit_bytes", c.pinnable()))
	}
}

// bytes is what all that is pinned takes, or will when it is here.
func (p *pins) bytes() (sum int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, n := range p.holds {
		sum += n // at most maxPinned times maxSaid
	}
	return sum
}

// pinnable is how many bytes may be pinned: what blobs may take at all.
func (c *Cache) pinnable() int64 {
	u := c.store.Usage()
	switch {
	case u.High > 0:
		return u.High - c.idx.Load().Footprint() - u.Fixed
	case u.FSSize > 0:
		return u.Used + u.FSFree
	}
	return math.MaxInt64
}

// tagNow is tag without waiting for the tags of an old index.
func (c *Cache) tagNow(ref oci.Reference) (index.Tag, bool) {
	c.mu.Lock()
	t, ok := c.newTags[ref]
	_, gone := c.goneTags[ref]
	c.mu.Unlock()
	if ok || gone {
		return t, ok
	}
	t, ok, err := c.idx.Load().Tag(ref)
	return t, ok && err == nil
}

// lookAgain has it found out anew what tags name that could not be pulled yet, and how much
// all takes that has come since.
func (p *pins) lookAgain() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.recount = true
	p.news++
}
