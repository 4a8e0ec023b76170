package cache

import (
	"context"
	"fmt"
	"time"

	"cistern/cache/index"
	"cistern/internal/oci"
)

// maxManifest bounds what is read as a manifest; sources bound it too (P 3.14).
const maxManifest = 8 << 20

// Manifest gives a manifest by tag or digest, whole. What its bytes are worth
// to a client that does not accept their media type is the caller's business.
func (c *Cache) Manifest(ctx context.Context, repo *Repository, ref oci.Reference) (*Content, error) {
	if ref.Digest.IsZero() {
		return c.byTag(ctx, repo, ref, false)
	}
	return c.byDigest(ctx, repo, ref.Digest)
}

// StatManifest is Manifest without the bytes: it spends no pull upstream where
// upstream answers a HEAD.
func (c *Cache) StatManifest(ctx context.Context, repo *Repository, ref oci.Reference) (*Content, error) {
	if ref.Digest.IsZero() {
		return c.byTag(ctx, repo, ref, true)
	}
	if content, err := c.storedManifest(ctx, repo, ref.Digest); content != nil || err != nil {
		return content, err
	}
	if err := c.refusal(repo.Repository, askedManifest(ref.Ref())); err != nil {
		return nil, err
	}
	r, err := share(ctx, c, "head "+ref.String(), func(ctx context.Context) (Resolved, error) {
		r, err := repo.Source.Resolve(ctx, ref.Ref())
		c.remember(repo.Repository, askedManifest(ref.Ref()), err)
		return r, err
	})
	if err != nil {
		return nil, err
	}
	if r.Size < 0 || r.Digest != ref.Digest {
		return c.byDigest(ctx, repo, ref.Digest)
	}
	return c.because(&Content{Descriptor: r.Descriptor, Outcome: OutcomeMiss, Since: time.Now()}), nil
}

// byDigest gives a manifest by digest, from here or upstream.
func (c *Cache) byDigest(ctx context.Context, repo *Repository, d oci.Digest) (*Content, error) {
	if content, err := c.storedManifest(ctx, repo, d); content != nil || err != nil {
		return content, err
	}
	if err := c.refusal(repo.Repository, askedManifest(d.String())); err != nil {
		return nil, err
	}
	outcome := OutcomeJoin
	m, err := share(ctx, c, "manifest "+d.String()+" "+repo.String(), func(ctx context.Context) (*Manifest, error) {
		outcome = OutcomeMiss // of the one caller whose function runs
		return c.fetchManifest(ctx, repo, d.String())
	})
	if err != nil {
		return nil, err
	}
	return c.because(m.content(outcome)), nil
}

// storedManifest serves what is here; nil and no error if nothing is.
func (c *Cache) storedManifest(ctx context.Context, repo *Repository, d oci.Digest) (*Content, error) {
	data, rec, ok := c.small(d, maxManifest)
	if !ok || rec.Class != index.ClassManifest {
		return nil, nil
	}
	why, err := c.allow(ctx, repo, d, rec.Public, true)
	if err != nil {
		return nil, err
	}
	return &Content{Descriptor: describe(rec), Since: rec.FirstSeen, Reason: why, Bytes: data}, nil
}

// fetchManifest gets a manifest from upstream and keeps it.
func (c *Cache) fetchManifest(ctx context.Context, repo *Repository, ref string) (*Manifest, error) {
	m, err := repo.Source.Manifest(ctx, ref)
	if err != nil {
		c.remember(repo.Repository, askedManifest(ref), err)
		return nil, fmt.Errorf("fetching manifest %s of %s: %w", ref, repo, err)
	}
	if m.Unkept {
		return m, nil
	}
	c.unhurried(func() { c.keepManifest(repo, m) })
	return m, nil
}

// keepManifest stores a manifest that was fetched, unless it is here. While it
// is claimed its grant waits for its record. Whoever else has the claim takes it
// for a blob, or removes it: so it is looked at again after that.
func (c *Cache) keepManifest(repo *Repository, m *Manifest) {
	if c.rebuild.on.Load() { // what lies here unproven could not be written over, and would be taken for a blob
		c.proveLying(m.Digest)
	}
	claimed := c.claimOr(m.Digest, func() { c.keepManifest(repo, m) })
	if claimed {
		defer c.release(m.Digest)
	}
	c.grant(repo.Repository, m.Digest) // a public one needs none: it says whose it is where no tag does
	if !claimed {
		return
	}
	rec, here := c.findStored(m.Digest)
	switch {
	case here && rec.Class == index.ClassManifest && rec.MediaType == m.MediaType && (rec.Public || m.Private):
		return
	case here: // fetched as a blob, taken up when the index was lost, or private so far
		c.relabel(rec, m)
		return
	}
	now := time.Now()
	c.storeBytes(index.Record{
		Digest: m.Digest, Size: int64(len(m.Bytes)), MediaType: m.MediaType, Class: index.ClassManifest,
		FirstSeen: now, LastUsed: now, Public: !m.Private, Origin: repo.Upstream,
	}, m.Bytes)
}

// relabel corrects the record of bytes that are here already.
func (c *Cache) relabel(rec index.Record, m *Manifest) {
	c.files.Lock()
	defer c.files.Unlock()
	rec, ok := c.current(rec)
	if !ok {
		return
	}
	rec.Class, rec.MediaType, rec.Public = index.ClassManifest, m.MediaType, rec.Public || !m.Private
	c.mu.Lock()
	was, waits := c.pending[rec.Digest]
	c.mu.Unlock()
	c.enter(fresh{Record: rec, placed: was.placed, known: !waits || was.recorded || was.known})
	c.hot.remove(rec.Digest) // after that: see small
}

func (m *Manifest) content(o Outcome) *Content {
	if m.Unkept {
		o = OutcomePass
	}
	return &Content{Descriptor: m.descriptor(), Outcome: o, Since: time.Now(), Bytes: m.Bytes}
}

func (m *Manifest) descriptor() oci.Descriptor {
	return oci.Descriptor{MediaType: m.MediaType, Digest: m.Digest, Size: int64(len(m.Bytes))}
}
