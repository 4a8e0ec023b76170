package cache

import (
	"context"
	"errors"
	"fmt"

	"cistern/cache/index"
	"cistern/internal/oci"
)

// Refresh asks upstream about a tag, fresh or not, and fetches its manifest if
// it is new. It gives the digest before (zero: not known here) and now.
func (c *Cache) Refresh(ctx context.Context, repo *Repository, ref oci.Reference) (before, now oci.Digest, err error) {
	if t, ok := c.tag(ref); ok {
		before = t.Target.Digest
	}
	c.negative.Remove(question{repo.Repository, askedManifest(ref.Tag)})
	t, err := c.revalidate(ctx, repo, ref)
	if err != nil {
		return before, now, err
	}
	_, err = c.byDigest(ctx, repo, t.Target.Digest)
	return before, t.Target.Digest, err
}

// Remove drops tags, and the blobs that no other cached tag uses. Of ref counts what is
// set: a tag; a digest, under a repository or under any; all of a repository; all of an
// upstream, also what came from there and that no tag names. A digest itself goes in any
// case, but for what is pinned: that stays, and its tags.
func (c *Cache) Remove(ref oci.Reference) (Removed, error) {
	if !c.writable() {
		return Removed{}, fmt.Errorf("nothing can be removed from disk: %s", c.Stats().Degraded)
	}
	if !c.checkpoint() { // so that the index knows all tags
		return Removed{}, errors.New("what is new here could not be recorded, so nobody knows what is in use: see the log, and try again")
	}
	if !c.repin() {
		return Removed{}, errors.New("a manifest that is pinned cannot be read at the moment: see the log, and try again")
	}
	var gone []index.Tag
	removed, used := Removed{}, map[oci.Digest]bool{}
	for t, err := range c.idx.Load().Tags() {
		if err != nil {
			return Removed{}, fmt.Errorf("reading the tags: %w", err)
		}
		switch {
		case !covers(ref, t):
			c.reach(t.Target.Digest, used, 0)
		case c.pins.holding(t.Target.Digest):
			removed.Pinned++
		default:
			gone = append(gone, t)
		}
	}
	unused := map[oci.Digest]bool{}
	for _, t := range gone {
		c.dropTag(t.Reference)
		c.reach(t.Target.Digest, unused, 0)
	}
	if !ref.Digest.IsZero() {
		c.reach(ref.Digest, unused, 0)
		delete(used, ref.Digest)
	}
	removed.Tags = len(gone)
	for d := range unused {
		if rec, ok := c.findStored(d); ok && !used[d] {
			c.remove(rec, &removed)
		}
	}
	if ref.Repository.Name == "" && ref.Upstream != "" {
		if err := c.removeFrom(ref.Upstream, used, &removed); err != nil {
			return removed, err
		}
	}
	if !c.checkpoint() {
		return removed, errors.New("the removal could not be recorded: what is gone will be missed at its next use; see the log")
	}
	return removed, nil
}

// removeFrom drops what an upstream has sent.
func (c *Cache) removeFrom(upstream string, used map[oci.Digest]bool, removed *Removed) error {
	for rec, err := range c.idx.Load().Records(oci.Digest{}) {
		if err != nil {
			return fmt.Errorf("reading the index: %w", err)
		}
		if rec.Origin == upstream && !used[rec.Digest] {
			c.remove(rec, removed)
		}
	}
	return nil
}

func (c *Cache) remove(rec index.Record, removed *Removed) {
	switch rec, ok := c.drop(rec, index.Removed); {
	case ok:
		removed.Blobs++
		removed.Bytes += rec.Allocated
	case c.pins.holding(rec.Digest):
		removed.Kept++
	}
}

// covers tells whether a removal of ref takes the tag with it.
func covers(ref oci.Reference, t index.Tag) bool {
	switch {
	case ref.Upstream == "": // a digest, wherever
		return ref.Digest == t.Target.Digest
	case ref.Name == "":
		return ref.Upstream == t.Upstream
	case ref.Repository != t.Repository:
		return false
	case !ref.Digest.IsZero():
		return ref.Digest == t.Target.Digest
	}
	return ref.Tag == "" || ref.Tag == t.Tag
}

// reach adds a manifest and all that it names to the set.
func (c *Cache) reach(d oci.Digest, set map[oci.Digest]bool, depth int) {
	if set[d] || d.IsZero() || depth > maxNesting {
		return
	}
	set[d] = true
	data, rec, ok := c.peek(d)
	if !ok || rec.Class != index.ClassManifest {
		return
	}
	l, err := parseLinks(data)
	if err != nil {
		return
	}
	for _, b := range l.content() {
		set[b.Digest] = true
	}
	for _, m := range l.Manifests {
		c.reach(m.Digest, set, depth+1)
	}
}
