package cache

import (
	"maps"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"cistern/cache/index"
	"cistern/internal/oci"
)

// maxPinned bounds the blobs and manifests that pins keep: they are known in memory, and
// passed over by each search for what may be evicted.
const maxPinned = 1 << 16

// pins are what people want to be kept, and which blobs that are. What a manifest names
// never changes, so what was read once of one that is pinned is known from then on. What
// is pinned is found out anew when something has happened that may change it, and until
// that is done nothing is evicted: see keeps.
type pins struct {
	changing sync.Mutex  // held by who changes roots and writes them down; taken first of all
	walking  sync.Mutex  // held by who finds out what is pinned
	any      atomic.Bool // there are roots

	mu      sync.Mutex // guards all below; taken after all others
	roots   map[oci.Reference]root
	holds   map[oci.Digest]int64    // what is kept, and its bytes as its manifest says
	links   map[oci.Digest]links    // of the manifests among these, as far as they were read
	awaited map[oci.Digest]struct{} // the others: not here
	came    map[oci.Digest]struct{} // blobs that came while somebody was finding out; nil: nobody is
	unread  bool                    // one of the manifests could not be read at the moment
	full    bool                    // maxPinned is reached: what is beyond is not kept
	news    uint64                  // what has happened that may change what is kept
	heeded  uint64                  // as far as holds knows of it
	unsaved bool                    // roots is not what the file says
	over    bool                    // more is pinned than can be kept, and that was said
}

// root is what one pin keeps: a manifest, and all that it names.
type root struct {
	last  oci.Digest // zero: nobody has pulled it yet
	since time.Time
}

func newPins() pins {
	return pins{roots: map[oci.Reference]root{}, holds: map[oci.Digest]int64{}, links: map[oci.Digest]links{}, awaited: map[oci.Digest]struct{}{}}
}

// happened notes that what is pinned is to be found out anew.
func (p *pins) happened() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.news++
}

// moved notes that a tag names another manifest.
func (p *pins) moved(tag oci.Reference, to oci.Digest) {
	if !p.any.Load() {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if r, ok := p.roots[tag]; ok && r.last != to {
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
	if p.came != nil {
		p.came[d] = struct{}{}
	}
	if _, ok := p.awaited[d]; ok {
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

// keeps tells whether a blob must not be removed: it is pinned, or it is not known at the
// moment what is.
func (p *pins) keeps(d oci.Digest) bool { return p.any.Load() && (!p.settled() || p.holding(d)) }

func (p *pins) settled() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.heeded == p.news && !p.unread
}

// repin finds out what is pinned, if that may have changed. False if it is not known for
// sure: a manifest is here and cannot be read, or more happens meanwhile.
func (c *Cache) repin() bool {
	p := &c.pins
	if !p.any.Load() || p.settled() {
		return true
	}
	p.walking.Lock()
	defer p.walking.Unlock()
	for range maxRounds {
		if p.settled() {
			break
		}
		w := p.begin(c)
		w.all()
		p.end(w)
	}
	c.sayPinned()
	return p.settled()
}

// sayPinned says once that more is pinned than can be kept: a tag may come to name a
// larger image.
func (c *Cache) sayPinned() {
	now, most := c.pins.bytes(), c.pinnable()
	c.pins.mu.Lock()
	over, said := now > most || c.pins.full, c.pins.over
	c.pins.over = over
	c.pins.mu.Unlock()
	if over && !said {
		c.log.Error("more is pinned than the cache can keep: what is new is streamed, and not kept; raise cache.max_size, or unpin something",
			zap.Int64("pinned_bytes", now), zap.Int64("limit_bytes", most))
	}
}

// begin begins to find out what is pinned; walking is held.
func (p *pins) begin(c *Cache) *pinWalk {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.came = map[oci.Digest]struct{}{}
	return &pinWalk{
		c: c, news: p.news, roots: maps.Clone(p.roots), known: p.links,
		holds: map[oci.Digest]int64{}, links: map[oci.Digest]links{}, awaited: map[oci.Digest]struct{}{},
	}
}

// end takes what was found out.
func (p *pins) end(w *pinWalk) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for d := range w.awaited {
		if _, ok := p.came[d]; ok {
			p.news++
			break
		}
	}
	for ref, r := range w.roots {
		if was, ok := p.roots[ref]; ok && was.last != r.last {
			p.roots[ref] = r
			p.unsaved = true
		}
	}
	p.came, p.heeded = nil, w.news
	p.holds, p.links, p.awaited, p.unread, p.full = w.holds, w.links, w.awaited, w.unread, w.full
}

// bytes is what all that is pinned has, as far as its manifests are here and say it.
func (p *pins) bytes() (sum int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, n := range p.holds {
		sum = added(sum, n)
	}
	return sum
}

// pinWalk finds out what the roots keep. Its maps are nobody else's, but for known.
type pinWalk struct {
	c            *Cache
	news         uint64
	roots        map[oci.Reference]root
	known, links map[oci.Digest]links
	holds        map[oci.Digest]int64
	awaited      map[oci.Digest]struct{}
	unread, full bool
}

func (w *pinWalk) all() {
	for ref, r := range w.roots {
		now := r.last
		if t, ok := w.c.tagNow(ref); ref.Tag != "" && ok && !t.Target.Digest.IsZero() {
			now = t.Target.Digest
		}
		// What the tag named before is kept until what it names now is here.
		if w.manifest(now, 0, 0) && now != r.last {
			r.last = now.Clone()
			w.roots[ref] = r
		}
		w.manifest(r.last, 0, 0)
	}
}

// manifest keeps a manifest and what it names. It tells whether that is known.
func (w *pinWalk) manifest(d oci.Digest, size int64, depth int) bool {
	if !w.hold(d, size) || depth > maxNesting {
		return false
	}
	if _, met := w.links[d]; met {
		return true
	}
	l, ok := w.known[d]
	if !ok {
		if l, ok = w.read(d); !ok {
			return false
		}
	}
	w.links[d.Clone()] = l
	for _, b := range l.content() {
		w.hold(b.Digest, b.Size)
	}
	for _, m := range l.Manifests {
		w.manifest(m.Digest, m.Size, depth+1)
	}
	return true
}

// hold keeps a digest; false if there is none, or no room for it.
func (w *pinWalk) hold(d oci.Digest, size int64) bool {
	if d.IsZero() {
		return false
	}
	before, ok := w.holds[d]
	if !ok && len(w.holds) >= maxPinned {
		w.full = true
		return false
	}
	if !ok {
		d = d.Clone()
	}
	w.holds[d] = max(before, size)
	return true
}

// read reads what a manifest names. What is no manifest names nothing.
func (w *pinWalk) read(d oci.Digest) (links, bool) {
	data, rec, here := w.c.peek(d)
	if here {
		w.hold(d, rec.Size)
		l, err := parseLinks(data)
		if err != nil {
			return links{}, true
		}
		return l, true
	}
	rec, stored := w.c.findStored(d)
	if stored && rec.Size > maxManifest {
		return links{}, true
	}
	w.awaited[d.Clone()] = struct{}{}
	w.unread = w.unread || stored || w.c.doubtful(d, maxManifest) || w.c.lies(d)
	return links{}, false
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

// pinnable is how many bytes may be pinned: what may be kept at all.
func (c *Cache) pinnable() int64 {
	if high := c.store.Usage().High; high > 0 {
		return high
	}
	return math.MaxInt64
}
