package cache

import (
	"context"
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

// Remove drops an image: the tag or digest, or with neither all of the
// repository's tags, and the blobs that no other cached tag uses.
func (c *Cache) Remove(ref oci.Reference) (Removed, error) {
	if !c.writable() {
		return Removed{}, fmt.Errorf("nothing can be removed from disk: %s", c.Stats().Degraded)
	}
	c.checkpoint() // so that the index knows all tags
	var gone []index.Tag
	used := map[oci.Digest]bool{}
	for t, err := range c.idx.Load().Tags() {
		if err != nil {
			return Removed{}, fmt.Errorf("reading the tags: %w", err)
		}
		if covers(ref, t.Reference) {
			gone = append(gone, t)
		} else {
			c.reach(t.Target.Digest, used, 0)
		}
	}
	unused := map[oci.Digest]bool{}
	for _, t := range gone {
		c.dropTag(t.Reference)
		c.reach(t.Target.Digest, unused, 0)
	}
	if !ref.Digest.IsZero() {
		c.reach(ref.Digest, unused, 0)
	}
	removed := Removed{Tags: len(gone)}
	for d := range unused {
		rec, ok := c.findStored(d)
		if !ok || used[d] {
			continue
		}
		if rec, ok := c.drop(rec, index.Removed); ok {
			removed.Blobs++
			removed.Bytes += rec.Allocated
		}
	}
	c.checkpoint()
	return removed, nil
}

// covers tells whether a removal of ref takes the tag with it.
func covers(ref, tag oci.Reference) bool {
	return ref.Repository == tag.Repository && ref.Digest.IsZero() && (ref.Tag == "" || ref.Tag == tag.Tag)
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
