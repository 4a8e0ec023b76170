package cache

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"
	"time"

	"github.com/dustin/go-humanize"
	"go.uber.org/zap"

	"cistern/cache/blob"
	"cistern/internal/oci"
)

const (
	// pinsName is the file that the pins are in, a line of JSON for each. They are what a
	// person has decided, and so not in the index, which may be lost.
	pinsName = "pins"
	// maxPins bounds them.
	maxPins = 1024
)

// Pin is an image that is kept, whatever is evicted or removed.
type Pin struct {
	Reference oci.Reference `json:"-"`

	Image   string    `json:"image"`
	Digest  string    `json:"digest,omitempty"` // what is kept; "": nobody has pulled it yet
	Since   time.Time `json:"since"`
	Bytes   int64     `json:"bytes"`   // content of what is kept for it, shared or not, each part once
	Missing int       `json:"missing"` // parts that are not here: kept once they are pulled, if there is room
	// Partial: not all of it is kept, or will be: there is no room for it among what is pinned.
	Partial bool `json:"partial,omitempty"`
}

// ErrNotPinned is for an unpin of what is not pinned.
var ErrNotPinned error = notPinned{}

type notPinned struct{}

// Error says what to do; of what class it is stands nowhere in it.
func (notPinned) Error() string { return "it is not pinned; `cistern ls --pinned` lists what is" }

// Unwrap makes it one of what is not found.
func (notPinned) Unwrap() error { return oci.ErrNotFound }

// Pin keeps an image: its manifests, of the platforms that are pulled, and their blobs,
// also what is pulled later. A tag's pin follows the tag: what it named before is kept
// until what it names now can be pulled from here. When Pin returns without an error, the pin is on stable
// storage, with what was here of the image. To pin again what is pinned changes nothing.
func (c *Cache) Pin(ref oci.Reference) (Pin, error) {
	if !c.writable() {
		return Pin{}, fmt.Errorf("nothing can be pinned: %s", c.Stats().Degraded)
	}
	p := &c.pins
	p.changing.Lock()
	defer p.changing.Unlock()
	c.repin()
	p.mu.Lock()
	p.recount = true
	_, again := p.roots[ref]
	many := len(p.roots)
	p.mu.Unlock()
	if again {
		if err := c.noRoom(ref); err != nil {
			return Pin{}, fmt.Errorf("it is pinned, and not all of it is kept: %w", err)
		}
		return c.pinInfo(ref), nil
	}
	if many >= maxPins {
		return Pin{}, fmt.Errorf("there are %d pins, which is as many as there may be; `cistern unpin` takes one away", many)
	}
	if !c.checkpoint() {
		return Pin{}, errors.New("what is new here could not be recorded, and may not stay: see the log, and try again")
	}
	p.put(ref.Clone(), root{last: ref.Digest.Clone(), since: time.Now()})
	err := c.fits(ref)
	if err == nil {
		err = c.savePins()
	}
	if err != nil {
		p.take(ref)
		p.changed() // also where the file was written before it failed
		return Pin{}, err
	}
	return c.pinInfo(ref), nil
}

// fits tells whether all of a pin can be kept.
func (c *Cache) fits(ref oci.Reference) error {
	if !c.repin() {
		if c.pins.unclear() {
			return errors.New("a manifest of it cannot be read at the moment: there are too few file descriptors, or too little memory; try again")
		}
		return errors.New("too much happens to what is pinned at the moment: try again")
	}
	return c.noRoom(ref)
}

// noRoom says that all of a pin cannot be kept, if that is so, and what to do.
func (c *Cache) noRoom(ref oci.Reference) error {
	c.pins.mu.Lock()
	n, over := c.pins.over[ref]
	blobs := len(c.pins.holds)
	c.pins.mu.Unlock()
	now, most := c.pins.bytes(), max(0, c.pinnable())
	switch {
	case !over:
		return nil
	case n.bytes > most-now:
		return fmt.Errorf("there is no room for all of it: it takes %s more, and %s of the %s that may be pinned are taken; raise cache.max_size, or unpin something",
			humanize.IBytes(uint64(n.bytes)), humanize.IBytes(uint64(now)), humanize.IBytes(uint64(most)))
	}
	return fmt.Errorf("there is no room for all of it: a manifest names %d blobs more, and %d are pinned; of one image %d may be, of all %d, and their manifests may name %d together; unpin something",
		n.digests, blobs, maxParts, maxPinned, maxNames)
}

