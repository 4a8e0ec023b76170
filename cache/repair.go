package cache

import (
	"context"
	"errors"
	"fmt"
	"io"

	"cistern/cache/index"
	"cistern/internal/oci"
)

// errUnkept is for what was fetched and did not stay.
var errUnkept = errors.New("it came, and could not be kept")

// repair fetches what was damaged, and says what came of it. Where a blob comes from its
// tags say: of a manifest that was damaged what it names is known once it is here again.
func (v *verification) repair(ctx context.Context) {
	for round := 0; round <= maxNesting && len(v.lost) > 0 && ctx.Err() == nil; round++ {
		manifests := false
		for d, repo := range v.c.repositoriesOf(v.lost) {
			f, rec := v.lost[d].Finding, v.lost[d].rec
			delete(v.lost, d)
			if err := v.fetch(ctx, repo, rec); err != nil {
				f.Then = fmt.Sprintf("fetching it from %s failed: %v; fetched again at the next pull", repo, err)
			} else {
				f.Then, f.Repaired = "fetched again from "+repo.String(), true
				manifests = manifests || rec.Class == index.ClassManifest
				if off, ok := v.c.locate(d); ok && f.FirstBad < 0 {
					f.FirstBad = off
				}
			}
			v.found(f)
			v.tell()
		}
		if !manifests {
			break
		}
	}
	for d, lost := range v.lost {
		f := lost.Finding
		f.Then = "no cached tag names it: fetched again at the next pull"
		if ctx.Err() != nil {
			f.Then = "fetched again at the next pull"
		}
		delete(v.lost, d)
		v.found(f)
	}
}

// repositoriesOf finds for each of some digests a repository whose tags name it, directly or not.
func (c *Cache) repositoriesOf(wanted map[oci.Digest]lost) map[oci.Digest]oci.Repository {
	found := map[oci.Digest]oci.Repository{}
	for i, err := range c.idx.Load().Tags() {
		if err != nil {
			c.indexFailed(err)
			break
		}
		if len(found) == len(wanted) {
			break
		}
		named := c.newClosure()
		if err := named.add(i.Target.Digest); err != nil {
			continue // it cannot be read at the moment
		}
		for d := range named.met {
			if _, ok := wanted[d]; ok && found[d] == (oci.Repository{}) {
				found[d] = i.Repository
			}
		}
	}
	return found
}

// fetch brings a blob or manifest, and waits until it is here.
func (v *verification) fetch(ctx context.Context, from oci.Repository, rec index.Record) (err error) {
	repo, ok := v.Repository(from)
	if !ok {
		return fmt.Errorf("upstream %s is not configured any more", from.Upstream)
	}
	c, ask, what := v.c, func() (*Content, error) { return v.c.Blob(ctx, repo, rec.Digest) }, askedBlob(rec.Digest)
	if rec.Class == index.ClassManifest {
		ask, what = func() (*Content, error) { return c.byDigest(ctx, repo, rec.Digest) }, askedManifest(rec.Digest.String())
	}
	c.negative.Remove(question{from, what})
	content, err := ask()
	if err != nil {
		return err
	}
	if content.Reader != nil {
		_, err = io.Copy(io.Discard, struct{ io.Reader }{content.Reader})
	}
	content.Close()
	if f, ok := c.flights.Get(rec.Digest); ok && err == nil {
		err = f.over(ctx)
	}
	if _, here := c.findStored(rec.Digest); err == nil && !here {
		err = errUnkept
	}
	return err
}
