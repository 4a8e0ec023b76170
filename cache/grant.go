package cache

import (
	"context"
	"fmt"
	"time"

	"cistern/internal/oci"
)

// grantKey is the knowledge that upstream serves a digest under a repository
// (DESIGN section 6, P 4.70).
type grantKey struct {
	repo   oci.Repository
	digest oci.Digest
}

// allow tells whether content that is here may be served under a repository.
// Public content always may. Private content needs a grant, and where there is
// none yet, a proof upstream: cheap, shared by all who wait, remembered.
func (c *Cache) allow(ctx context.Context, repo *Repository, d oci.Digest, public, manifest bool) error {
	if public || c.granted(repo.Repository, d) {
		return nil
	}
	what := askedBlob(d)
	if manifest {
		what = askedManifest(d.String())
	}
	if err := c.refusal(repo.Repository, what); err != nil {
		return err
	}
	_, err := share(ctx, c, "proof "+d.String()+" "+repo.String(), func(ctx context.Context) (Resolved, error) {
		ask := repo.Source.BlobInfo
		if manifest {
			ask = func(ctx context.Context, d oci.Digest) (Resolved, error) { return repo.Source.Resolve(ctx, d.String()) }
		}
		r, err := ask(ctx, d)
		if err == nil && !r.Digest.IsZero() && r.Digest != d {
			err = fmt.Errorf("upstream names %s: %w", r.Digest, oci.ErrCorrupt)
		}
		c.remember(repo.Repository, what, err)
		if err == nil {
			c.grant(repo.Repository, d)
		}
		return r, err
	})
	if err != nil {
		return fmt.Errorf("asking upstream whether %s holds %s: %w", repo, d, err)
	}
	return nil
}

func (c *Cache) granted(repo oci.Repository, d oci.Digest) bool {
	k := grantKey{repo, d}
	if c.grants.Contains(k) {
		return true
	}
	if c.store == nil {
		return false
	}
	ok, err := c.index.Granted(repo, d)
	if err != nil {
		c.indexFailed(err)
		return false
	}
	if ok {
		c.grants.Add(k, struct{}{})
	}
	return ok
}

func (c *Cache) grant(repo oci.Repository, d oci.Digest) {
	k := grantKey{repo, d}
	c.grants.Add(k, struct{}{})
	if c.store == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.newGrant[k] = time.Now()
}

// refused is a refusal that is remembered for a while.
type refused struct {
	err   error
	until time.Time
}

// refusal gives what upstream said lately of something that it refused.
func (c *Cache) refusal(repo oci.Repository, ref asked) error {
	r, ok := c.negative.Get(question{repo, ref})
	if !ok || time.Now().After(r.until) {
		return nil
	}
	return r.err
}