// Unpin gives an image free. Nothing is removed by it.
func (c *Cache) Unpin(ref oci.Reference) error {
	if !c.writable() {
		return fmt.Errorf("nothing can be unpinned: %s", c.Stats().Degraded)
	}
	p := &c.pins
	p.changing.Lock()
	defer p.changing.Unlock()
	r, ok := p.take(ref)
	if !ok {
		return ErrNotPinned
	}
	if err := c.savePins(); err != nil {
		p.put(ref, r)
		p.changed()
		return err
	}
	return nil
}

// changed has the pins written down after the next checkpoint.
func (p *pins) changed() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unsaved = true
}

func (p *pins) put(ref oci.Reference, r root) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.roots[ref] = r
	p.reread = true // it may share more with others now
	p.news++
	p.any.Store(true)
}

func (p *pins) take(ref oci.Reference) (root, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r, ok := p.roots[ref]
	delete(p.roots, ref)
	p.reread = true
	p.news++
	p.any.Store(len(p.roots) > 0)
	return r, ok
}

// Pins lists what is pinned, by name.
func (c *Cache) Pins() ([]Pin, error) {
	if c.store == nil {
		return nil, fmt.Errorf("nobody knows what is pinned: %s", c.Stats().Degraded)
	}
	c.repin()
	all := []Pin{} // [] rather than null for readers of the JSON
	for _, ref := range c.pins.references() {
		all = append(all, c.pinInfo(ref))
	}
	slices.SortFunc(all, func(a, b Pin) int { return cmp.Compare(a.Image, b.Image) })
	return all, nil
}

func (p *pins) references() (refs []oci.Reference) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for ref := range p.roots {
		refs = append(refs, ref)
	}
	return refs
}

func (c *Cache) pinInfo(ref oci.Reference) Pin {
	c.pins.mu.Lock()
	r := c.pins.roots[ref]
	_, over := c.pins.over[ref]
	c.pins.mu.Unlock()
	info := Pin{Reference: ref, Image: ref.String(), Since: r.since, Partial: over}
	if r.last.IsZero() {
		return info
	}
	info.Digest = r.last.String()
	info.Bytes, info.Missing = c.weigh(r.last)
	return info
}

// pinnedBy gives the pins that keep a digest, by name.
func (c *Cache) pinnedBy(d oci.Digest) (names []string) {
	for _, ref := range c.pins.keeping(d) {
		names = append(names, ref.String())
	}
	slices.Sort(names)
	return names
}

// keeping gives the pins that keep a digest.
func (p *pins) keeping(d oci.Digest) (refs []oci.Reference) {
	if !p.holding(d) {
		return nil
	}
	p.mu.Lock()
	roots, links := maps.Clone(p.roots), p.links // which nobody changes: hits wait for mu
	p.mu.Unlock()
	for ref, r := range roots {
		if met := map[oci.Digest]bool{}; reaches(links, r.last, d, met) || reaches(links, r.next, d, met) {
			refs = append(refs, ref)
		}
	}
	return refs
}

// reaches tells whether a manifest is, or names, a digest.
func reaches(links map[oci.Digest]named, from, d oci.Digest, met map[oci.Digest]bool) bool {
	if from == d {
		return true
	}
	if met[from] {
		return false
	}
	met[from] = true
	n := links[from]
	return slices.ContainsFunc(n.Blobs, func(b sized) bool { return b.Digest == d }) ||
		slices.ContainsFunc(n.Manifests, func(m sized) bool { return reaches(links, m.Digest, d, met) })
}

// pinLine is a line of the file: a pin, or what a manifest names that is pinned, so that
// this is known whatever becomes of that one's file.
type pinLine struct {
	Upstream   string     `json:"upstream,omitempty"`
	Repository string     `json:"repository,omitempty"`
	Tag        string     `json:"tag,omitempty"`
	Digest     oci.Digest `json:"digest,omitzero"` // of a tag the last that it named here
	Next       oci.Digest `json:"next,omitzero"`   // see root
	Since      time.Time  `json:"since,omitzero"`

	Manifest  oci.Digest `json:"manifest,omitzero"`
	Blobs     []sized    `json:"blobs,omitempty"`
	Manifests []sized    `json:"manifests,omitempty"`
}

