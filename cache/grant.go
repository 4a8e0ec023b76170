package cache

import (
	"context"
	"fmt"
	"slices"
	"time"

	"cistern/internal/oci"
)

// holders are repositories under which upstream is known to serve a digest
// (DESIGN section 6, P 4.70). They are immutable: a set of one or two, mostly.
type holders []oci.Repository

// allow tells whether content that is here may be served under a repository.
// Public content always may. Private content needs a grant, and where there is
// none yet, a proof upstream: cheap, shared by all who wait, remembered. It says why
// upstream was asked.
func (c *Cache) allow(ctx context.Context, repo *Repository, d oci.Digest, public, manifest bool) (why string, err error) {
	if public || c.granted(repo.Repository, d) {
		return "", nil
	}
	what := askedBlob(d)
	if manifest {
		what = askedManifest(d.String())
	}
	if err := c.refusal(repo.Repository, what); err != nil {
		return "", err
	}
	_, err = share(ctx, c, "proof "+d.String()+" "+repo.String(), func(ctx context.Context) (Resolved, error) {
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
		return "", fmt.Errorf("asking upstream whether %s holds %s: %w", repo, d, err)
	}
	return reasonNotGranted, nil
}

func (c *Cache) granted(repo oci.Repository, d oci.Digest) bool {
	if known, _ := c.grants.Get(d); slices.Contains(known, repo) {
		return true
	}
	if c.store == nil {
		return false
	}
	c.mu.Lock()
	_, waits := c.newGrant[d][repo]
	_, gone := c.gone[d]
	_, leaving := c.leaving[d]
	c.mu.Unlock()
	if waits || gone || leaving { // the index still has the grants of a blob that is gone
		return waits
	}
	ok, err := c.idx.Load().Granted(repo, d)
	if err != nil {
		c.indexFailed(err)
		return false
	}
	if ok {
		c.rememberGrant(repo, d)
	}
	return ok
}

func (c *Cache) grant(repo oci.Repository, d oci.Digest) {
	c.rememberGrant(repo, d)
	if !c.writable() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.newGrant[d] == nil {
		c.newGrant[d] = map[oci.Repository]time.Time{}
	}
	c.newGrant[d][repo] = time.Now()
}

// mostHolders bounds the repositories that memory knows for one digest; the
// index knows the rest.
const mostHolders = 64

// rememberGrant keeps a grant in memory. Of two at once one may be lost, and is
// read from the index again.
func (c *Cache) rememberGrant(repo oci.Repository, d oci.Digest) {
	known, _ := c.grants.Get(d)
	if !slices.Contains(known, repo) {
		known = append(slices.Clone(known[max(0, len(known)-mostHolders+1):]), repo.Clone())
		c.grants.Add(d.Clone(), known)
	}
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
