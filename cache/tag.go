package cache

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"cistern/cache/index"
	"cistern/internal/oci"
)

// tag tells what is known of a tag.
func (c *Cache) tag(ref oci.Reference) (index.Tag, bool) {
	if t, ok := c.tags.Get(ref); ok {
		return t, true
	}
	c.mu.Lock()
	t, ok := c.newTags[ref]
	_, gone := c.goneTags[ref]
	words := c.words
	c.mu.Unlock()
	if ok || gone || c.store == nil {
		return t, ok
	}
	t, ok, err := c.idx.Load().Tag(ref)
	if !ok && err == nil && c.tagsTaken() {
		t, ok, err = c.idx.Load().Tag(ref)
	}
	if err != nil {
		c.indexFailed(err)
		return index.Tag{}, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if ok && words == c.words { // else it may be what the index said before
		c.tags.Add(ref.Clone(), t)
	}
	return t, ok
}

// setTag notes upstream's word on a tag; a checkpoint will record it.
func (c *Cache) setTag(ref oci.Reference, target oci.Descriptor, private bool) index.Tag {
	now := time.Now()
	ref = ref.Clone()
	t := index.Tag{Reference: ref, Target: target, Checked: now, Changed: now, Public: !private}
	switch old, ok := c.tag(ref); {
	case ok && old.Target.Digest == target.Digest:
		t.Changed = old.Changed
	case ok:
		c.formers.Add(ref, former{named: old.Target.Digest})
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.noteTagLocked(t)
	return t
}

// noteTagLocked makes a word on a tag the one that counts. mu is held.
func (c *Cache) noteTagLocked(t index.Tag) {
	c.tags.Add(t.Reference, t)
	c.words++
	c.pins.moved(t.Reference, t.Target.Digest)
	if !c.writable() {
		return
	}
	c.newTags[t.Reference] = t
	delete(c.goneTags, t.Reference)
}

// dropTag makes a tag unknown, for one of the reasons of former.
func (c *Cache) dropTag(ref oci.Reference, why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tags.Remove(ref)
	c.formers.Add(ref.Clone(), former{went: why, at: time.Now()})
	c.words++
	if !c.writable() {
		return
	}
	delete(c.newTags, ref)
	c.goneTags[ref] = struct{}{}
}

// byTag gives the manifest that a tag names, or only its description.
func (c *Cache) byTag(ctx context.Context, repo *Repository, ref oci.Reference, head bool) (*Content, error) {
	t, known := c.tag(ref)
	if !known {
		return c.firstSeen(ctx, repo, ref, head)
	}
	v := judgeTag(t, repo)
	switch v {
	case serve:
		return c.target(ctx, repo, t, OutcomeHit, head)
	case serveStale:
		if content := c.stale(ctx, repo, t, "upstream is unavailable", true); content != nil {
			c.refreshLater(repo, ref)
			return content, nil
		}
	}
	return c.askAgain(ctx, repo, t, v != ask, head)
}

// askAgain asks upstream about a tag that is known but not fresh. Where the
// copy may stand in, upstream gets a second.
func (c *Cache) askAgain(ctx context.Context, repo *Repository, t index.Tag, mayStale, head bool) (*Content, error) {
	wait := ctx
	if mayStale {
		var cancel context.CancelFunc
		wait, cancel = context.WithTimeout(ctx, staleWait)
		defer cancel()
	}
	now, err := c.revalidate(wait, repo, t.Reference)
	if err == nil {
		why := reasonWindow
		if now.Target.Digest != t.Target.Digest {
			why = reasonTagMoved
		}
		content, err := c.target(ctx, repo, now, OutcomeHit, head)
		return content.also(why), err
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if !mayStale || errors.Is(err, oci.ErrNotFound) || errors.Is(err, oci.ErrDenied) {
		return nil, err
	}
	// A rate limit counts manifests, not blobs (P 4.12): those can be had.
	if content := c.stale(ctx, repo, t, reason(err), !errors.Is(err, oci.ErrLimited)); content != nil {
		return content, nil
	}
	if wait.Err() != nil { // upstream is slow, and nothing can stand in for it
		return c.askAgain(ctx, repo, t, false, head)
	}
	return nil, err
}

// reason is what a stale answer says about itself: a class, never the text of
// an error from outside.
func reason(err error) string {
	for _, class := range []error{oci.ErrLimited, oci.ErrCorrupt} {
		if errors.Is(err, class) {
			return "upstream's answer was " + class.Error()
		}
	}
	return "upstream is unavailable"
}

// firstSeen gets a tag that is not known here: one GET for a GET, one HEAD for
// a HEAD (P 4.12).
func (c *Cache) firstSeen(ctx context.Context, repo *Repository, ref oci.Reference, head bool) (*Content, error) {
	if err := c.refusal(repo.Repository, askedManifest(ref.Tag)); err != nil {
		return nil, err
	}
	if head {
		t, err := c.revalidate(ctx, repo, ref)
		if err != nil {
			return nil, err
		}
		content, err := c.target(ctx, repo, t, OutcomeMiss, head)
		return c.becauseOfTag(ref, content), err
	}
	outcome := OutcomeJoin
	m, err := share(ctx, c, "tag "+ref.String(), func(ctx context.Context) (*Manifest, error) {
		outcome = OutcomeMiss
		return c.fetchTag(ctx, repo, ref)
	})
	if err != nil {
		return nil, err
	}
	return c.becauseOfTag(ref, m.content(outcome)), nil
}

// fetchTag spends a pull on a tag.
func (c *Cache) fetchTag(ctx context.Context, repo *Repository, ref oci.Reference) (*Manifest, error) {
	m, err := c.fetchManifest(ctx, repo, ref.Tag)
	if err != nil {
		return nil, err
	}
	if !m.Unkept {
		c.setTag(ref, m.descriptor(), m.Private)
	}
	return m, nil
}

// revalidate asks upstream what a tag is now, once for all who wait: a HEAD,
// and a GET only where the HEAD names no digest. A manifest that is new here
// is fetched by whoever reads it.
func (c *Cache) revalidate(ctx context.Context, repo *Repository, ref oci.Reference) (index.Tag, error) {
	return share(ctx, c, "ask "+ref.String(), func(ctx context.Context) (index.Tag, error) {
		r, err := repo.Source.Resolve(ctx, ref.Tag)
		if _, known := c.tag(ref); known && errors.Is(err, oci.ErrNotFound) {
			c.dropTag(ref, whyNotFound)
		}
		if err != nil {
			c.remember(repo.Repository, askedManifest(ref.Tag), err)
			return index.Tag{}, err
		}
		if r.Digest.IsZero() || r.Size < 0 || oci.IsSchema1(r.MediaType) {
			m, err := c.fetchTag(ctx, repo, ref)
			if err != nil {
				return index.Tag{}, err
			}
			return index.Tag{Reference: ref, Target: m.descriptor(), Checked: time.Now()}, nil
		}
		if r.Private {
			c.grant(repo.Repository, r.Digest)
		}
		return c.setTag(ref, r.Descriptor, r.Private), nil
	})
}

// refreshLater asks about a tag in the background, once at a time however many
// are served its copy meanwhile.
func (c *Cache) refreshLater(repo *Repository, ref oci.Reference) {
	if !c.begin() {
		return
	}
	c.mu.Lock()
	_, asking := c.refreshing[ref]
	c.refreshing[ref] = struct{}{}
	c.mu.Unlock()
	if asking {
		c.work.Done()
		return
	}
	owned := *repo
	go func() {
		defer c.work.Done()
		if _, err := c.revalidate(c.ctx, &owned, ref); err != nil {
			c.log.Debug("asking about a stale tag", zap.Stringer("tag", ref), zap.Error(err))
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.refreshing, ref)
	}()
}

// target gives the manifest that a tag names now.
func (c *Cache) target(ctx context.Context, repo *Repository, t index.Tag, o Outcome, head bool) (*Content, error) {
	if head {
		content := &Content{Descriptor: t.Target, Outcome: o, Since: t.Checked}
		if o == OutcomeMiss || repo.Source.Healthy() {
			return content, nil
		}
		if _, here := c.find(t.Target.Digest); here {
			return content, nil
		} // a HEAD that no GET could follow must not succeed (P 2.1)
	}
	content, err := c.byDigest(ctx, repo, t.Target.Digest)
	if err != nil {
		return nil, err
	}
	if content.Outcome == OutcomeHit {
		content.Outcome, content.Since = o, t.Checked
	}
	return content, nil
}

// stale gives the copy of a tag that upstream does not confirm, if it is here
// and, where upstream is not there to fill gaps, can be pulled; nil otherwise.
func (c *Cache) stale(ctx context.Context, repo *Repository, t index.Tag, why string, needWhole bool) *Content {
	content, err := c.storedManifest(ctx, repo, t.Target.Digest)
	if err != nil || content == nil || needWhole && !c.pullable(content.Bytes) {
		return nil
	}
	c.upstream(repo.Upstream).stale.Add(1)
	content.Outcome, content.Since, content.Stale = OutcomeStale, lastWord(t), why
	return content
}