// pin reads a line that is one.
func (l pinLine) pin() (ref oci.Reference, r root, ok bool) {
	ref = oci.Reference{Repository: oci.Repository{Upstream: l.Upstream, Name: l.Repository}, Tag: l.Tag}
	if l.Tag == "" {
		ref.Digest = l.Digest
	}
	ok = l.Upstream != "" && oci.ValidName(l.Repository) && (l.Tag != "" || !l.Digest.IsZero()) && (l.Tag == "" || oci.ValidTag(l.Tag))
	return ref, root{l.Digest, l.Next, l.Since}, ok
}

// savePins writes the pins down. changing is held.
func (c *Cache) savePins() error {
	var text bytes.Buffer
	enc := json.NewEncoder(&text) // into memory: it does not fail
	c.pins.mu.Lock()
	roots, links := maps.Clone(c.pins.roots), c.pins.links // which nobody changes: hits wait for mu
	c.pins.unsaved = false
	c.pins.mu.Unlock()
	for ref, r := range roots {
		_ = enc.Encode(pinLine{Upstream: ref.Upstream, Repository: ref.Name, Tag: ref.Tag, Digest: r.last, Next: r.next, Since: r.since})
	}
	for d, n := range links {
		_ = enc.Encode(pinLine{Manifest: d, Blobs: n.Blobs, Manifests: n.Manifests})
	}
	data := sealed(text.Bytes())
	// Where pins take all there is, the file is over the cap for a moment: nobody could unpin otherwise.
	if room, err := c.store.Reserve(c.ctx, int64(len(data))); err == nil {
		defer room.Release()
	}
	if err := c.store.WriteBeside(pinsName, data); err != nil {
		return fmt.Errorf("writing the pins down: %w", err)
	}
	return nil
}

// sealed is the text with a last line that tells whether all of it is there, as it was written.
func sealed(text []byte) []byte {
	return fmt.Appendf(text, "{\"crc32c\":\"%08x\"}\n", crc32.Checksum(text, crc32.MakeTable(crc32.Castagnoli)))
}

// unsealed gives the text that was sealed; false, and all of it, if it is not as it was.
func unsealed(text []byte) ([]byte, bool) {
	body := text[:bytes.LastIndexByte(bytes.TrimSuffix(text, []byte("\n")), '\n')+1]
	if !bytes.Equal(sealed(slices.Clone(body)), text) {
		return text, false
	}
	return body, true
}

// followEvery is how often it is looked, in checkpoints, whether what a pinned tag names by
// now can be pulled, and how much is pinned.
const followEvery = 10

// keepPins finds out what is pinned, and writes the pins down if that has changed. n counts
// the calls.
func (c *Cache) keepPins(n int) bool {
	if n%followEvery == 0 && c.pins.any.Load() {
		c.pins.lookAgain()
	}
	c.repin()
	c.pins.mu.Lock()
	unsaved := c.pins.unsaved
	c.pins.mu.Unlock()
	if !unsaved || !c.pins.changing.TryLock() { // who changes them writes them
		return true
	}
	defer c.pins.changing.Unlock()
	if err := c.savePins(); err != nil {
		c.pins.changed()
		c.diskFailed("writing the pins down", err)
		return false
	}
	return true
}

// loadPins reads them at start. A file that is damaged is said, and a copy of it put aside:
// the lines that can be read hold. One that cannot be read is an error: nothing may be
// evicted, then.
func (c *Cache) loadPins(store *blob.Store) error {
	text, err := store.ReadBeside(pinsName)
	if err != nil || text == nil {
		return err
	}
	lines, intact := unsealed(text)
	for line := range bytes.Lines(lines) {
		var l pinLine
		err := json.Unmarshal(line, &l)
		ref, r, ok := l.pin()
		switch {
		case err == nil && ok:
			c.pins.put(ref, r)
		case err == nil && !l.Manifest.IsZero():
			c.pins.links[l.Manifest] = named{l.Blobs, l.Manifests}
		}
	}
	if intact || store.ReadOnly() {
		return nil
	}
	c.log.Error("the file of pins is damaged: some images may be pinned no longer, or others; a copy is beside it, and `cistern ls --pinned` lists the others",
		zap.String("copy", pinsName+brokenSuffix))
	if err := store.WriteBeside(pinsName+brokenSuffix, text); err != nil {
		c.diskFailed("putting the damaged pins aside", err)
	}
	return nil
}
