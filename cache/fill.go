package cache

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"cistern/cache/blob"
	"cistern/cache/flight"
	"cistern/internal/oci"
)

const (
	// maxCollect is the largest blob that is collected in memory and verified
	// before its first byte goes out, so that a bad one becomes a real error.
	maxCollect = 256 << 10
	// collectFor is how long clients wait for that before the blob goes out
	// as it comes.
	collectFor = time.Second
	// chunk is how much a fill reads at a time.
	chunk = 256 << 10
)

// fill is one blob on its way from upstream to disk, for all who want it. It
// belongs to none of them.
type fill struct {
	*flight.Flight
	digest   oci.Digest
	repo     Repository // on whose word it is fetched
	asks     []Range    // what who began it is after; nil: all of it
	attempt  int        // 1, or 2 after wrong bytes
	alone    bool       // nobody else writes the file of this digest
	proof    bool       // it proves what lies here, and asks nobody upstream
	ctx      context.Context
	cancel   context.CancelFunc // for the goroutine that runs the fill
	released atomic.Bool        // what lies in fills/ may be another's
	gone     chan struct{}      // closed when another fill of the digest may begin

	may    *allowance
	began  time.Time
	supply supply

	// Set before the flight opens.
	private bool
	in      *blob.Ingest // the file it grows in, of whoever runs the fill
	here    bool         // all of it was on disk already, with a label
	unasked bool         // upstream did not say that repo holds it
	data    []byte       // collected in memory; nil: in a file
	buf     *[chunk]byte // that data is a part of; used again when the flight is over

	// Set before the flight fails with errUnbacked: where the disk ended, the
	// hash up to there, and the stream if nothing was read from it yet.
	at    int64
	hash  hash.Hash
	spare atomic.Pointer[stream]
	// untaken is set then, too: the blob goes past the disk.
	untaken atomic.Bool
}

var (
	// errUnbacked ends a flight that cannot use the disk: its readers go on,
	// each by a stream of its own.
	errUnbacked = errors.New("the disk cannot take it")
	// errHere ends a fill of what is here by now. That is looked up by the fill,
	// and not where it is joined: it reads the index, which may take as long as
	// the disk likes, and all who join any fill would wait.
	errHere = errors.New("it has come meanwhile")
	// errMismatch is for bytes that are not what the digest names.
	errMismatch = fmt.Errorf("the bytes do not match the digest: %w", oci.ErrCorrupt)
)

// follow joins the fill of d, or starts it. It gives nil and no error when the
// caller should look again from the start.
func (c *Cache) follow(ctx context.Context, repo *Repository, d oci.Digest, asks []Range) (*Content, error) {
	f, r, lead := c.join(repo, d, asks)
	switch {
	case f == nil:
		return nil, errClosed
	case r == nil:
		return nil, f.over(ctx)
	}
	boarded := false
	defer func() {
		if !boarded {
			r.Close()
		}
	}()
	content, err := c.board(ctx, f, r, repo, lead)
	boarded = content != nil
	return content, err
}

