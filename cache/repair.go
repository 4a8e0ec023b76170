package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"cistern/cache/index"
	"cistern/internal/oci"
)

// errUnkept is for what was fetched and did not stay.
var errUnkept = errors.New("it came, and could not be kept")

// repair fetches what was damaged, and says what came of it. Where a blob comes from its
// tags say, and its pins: of a manifest that was damaged what it names is known once it is
// here again.
func (v *verification) repair(ctx context.Context) {
	for round := 0; round <= maxNesting && len(v.lost) > 0 && ctx.Err() == nil; round++ {
		manifests := false
		for d, from := range v.c.sourcesOf(v.lost) {
			f, rec := v.lost[d].Finding, v.lost[d].rec
			delete(v.lost, d)
			repo, err := v.fetchFrom(ctx, from, rec)
			if err != nil {
				f.Then = fmt.Sprintf("%v; fetched again at the next pull", err)
			} else {
				f.Then, f.Repaired = "fetched again from "+repo.String(), true
				manifests = manifests || rec.Class == index.ClassManifest
				if f.FirstBad < 0 {
					f.FirstBad = v.locate(ctx, d)
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
		f.Then = "no cached tag names it, and no pin: fetched again at the next pull"
		if ctx.Err() != nil {
			f.Then = "fetched again at the next pull"
		}
		delete(v.lost, d)
		v.found(f)
	}
}

// locate finds out where a blob was wrong that is here again; unknown if that cannot be said.
func (v *verification) locate(ctx context.Context, d oci.Digest) int64 {
	c := v.c
	a, b := c.spans.Get().(*[span]byte), c.spans.Get().(*[span]byte)
	defer c.spans.Put(a)
	defer c.spans.Put(b)
	c.located(d)
	for m := (&comparison{d: d}); ; {
		size, rest := v.manners()
		began := time.Now()
		n, over, at := c.compare(m, a[:size], b[:size])
		wait := rest * time.Since(began)
		if n == 0 && !over {
			wait = time.Second // no descriptor at the moment
		}
		v.tell()
		if err := waitFor(ctx, wait); over || err != nil {
			return at
		}
	}
}

// mostSources is how many repositories are asked for a damaged blob.
const mostSources = 4

// sourcesOf finds for each of some digests repositories whose tags or pins name it, directly
// or not; first those that were seen to have it, if not all the world may.
func (c *Cache) sourcesOf(wanted map[oci.Digest]lost) map[oci.Digest][]oci.Repository {
	found, full := map[oci.Digest][]oci.Repository{}, 0
	add := func(d oci.Digest, repo oci.Repository) {
		if all := found[d]; len(all) < mostSources && !slices.Contains(all, repo) {
			if found[d] = append(all, repo); len(all)+1 == mostSources {
				full++
			}
		}
	}
	for d := range wanted {
		for _, ref := range c.pins.keeping(d) {
			add(d, ref.Repository)
		}
	}
	for i, err := range c.idx.Load().Tags() {
		if err != nil {
			c.indexFailed(err)
			break
		}
		if full == len(wanted) {
			break
		}
		named := c.newClosure()
		if err := named.add(i.Target.Digest); err != nil {
			continue // it cannot be read at the moment
		}
		for d := range named.met {
			if _, ok := wanted[d]; ok {
				add(d, i.Repository)
			}
		}
	}
	for d, all := range found {
		if wanted[d].rec.Public {
			continue
		}
		slices.SortStableFunc(all, func(a, b oci.Repository) int {
			switch has := c.granted(a, d); {
			case has == c.granted(b, d):
				return 0
			case has:
				return -1
			}
			return 1
		})
	}
	return found
}

// fetchFrom tries some repositories, and gives the one that had it.
func (v *verification) fetchFrom(ctx context.Context, from []oci.Repository, rec index.Record) (repo oci.Repository, err error) {
	var tried []string
	for _, repo = range from {
		err := v.fetch(ctx, repo, rec)
		if err == nil {
			return repo, nil
		}
		tried = append(tried, fmt.Sprintf("fetching it from %s failed: %v", repo, err))
		if ctx.Err() != nil {
			break
		}
	}
	return repo, errors.New(strings.Join(tried, "; "))
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
