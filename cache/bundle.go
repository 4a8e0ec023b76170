package cache

import (
	"bytes"
	"fmt"
	"io"
	"time"

	"cistern/cache/index"
	"cistern/internal/oci"
)

// An image that is carried elsewhere: what belongs to it, and its bytes.

// Bundle is an image with all of it that can be carried: of an index the platforms that
// are here whole.
type Bundle struct {
	Image     string    `json:"image"` // docker.io/library/nginx:1.27
	Private   bool      `json:"private,omitempty"`
	Target    Carried   `json:"target"`              // what the name means
	Pieces    []Carried `json:"pieces"`              // each once, Target the last, and what names others after these
	Platforms []string  `json:"platforms,omitempty"` // of an index, as far as they are among the pieces
	Partial   []string  `json:"partial,omitempty"`   // platforms that lack something, and what
	Absent    int       `json:"absent,omitempty"`    // how many platforms are not here
}

// Carried is a blob or manifest of a bundle.
type Carried struct {
	Digest    oci.Digest `json:"digest"`
	MediaType string     `json:"media_type"`
	Size      int64      `json:"size"`
	Manifest  bool       `json:"manifest,omitempty"`
	Private   bool       `json:"private,omitempty"` // obtained with credentials
}

// Bundle tells what can be carried of a tag or digest. It is an oci.Error of code
// MANIFEST_UNKNOWN, which says what is missing and why, if that is nothing. It counts as no
// use of it.
func (c *Cache) Bundle(ref oci.Reference) (Bundle, error) {
	d := ref.Digest
	if d.IsZero() {
		if t, ok := c.tag(ref); ok {
			d = t.Target.Digest
		} else if d = c.pins.last(ref); d.IsZero() { // a pinned one outlives a 404 upstream
			return Bundle{}, notWhole("%s is not known here: pull it through this cache first", ref)
		}
	}
	b := bundler{c: c, repo: ref.Repository, whole: map[oci.Digest]string{}, listed: map[oci.Digest]bool{}, Bundle: Bundle{Image: ref.String(), Pieces: []Carried{}}}
	if why := b.manifest(d, 0); why != "" {
		return Bundle{}, notWhole("%s is not whole here: %s; pull it through this cache again", ref, why)
	}
	b.Target = b.Pieces[len(b.Pieces)-1]
	for _, p := range b.Pieces {
		b.Private = b.Private || p.Private
	}
	return b.Bundle, nil
}

func notWhole(format string, args ...any) error {
	return &oci.Error{Code: oci.CodeManifestUnknown, Message: fmt.Sprintf(format, args...)}
}

// bundler collects what is here whole.
type bundler struct {
	Bundle
	c      *Cache
	repo   oci.Repository
	whole  map[oci.Digest]string // of the manifests that were looked at: "", or what is missing
	listed map[oci.Digest]bool
}

// manifest adds a manifest and what it names; else it tells what is missing.
func (b *bundler) manifest(d oci.Digest, depth int) (missing string) {
	if why, known := b.whole[d]; known {
		return why
	}
	why := b.look(d, depth)
	b.whole[d] = why
	return why
}

func (b *bundler) look(d oci.Digest, depth int) (missing string) {
	data, rec, ok := b.c.peek(d)
	if !ok || rec.Class != index.ClassManifest {
		return b.c.lacks("manifest", d)
	}
	if why := b.ours("manifest", rec); why != "" {
		return why
	}
	m, err := oci.ParseManifest(data)
	if err != nil || depth > maxNesting {
		return "manifest " + d.String() + " is not one"
	}
	if len(m.Manifests) > 0 {
		if missing = b.children(m, depth); missing != "" {
			return missing
		}
	}
	content := m.Content()
	if m.Unnamed() {
		return "manifest " + d.String() + " names something without a digest"
	}
	for _, l := range content {
		kind := "layer"
		if m.Config != nil && l.Digest == m.Config.Digest {
			kind = "config"
		}
		rec, here := b.c.find(l.Digest)
		if !here {
			return b.c.lacks(kind, l.Digest)
		}
		if why := b.ours(kind, rec); why != "" {
			return why
		}
		if rec.Size != l.Size {
			return fmt.Sprintf("%s %s has %d bytes, and its manifest says %d", kind, l.Digest, rec.Size, l.Size)
		}
	}
	if len(b.Pieces)+len(content) > maxCarried {
		return fmt.Sprintf("it has more than %d parts", maxCarried)
	}
	for _, l := range content {
		if rec, here := b.c.find(l.Digest); here {
			b.add(rec, false)
		}
	}
	b.add(rec, true)
	return ""
}