// over waits until another fill of the digest may begin.
func (f *fill) over(ctx context.Context) error {
	select {
	case <-f.gone:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// join becomes a reader of the fill of d, or of one that it starts. It leads if
// more is fetched for it than for others before. r is nil if that is just coming to
// its end, f if the cache closes.
func (c *Cache) join(repo *Repository, d oci.Digest, asks []Range) (f *fill, r *flight.Reader, lead bool) {
	f, ok := c.flights.Join(d, func() (*fill, bool) {
		if !c.begin() {
			return nil, false
		}
		lead = true
		f := c.newFill(*repo, d, asks, 1)
		r = f.Join(asks...)
		go c.run(f)
		return f, true
	})
	switch {
	case !ok:
		return nil, nil, false
	case r == nil:
		lead = !f.Whole() // else it comes anyway
		r = f.Join(asks...)
	}
	return f, r, lead
}

// board waits until the fill can be read and makes the reader.
func (c *Cache) board(ctx context.Context, f *fill, r *flight.Reader, repo *Repository, lead bool) (*Content, error) {
	size, err := f.Size(ctx)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return nil, err
	case errors.Is(err, errMismatch) && f.attempt == 1:
		return nil, nil // a second attempt is under way
	case f.proof, errors.Is(err, errHere), errors.Is(err, errStalled), f.repo.Repository != repo.Repository, errors.Is(err, context.Canceled) && c.ctx.Err() == nil:
		return nil, nil // it failed for somebody else's reason
	default:
		return nil, err
	}
	why := ""
	if f.unasked || f.repo.Repository != repo.Repository {
		if why, err = c.allow(ctx, repo, f.digest, !f.private, false); err != nil {
			return nil, err
		}
	}
	outcome := OutcomeMiss
	switch {
	case f.here, f.Has(r.Asks()...):
		outcome = OutcomeHit
	case !lead:
		outcome = OutcomeJoin
	}
	content := &Content{Descriptor: oci.Descriptor{Digest: f.digest, Size: size}, Outcome: outcome, Reason: why, Since: time.Now()}
	if f.data != nil && f.Verified() {
		c.tookPart(f, r.Asks())
		content.Bytes, content.follower = f.data, r
		return content, nil
	}
	content.Reader = c.reader(ctx, f, r, repo, size)
	content.Reader.ranges = c.rangesOf(f)
	if content.Reader.unbacked() {
		content.Outcome = OutcomePass
	}
	return content, nil
}

func (c *Cache) newFill(repo Repository, d oci.Digest, asks []Range, attempt int) *fill {
	repo.Source = placedAnew(repo.Source)
	f := &fill{digest: d, repo: repo, asks: asks, attempt: attempt, began: time.Now(), gone: make(chan struct{})}
	f.ctx, f.cancel = context.WithCancel(c.ctx)
	f.may = c.allowance(&f.repo, func() bool { return f.Readers() > 0 })
	f.Flight = flight.New(func() {
		if f.Readers() == 0 {
			f.dropSpare()
		}
	}, func() {
		if f.buf != nil {
			c.chunks.Put(f.buf)
		}
	})
	return f
}

// run does a fill from start to end, and once more if its bytes were wrong.
// Whatever happens in it, a panic included, reaches the readers as an error.
func (c *Cache) run(f *fill) {
	defer c.work.Done()
	f.alone = c.claim(f.digest)
	err := errHere
	if _, here := c.find(f.digest); !here {
		err = c.attempt(f)
	}
	if errors.Is(err, errMismatch) && !f.proof {
		c.wrong(f, err)
		var asks []Range // all of it is proven again
		if f.data != nil && !f.Whole() {
			asks = f.asks // but for something small, which is no blob
		}
		again := c.newFill(f.repo, f.digest, asks, 2)
		again.alone = f.alone
		c.flights.Replace(f.digest, again)
		f.Reject(err)
		f.Leave()
		f.cancel()
		close(f.gone)
		f = again
		if err = c.attempt(f); errors.Is(err, errMismatch) {
			c.wrong(f, err)
		}
	}
	c.remember(f.repo.Repository, askedBlob(f.digest), err)
	if f.alone {
		c.takeDonor(f.digest).close()
		f.released.Store(true)
		c.release(f.digest)
	}
	// Forgotten before it fails: who learns of the failure and looks again must
	// not meet this fill again.
	if !errors.Is(err, errStalled) { // else it is, and another may be under way
		c.flights.Forget(f.digest)
	}
	switch {
	case errors.Is(err, errMismatch):
		f.Reject(err)
	case err != nil:
		f.Fail(err)
	}
	f.Leave()
	f.cancel()
	close(f.gone)
}

// wrong notes that a fill brought wrong bytes.
func (c *Cache) wrong(f *fill, err error) {
	if errors.Is(err, errDamaged) {
		c.stats.damaged.Add(1)
		c.log.Warn("a cached blob is damaged and is fetched again", zap.Stringer("digest", f.digest))
		return
	}
	c.upstream(f.repo.Upstream).verifyFailures.Add(1)
	c.unverified.Add(f.digest, time.Now())
	c.log.Warn("upstream sent wrong bytes", zap.Stringer("digest", f.digest), zap.Stringer("repository", f.repo), zap.Int("attempt", f.attempt))
}

// attempt fetches the blob once. It returns after the flight is done, or
// failed unbacked, or with the error to fail it with.
func (c *Cache) attempt(f *fill) (err error) {
	defer func() {
		if p := recover(); p != nil {
			c.panicked("a fill", p)
			if f.in != nil {
				c.abort(f.in) // nothing, if it has ended
			}
			err = fmt.Errorf("filling %s: panic: %v", f.digest, p)
		}
	}()
	left, err := c.leftover(f)
	if err != nil {
		return err
	}
	if left != nil && !left.in.Tracked() && f.digest.Matches(left.hash) {
		return c.adopt(f, left)
	}
	if f.proof {
		return c.disproved(f, left)
	}
	s, left, err := c.openRest(f, left)
	if err != nil {
		left.keep()
		return err
	}
	defer s.close()
	if left == nil && s.whole() && s.size >= 0 && s.size <= maxCollect {
		err = c.collect(f, s)
	} else {
		err = c.spool(f, s, left)
	}
	switch {
	case errors.Is(err, errUnbacked):
		return nil
	case errors.Is(err, errMismatch) && left == nil: // else it may have been our part
		s.blame()
	}
	return err
}

// disproved ends a proof: what lay here is not the blob.
func (c *Cache) disproved(f *fill, left *leftover) error {
	if left != nil && left.in.Tracked() {
		left.keep()
		left = nil
	}
	if left == nil {
		return fmt.Errorf("nothing to prove: %w", oci.ErrNotFound)
	}
	if left.lay {
		c.disownFill(f, left)
		return errDamaged
	}
	c.rebuild.damaged.Add(1)
	c.abort(left.in)
	c.undoubt(f.digest)
	return errDamaged
}
