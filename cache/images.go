package cache

import (
	"iter"
	"maps"
	"math"
	"time"

	"cistern/cache/index"
	"cistern/internal/oci"
)

// ImageInfo is a tag that is known here. Of a multi-platform image the platforms count
// whose manifest is here.
type ImageInfo struct {
	Image   string    `json:"image"`
	Digest  string    `json:"digest"`
	Bytes   int64     `json:"bytes"`   // content of all that it consists of, each part once
	Missing int       `json:"missing"` // parts of these that are not here
	Checked time.Time `json:"checked,omitzero"`
	Pinned  bool      `json:"pinned,omitempty"`
	// Imported: it came from an archive, and upstream has not said anything yet.
	Imported bool `json:"imported,omitempty"`
}

// Images lists the tags that are known: those that the index does not know of yet, then
// those of a repository together; after an error it ends. It counts as no use of them. It
// reads the manifests of all of them.
func (c *Cache) Images() iter.Seq2[ImageInfo, error] {
	return func(yield func(ImageInfo, error) bool) {
		if c.store == nil {
			return
		}
		c.repin() // or what came just now is not said to be pinned
		c.mu.Lock()
		recent, gone := maps.Clone(c.newTags), maps.Clone(c.goneTags)
		c.mu.Unlock()
		for _, t := range recent {
			if !yield(c.imageInfo(t), nil) {
				return
			}
		}
		for t, err := range c.idx.Load().Tags() {
			if err != nil {
				yield(ImageInfo{}, err)
				return
			}
			_, before := recent[t.Reference]
			_, left := gone[t.Reference]
			if !before && !left && !yield(c.imageInfo(t), nil) {
				return
			}
		}
	}
}

func (c *Cache) imageInfo(t index.Tag) ImageInfo {
	i := ImageInfo{Image: t.Reference.String(), Digest: t.Target.Digest.String(), Checked: t.Checked, Imported: t.Checked.IsZero(), Pinned: c.pins.holding(t.Target.Digest)}
	i.Bytes, i.Missing = c.weigh(t.Target.Digest)
	return i
}

// weigh gives the bytes of an image, each part counted once, and how many of these parts
// are not here, but for platforms that nobody has pulled.
func (c *Cache) weigh(d oci.Digest) (bytes int64, missing int) {
	for _, p := range c.parts(d) {
		switch {
		case p.Shared, !p.Here && p.Platform != "":
			continue
		case !p.Here:
			missing++
		}
		bytes = added(bytes, p.Size)
	}
	return bytes, missing
}

// added adds a size that somebody else has said.
func added(sum, n int64) int64 { return sum + min(max(0, n), math.MaxInt64-sum) }

// Part is a blob or manifest that an image consists of.
type Part struct {
	Digest    string    `json:"digest"`
	Kind      string    `json:"kind"`               // index, manifest, config, layer; blob where no image is asked for
	Platform  string    `json:"platform,omitempty"` // of a manifest in an index: linux/arm64/v8; "?" if it does not say
	Size      int64     `json:"size"`               // of the content, as its manifest says if it is not here; -1: not known
	Here      bool      `json:"here"`
	FirstSeen time.Time `json:"first_seen,omitzero"`
	LastUsed  time.Time `json:"last_used,omitzero"`
	Origin    string    `json:"origin,omitempty"`    // the upstream that it came from, or "import"
	Shared    bool      `json:"shared,omitempty"`    // it was named before
	Absence   *Absence  `json:"absence,omitempty"`   // why it is not here; null: it is
	Ungranted bool      `json:"ungranted,omitempty"` // it is here, and not known to belong to the image's repository: upstream is asked
}

// ImageDetail is an image with its parts, in the order in which they are named.
type ImageDetail struct {
	Image    string    `json:"image"`
	Upstream string    `json:"upstream"`
	Digest   string    `json:"digest,omitempty"`   // "": the tag is not known here
	Checked  time.Time `json:"checked,omitzero"`   // upstream's last word on the tag
	Changed  time.Time `json:"changed,omitzero"`   // since when that is its word, or an archive's
	Was      string    `json:"was,omitempty"`      // what the tag named until then, if it has moved since the start
	Absence  *Absence  `json:"absence,omitempty"`  // why the tag is not known any more, if that was since the start
	Fresh    time.Time `json:"fresh,omitzero"`     // until when nobody asks upstream about the tag
	Imported bool      `json:"imported,omitempty"` // the tag is an archive's word: upstream has not said anything yet
	Gone     bool      `json:"gone,omitempty"`     // the tag is not known here any more; a pin of it keeps what it named last
	LastUsed time.Time `json:"last_used,omitzero"`
	Bytes    int64     `json:"bytes"`          // content of all parts that are here, each once
	Pins     []string  `json:"pins,omitempty"` // that keep it, by name
	Parts    []Part    `json:"parts"`          // maxParts at most
}

// maxParts bounds what is told of an image: an index of 8 MiB names many.
const maxParts = 4096

