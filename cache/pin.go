package cache

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
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
	Image   string    `json:"image"`
	Digest  string    `json:"digest,omitempty"` // what is kept; "": nobody has pulled it yet
	Since   time.Time `json:"since"`
	Bytes   int64     `json:"bytes"`   // content of what is kept for it, shared or not, each part once
	Missing int       `json:"missing"` // parts that are not here: kept once they are pulled
}

// ErrNotPinned is for an unpin of what is not pinned.
var ErrNotPinned = fmt.Errorf("it is not pinned; `cistern ls --pinned` lists what is: %w", oci.ErrNotFound)

// Pin keeps an image: its manifests, of the platforms that are pulled, and their blobs,
// also what is pulled later. A tag's pin follows the tag: what it named before is kept
// until its new manifest is here. When Pin returns without an error, the pin is on stable
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
	_, again := p.roots[ref]
	many := len(p.roots)
	p.mu.Unlock()
	if again {
		return c.pinInfo(ref), nil
	}
	if many >= maxPins {
		return Pin{}, fmt.Errorf("there are %d pins, which is as many as there may be; `cistern unpin` takes one away", many)
	}
	if !c.checkpoint() {
		return Pin{}, errors.New("what is new here could not be recorded, and may not stay: see the log, and try again")
	}
	before := p.bytes()
	p.put(ref.Clone(), root{last: ref.Digest.Clone(), since: time.Now()})
	err := c.fits(before)
	if err == nil {
		err = c.savePins()
	}
	if err != nil {
		p.take(ref)
		return Pin{}, errors.Join(err, c.unsaved())
	}
	return c.pinInfo(ref), nil
}

// fits tells whether all that is pinned can be kept.
func (c *Cache) fits(before int64) error {
	if !c.repin() {
		return errors.New("a manifest of it cannot be read at the moment: see the log, and try again")
	}
	c.pins.mu.Lock()
	full := c.pins.full
	c.pins.mu.Unlock()
	if full {
		return fmt.Errorf("more than %d blobs would be pinned, which is as many as there may be", maxPinned)
	}
	if now, most := c.pins.bytes(), c.pinnable(); now > most {
		return fmt.Errorf("the cache is too small for it: %s would be pinned, of %s already, and %s can be kept; raise cache.max_size, or unpin something",
			humanize.IBytes(uint64(now)), humanize.IBytes(uint64(before)), humanize.IBytes(uint64(most)))
	}
	return nil
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
		return errors.Join(err, c.unsaved())
	}
	return nil
}

// unsaved has the next checkpoint write what a failed change may have left in the file.
func (c *Cache) unsaved() error {
	c.pins.mu.Lock()
	defer c.pins.mu.Unlock()
	c.pins.unsaved = true
	return nil
}

func (p *pins) put(ref oci.Reference, r root) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.roots[ref] = r
	p.news++
	p.any.Store(true)
}

func (p *pins) take(ref oci.Reference) (root, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r, ok := p.roots[ref]
	delete(p.roots, ref)
	p.news++
	p.any.Store(len(p.roots) > 0)
	return r, ok
}

// Pins lists what is pinned, by name.
func (c *Cache) Pins() []Pin {
	all := []Pin{} // [] rather than null for readers of the JSON
	if c.store == nil {
		return all
	}
	c.repin()
	for _, ref := range c.pins.references() {
		all = append(all, c.pinInfo(ref))
	}
	slices.SortFunc(all, func(a, b Pin) int { return cmp.Compare(a.Image, b.Image) })
	return all
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
	c.pins.mu.Unlock()
	info := Pin{Image: ref.String(), Since: r.since}
	if r.last.IsZero() {
		return info
	}
	info.Digest = r.last.String()
	info.Bytes, info.Missing = c.weigh(r.last)
	return info
}

// pinnedBy gives the pins that keep a digest, by name.
func (c *Cache) pinnedBy(d oci.Digest) (names []string) {
	p := &c.pins
	if !p.holding(d) {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for ref, r := range p.roots {
		if p.reaches(r.last, d, map[oci.Digest]bool{}) {
			names = append(names, ref.String())
		}
	}
	slices.Sort(names)
	return names
}

// reaches tells whether a manifest is, or names, a digest; mu is held.
func (p *pins) reaches(from, d oci.Digest, met map[oci.Digest]bool) bool {
	if from == d {
		return true
	}
	if met[from] {
		return false
	}
	met[from] = true
	l := p.links[from]
	return slices.ContainsFunc(l.content(), func(b link) bool { return b.Digest == d }) ||
		slices.ContainsFunc(l.Manifests, func(m link) bool { return p.reaches(m.Digest, d, met) })
}

// pinLine is a pin in the file.
type pinLine struct {
	Upstream   string     `json:"upstream"`
	Repository string     `json:"repository"`
	Tag        string     `json:"tag,omitempty"`
	Digest     oci.Digest `json:"digest,omitzero"` // of a tag the last that it named here
	Since      time.Time  `json:"since"`
}

// savePins writes the pins down. changing is held.
func (c *Cache) savePins() error {
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	c.pins.mu.Lock()
	for ref, r := range c.pins.roots {
		_ = enc.Encode(pinLine{ref.Upstream, ref.Name, ref.Tag, r.last, r.since}) // into memory
	}
	c.pins.unsaved = false
	c.pins.mu.Unlock()
	if err := c.store.WriteBeside(pinsName, text.Bytes()); err != nil {
		return fmt.Errorf("writing the pins down: %w", err)
	}
	return nil
}

// keepPins finds out what is pinned, and writes the pins down if a tag has moved since.
func (c *Cache) keepPins() bool {
	c.repin()
	c.pins.mu.Lock()
	unsaved := c.pins.unsaved
	c.pins.mu.Unlock()
	if !unsaved || !c.pins.changing.TryLock() { // who changes them writes them
		return true
	}
	defer c.pins.changing.Unlock()
	if err := c.savePins(); err != nil {
		_ = c.unsaved()
		c.diskFailed("writing the pins down", err)
		return false
	}
	return true
}

// loadPins reads them at start. Lines that are damaged are said, and put aside in a file
// of their own: the others hold. A file that cannot be read is an error: nothing may be
// evicted, then.
func (c *Cache) loadPins(store *blob.Store) error {
	text, err := store.ReadBeside(pinsName)
	if err != nil {
		return err
	}
	bad := 0
	for line := range bytes.Lines(text) {
		var l pinLine
		err := json.Unmarshal(line, &l)
		ref := oci.Reference{Repository: oci.Repository{Upstream: l.Upstream, Name: l.Repository}, Tag: l.Tag}
		if l.Tag == "" {
			ref.Digest = l.Digest
		}
		if err != nil || l.Upstream == "" || !oci.ValidName(l.Repository) || l.Tag == "" && l.Digest.IsZero() || l.Tag != "" && !oci.ValidTag(l.Tag) {
			bad++
			continue
		}
		c.pins.put(ref, root{l.Digest, l.Since})
	}
	if bad == 0 || store.ReadOnly() {
		return nil
	}
	c.log.Error("the file of pins is damaged: some images are pinned no longer; a copy is beside it, and `cistern ls --pinned` lists the others",
		zap.Int("lines", bad), zap.String("copy", pinsName+brokenSuffix))
	if err := store.WriteBeside(pinsName+brokenSuffix, text); err != nil {
		c.diskFailed("putting the damaged pins aside", err)
	}
	return nil
}