// ours tells why what is here is not to be carried under the repository's name: nobody has
// proven that it is there, and whoever gets the archive needs no proof any more (promise 10).
func (b *bundler) ours(kind string, rec index.Record) (why string) {
	if rec.Public || b.c.granted(b.repo, rec.Digest) {
		return ""
	}
	return fmt.Sprintf("%s %s is here, and not known to belong to %s", kind, rec.Digest, b.repo)
}

// maxCarried bounds the parts of a bundle: an index of 8 MiB names many.
const maxCarried = 1 << 15

// children adds those of an index that are here whole. If none is, it tells what the first one lacks
// whose manifest is here, since somebody has pulled that, or else any.
func (b *bundler) children(m oci.Manifest, depth int) (missing string) {
	absent, whole := "", false
	for _, child := range m.Manifests {
		why := b.manifest(child.Digest, depth+1)
		rec, here := b.c.find(child.Digest)
		if why == "" && rec.Size != child.Size {
			why = fmt.Sprintf("manifest %s has %d bytes, and its index says %d", child.Digest, rec.Size, child.Size)
		}
		switch {
		case why == "":
			whole = true
			b.Platforms = append(b.Platforms, child.PlatformName())
		case !here:
			b.Absent++
			absent = why
		default:
			b.Partial = append(b.Partial, child.PlatformName()+": "+why)
		}
	}
	switch {
	case whole:
		return ""
	case len(b.Partial) > 0:
		return b.Partial[0]
	}
	return absent
}

func (b *bundler) add(rec index.Record, manifest bool) {
	if b.listed[rec.Digest] {
		return
	}
	b.listed[rec.Digest] = true
	b.Pieces = append(b.Pieces, Carried{rec.Digest, rec.MediaType, rec.Size, manifest, !rec.Public})
}

// lacks says why a part is not here.
func (c *Cache) lacks(kind string, d oci.Digest) string {
	return fmt.Sprintf("%s %s is not here (%s)", kind, d, c.missed(d))
}

// Kept is an open blob or manifest that is here whole. It stays readable when it is
// evicted.
type Kept struct {
	io.ReadSeeker // an *os.File where it lies in one: sendfile
	Size          int64
	c             *Cache
	close         func() error
}

const (
	// carryQuiet is how long nobody must have asked for anything cached for a copy to go on
	// without a rest.
	carryQuiet = 2 * time.Second
	// carryRate is how many bytes of a copy go out in a second else. What they cost here is the
	// lesser part: the client that hashes and writes them is often on this machine, too, and in
	// a session or container of its own it gets its share however nice it is.
	carryRate = 32 << 20
)

// Bite is how many bytes should be copied at once.
func (k *Kept) Bite() int64 {
	if k.c.servedWithin(carryQuiet) {
		return bite
	}
	return span
}

// Rest is how long whoever copies it should rest after so many bytes, which took so long: hits
// come first.
func (k *Kept) Rest(n int64, worked time.Duration) time.Duration {
	if !k.c.servedWithin(carryQuiet) {
		return 0
	}
	return max(politeness*worked, time.Duration(n)*time.Second/carryRate-worked)
}

// Close closes it.
func (k *Kept) Close() error { return k.close() }

// OpenKept opens what is here of a digest, for whoever may read all that is here. It
// counts as no use of it. An oci.Error of code BLOB_UNKNOWN says why it is not here.
func (c *Cache) OpenKept(d oci.Digest) (*Kept, error) {
	if rec, ok := c.findStored(d); ok {
		if f, ok := c.openStored(rec); ok {
			return &Kept{f.File, f.Size, c, f.Close}, nil
		}
	}
	if e, ok := c.hot.get(d); ok {
		return &Kept{bytes.NewReader(e.data), int64(len(e.data)), c, func() error { return nil }}, nil
	}
	return nil, &oci.Error{Code: oci.CodeBlobUnknown, Message: c.lacks("blob", d), Err: oci.ErrNotFound}
}