// Image describes a tag or digest: what it consists of, what of that is here, and why
// the rest is not. It counts as no use of it. Of the policy counts how long a tag is fresh.
func (c *Cache) Image(ref oci.Reference, policy *Policy) ImageDetail {
	i := ImageDetail{Image: ref.String(), Upstream: ref.Upstream, Parts: []Part{}}
	c.repin() // or what came just now is not said to be pinned
	d := ref.Digest
	if d.IsZero() {
		t, ok := c.tag(ref)
		f, _ := c.formers.Peek(ref)
		if !ok && f.went != "" {
			i.Absence = &Absence{Why: f.went, At: f.at}
		}
		if d = t.Target.Digest; !ok {
			d = c.pins.last(ref)
		}
		if d.IsZero() {
			return i
		}
		i.Gone, i.Checked, i.Changed, i.Imported = !ok, t.Checked, t.Changed, ok && t.Checked.IsZero()
		if ok && !f.named.IsZero() && f.named != d {
			i.Was = f.named.String()
		}
		if !t.Checked.IsZero() {
			i.Fresh = t.Checked.Add(policy.Fresh(ref.Tag))
		}
	}
	i.Digest, i.Parts, i.Pins = d.String(), c.parts(d), c.pinnedBy(d)
	for n := range i.Parts {
		i.Parts[n].Ungranted = c.ungranted(ref.Repository, i.Parts[n])
	}
	for _, p := range i.Parts {
		if p.Here && !p.Shared {
			i.Bytes = added(i.Bytes, p.Size)
		}
		if p.LastUsed.After(i.LastUsed) {
			i.LastUsed = p.LastUsed
		}
	}
	return i
}

// ungranted tells whether upstream would be asked before a part is served.
func (c *Cache) ungranted(repo oci.Repository, p Part) bool {
	d, err := oci.ParseDigest(p.Digest)
	if err != nil || !p.Here || p.Shared {
		return false
	}
	rec, here := c.find(d)
	return here && !rec.Public && !c.granted(repo, d)
}

// parts is what a manifest consists of, itself the first.
func (c *Cache) parts(d oci.Digest) []Part {
	l := lister{c: c, seen: map[oci.Digest]bool{}, parts: []Part{}}
	l.manifest(d, Part{Kind: "manifest", Size: -1}, 0)
	return l.parts
}

// lister collects parts.
type lister struct {
	c     *Cache
	seen  map[oci.Digest]bool
	parts []Part
}

// manifest adds a manifest and what it refers to.
func (l *lister) manifest(d oci.Digest, p Part, depth int) {
	at := len(l.parts)
	if !l.add(d, p) || depth > maxNesting {
		return
	}
	data, _, ok := l.c.peek(d)
	if !ok {
		return
	}
	m, err := oci.ParseManifest(data)
	if err != nil {
		return
	}
	if len(m.Manifests) > 0 {
		l.parts[at].Kind = "index"
	}
	for _, b := range m.Content() {
		kind := "layer"
		if m.Config != nil && b.Digest == m.Config.Digest {
			kind = "config"
		}
		l.add(b.Digest, Part{Kind: kind, Size: b.Size})
	}
	for _, child := range m.Manifests {
		l.manifest(child.Digest, Part{Kind: "manifest", Platform: child.PlatformName(), Size: child.Size}, depth+1)
	}
}

// add adds one part. It tells whether that is here, and was not named before.
func (l *lister) add(d oci.Digest, p Part) bool {
	if d.IsZero() || len(l.parts) == maxParts {
		return false
	}
	p.Digest, p.Shared, p.Size = d.String(), l.seen[d], max(-1, p.Size)
	l.seen[d] = true
	rec, here := l.c.find(d)
	if here {
		p.Here, p.Size, p.FirstSeen, p.LastUsed, p.Origin = true, rec.Size, rec.FirstSeen, rec.LastUsed, rec.Origin
		if at := l.c.lastTouch(d); at.After(p.LastUsed) {
			p.LastUsed = at
		}
	} else {
		why := l.c.missed(d)
		p.Absence = &why
	}
	l.parts = append(l.parts, p)
	return here && !p.Shared
}

// Seen describes a digest, whatever image it belongs to.
func (c *Cache) Seen(d oci.Digest) Part {
	l := lister{c: c, seen: map[oci.Digest]bool{}}
	l.add(d, Part{Kind: "blob", Size: -1})
	if rec, here := c.find(d); here && rec.Class == index.ClassManifest {
		l.parts[0].Kind = "manifest"
	}
	return l.parts[0]
}

// Next is what would be evicted next.
type Next struct {
	Digest    string    `json:"digest"`
	Class     string    `json:"class"` // large, small, manifest
	Size      int64     `json:"size"`
	Allocated int64     `json:"allocated"`
	LastUsed  time.Time `json:"last_used"`
	Once      bool      `json:"once,omitempty"` // it was not used again since it came, and counts as index.OnceAges times as old
}

// EvictNext tells what would go first, for so many bytes, in that order, some thousand
// blobs at most, and removes nothing: the least recently used, but for blobs that somebody
// reads, and of a class that is at its floor.
func (c *Cache) EvictNext(want int64) ([]Next, error) {
	next := []Next{} // [] rather than null for readers of the JSON
	if c.store == nil {
		return next, nil
	}
	c.repin()
	victims, err := c.idx.Load().Victims(time.Now(), want, c.floorsInIndex(), c.lastTouch, c.passOver)
	if err != nil {
		return nil, err
	}
	if len(victims) == 0 { // as who evicts does
		victims = c.freshVictims(want)
	}
	for _, v := range victims {
		if at := c.lastTouch(v.Digest); at.After(v.LastUsed) {
			v.LastUsed = at
		}
		next = append(next, Next{Digest: v.Digest.String(), Class: v.Class.String(), Size: v.Size, Allocated: v.Allocated, LastUsed: v.LastUsed, Once: v.Once()})
	}
	return next, nil
}
