package cache

import (
	"context"
	"errors"
	"fmt"
	"slices"

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

// Remove drops tags, and the blobs that nothing else uses that is cached: no tag, and no
// manifest that was pulled by its digest alone. Of ref counts what is set: a tag; a digest,
// under a repository or under any; all of a repository, also what was pulled by its digest, as
// far as upstream is known to serve that under no other; all of an upstream, also what
// came from there and that no tag names, and that no manifest from elsewhere does. A
// digest itself goes in any case. What is pinned stays, and its tags.
func (c *Cache) Remove(ref oci.Reference) (Removed, error) {
	if !c.writable() {
		return Removed{}, fmt.Errorf("nothing can be removed from disk: %s", c.Stats().Degraded)
	}
	if !c.checkpoint() { // so that the index knows all tags
		return Removed{}, errors.New("what is new here could not be recorded, so nobody knows what is in use: see the log, and try again")
	}
	r := removal{c: c, ref: ref, used: c.newClosure(), unused: c.newClosure()}
	if err := r.choose(); err != nil {
		return Removed{}, err
	}
	if err := r.dropAll(); err != nil {
		return r.done, err
	}
	for _, t := range r.tags { // now: until here it can be done again
		if c.pins.rooted(t) { // by now
			r.done.Pinned++
			continue
		}
		c.dropTag(t, whyPurged)
		r.done.Tags++
	}
	if !c.checkpoint() {
		return r.done, errors.New("the removal could not be recorded: what is gone will be missed at its next use; see the log")
	}
	return r.done, nil
}

// removal is one under way.
type removal struct {
	c            *Cache
	ref          oci.Reference
	tags         []oci.Reference
	used, unused *closure // by others; by what goes
	done         Removed
	kept         map[oci.Digest]bool
}

// choose finds out what goes.
func (r *removal) choose() error {
	for t, err := range r.c.idx.Load().Tags() {
		if err != nil {
			return fmt.Errorf("reading the tags: %w", err)
		}
		to := r.used
		switch {
		case !covers(r.ref, t):
		case r.c.pins.rooted(t.Reference):
			r.done.Pinned++
			r.keptBy(t.Reference.String())
		default:
			r.tags, to = append(r.tags, t.Reference), r.unused
		}
		if err := to.add(t.Target.Digest); err != nil {
			return fmt.Errorf("%w; try again", err)
		}
	}
	if !r.ref.Digest.IsZero() {
		if err := r.unused.add(r.ref.Digest); err != nil {
			return fmt.Errorf("%w; try again", err)
		}
	}
	for rec, err := range r.c.idx.Load().Records() {
		if err == nil && rec.Class == index.ClassManifest && (r.ofUpstream() || !r.unused.met[rec.Digest]) {
			err = r.untagged(rec)
		}
		if err != nil {
			return fmt.Errorf("looking for what others use: %w; try again", err)
		}
	}
	delete(r.used.met, r.ref.Digest)
	return nil
}

// untagged decides of a manifest that no tag leads to, or only others: it was pulled by its
// digest alone, or its tag has moved.
func (r *removal) untagged(rec index.Record) error {
	goes := false
	switch {
	case r.ofUpstream():
		goes = rec.Origin == r.ref.Upstream || rec.Origin == imported
	case r.ref.Tag == "" && r.ref.Digest.IsZero():
		whose, err := r.c.idx.Load().Holders(rec.Digest)
		if err != nil {
			return err
		}
		goes = len(whose) == 1 && whose[0] == r.ref.Repository
	}
	switch {
	case !goes:
		return r.used.add(rec.Digest)
	case r.ofUpstream(): // all that came from there
		return nil
	}
	return r.unused.add(rec.Digest)
}

func (r *removal) ofUpstream() bool { return r.ref.Name == "" && r.ref.Upstream != "" }

// dropAll drops what only goes.
func (r *removal) dropAll() error {
	r.kept = map[oci.Digest]bool{}
	for d := range r.unused.met {
		if rec, ok := r.c.findStored(d); ok && !r.used.met[d] {
			if err := r.drop(rec); err != nil {
				return err
			}
		}
	}
	if !r.ofUpstream() {
		return nil
	}
	for rec, err := range r.c.idx.Load().Records() {
		if err == nil && rec.Origin == r.ref.Upstream && !r.used.met[rec.Digest] {
			err = r.drop(rec)
		}
		if err != nil {
			return fmt.Errorf("removing what came from %s: %w", r.ref.Upstream, err)
		}
	}
	return nil
}

func (r *removal) drop(rec index.Record) error {
	if rec, ok := r.c.dropSurely(rec, index.Removed); ok {
		r.done.Blobs++
		r.done.Bytes += rec.Allocated
		return nil
	}
	names := r.c.pinnedBy(rec.Digest)
	switch _, here := r.c.current(rec); {
	case len(names) > 0:
		if !r.kept[rec.Digest] {
			r.kept[rec.Digest] = true
			r.done.Kept++
		}
		r.keptBy(names...)
	case here:
		return fmt.Errorf("%s cannot be removed at the moment: see the log, and try again", rec.Digest)
	}
	return nil
}

func (r *removal) keptBy(names ...string) {
	for _, n := range names {
		if len(r.done.Pins) < maxNamed && !slices.Contains(r.done.Pins, n) {
			r.done.Pins = append(r.done.Pins, n)
		}
	}
}

// maxNamed is how many pins are told of that have kept something.
const maxNamed = 10

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
