package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/cenkalti/backoff/v5"

	"cistern/internal/oci"
)

// maxTries is how often in a row a stream is opened again without a single
// byte in between before it gives up. The source has its own retries inside
// each; together they bound a pull from a dead upstream.
const maxTries = 4

const (
	// openBound is how long one opening may take: the bound of a miss while
	// upstream is down (DESIGN section 7), its own retries included.
	openBound = 10 * time.Second
	// silence is how long a stream goes without a byte before it tries no more:
	// a stall of ten seconds, and one more opening.
	silence = 20 * time.Second
)

// errSlow is why an opening was given up.
var errSlow = fmt.Errorf("no answer within %s: %w", openBound, oci.ErrUnavailable)

// stream reads a blob from its source, from an offset to another or to the end,
// and goes on at the same offset when the body breaks off (P 4.22, 4.23). It
// verifies nothing. It is for one goroutine at a time.
type stream struct {
	ctx  context.Context
	src  Source
	d    oci.Digest
	off  int64 // of the next byte
	upto int64 // where it ends; -1: where the blob does
	size int64 // of the blob; -1: not known
	back bool  // it may begin before off, if upstream has no ranges and nothing was read
	near bool  // it is of no use if upstream has no ranges
	all  bool  // upstream has answered a range with all of the blob
	part bool  // upstream has answered a range with that

	may    *allowance // nil: it reads what comes
	first  bool       // it is before others of its fill
	unread int        // bytes that it may read

	body    *Body
	culprit func()                  // blames whom it was, or is, of
	drop    context.CancelCauseFunc // of the body's own context
	cancel  context.CancelFunc      // of ctx, if the stream owns it

	tries int
	since time.Time // when the waiting for the next byte began
	wait  *backoff.ExponentialBackOff
}

func newStream(ctx context.Context, src Source, may *allowance, d oci.Digest, off, upto, size int64) *stream {
	wait := &backoff.ExponentialBackOff{InitialInterval: 50 * time.Millisecond, Multiplier: 3, RandomizationFactor: 0.3, MaxInterval: time.Second}
	wait.Reset()
	return &stream{ctx: ctx, src: src, may: may, d: d, off: off, upto: upto, size: size, wait: wait, since: time.Now()}
}

// open opens the body at the stream's offset and learns the size.
func (s *stream) open() error {
	deadline := time.Now().Add(openBound)
	err := s.openOnce()
	if errors.Is(err, oci.ErrUnavailable) && stoodStill(deadline) {
		err = s.openOnce() // once: it may also have taken long to skip what was read before
	}
	return err
}

func (s *stream) openOnce() error {
	ctx, drop := context.WithCancelCause(s.ctx) // governs the body as well
	stop := bound(openBound, func() { drop(errSlow) })
	body, err := s.src.Blob(ctx, s.d, s.off, s.last())
	stop()
	if err == nil {
		if err = s.accept(body); err == nil {
			s.body, s.drop, s.culprit = body, drop, body.Blame
			return nil
		}
		body.Close()
	}
	if errors.Is(context.Cause(ctx), errSlow) {
		err = errSlow
	}
	drop(nil)
	return err
}

// last is the offset behind the last byte that it is to read; -1: not known.
func (s *stream) last() int64 {
	if s.upto >= 0 && (s.size < 0 || s.upto < s.size) {
		return s.upto
	}
	return s.size
}

// whole tells whether all of the blob is about to come.
func (s *stream) whole() bool {
	return s.body != nil && s.off == 0 && (s.upto < 0 || s.size >= 0 && s.upto >= s.size)
}

// reaches tells whether it goes on up to an offset, -1 being the blob's end.
func (s *stream) reaches(end int64) bool {
	if end < 0 || end == s.size {
		return s.upto < 0 || s.upto == s.size
	}
	return s.upto < 0 || s.upto >= end
}

// errNoRanges is for an upstream that answers a range with all of a blob.
var errNoRanges = fmt.Errorf("upstream has no ranges: %w", oci.ErrUnavailable)

// accept checks that a body is of this blob and starts where it should. One
// that starts before, because upstream ignored the range, is read up to there.
func (s *stream) accept(body *Body) error {
	if body.Size >= 0 && s.size >= 0 && body.Size != s.size {
		return fmt.Errorf("upstream now says %d bytes, and said %d before: %w", body.Size, s.size, oci.ErrCorrupt)
	}
	if err := s.plausible(body); err != nil {
		return err
	}
	if body.Offset > s.off {
		return fmt.Errorf("upstream's answer starts at byte %d, not at %d: %w", body.Offset, s.off, oci.ErrCorrupt)
	}
	if body.Size >= 0 {
		s.size = body.Size
	}
	s.all = s.all || body.Whole && (s.off > 0 || s.upto >= 0)
	s.part = !body.Whole
	if body.Offset < s.off && s.near {
		return errNoRanges
	}
	if body.Offset < s.off || body.Whole {
		s.upto = -1 // all of it comes
	}
	if body.Offset < s.off && s.back {
		s.off = body.Offset
	}
	s.back = false
	if skip := s.off - body.Offset; skip > 0 {
		if n, err := io.CopyN(io.Discard, readerFunc(func(p []byte) (int, error) { return s.draw(body, p) }), skip); errors.Is(err, io.EOF) {
			return fmt.Errorf("upstream's body ends at byte %d, and had gone up to %d before: %w", body.Offset+n, s.off, oci.ErrCorrupt)
		} else if err != nil {
			return fmt.Errorf("reading up to byte %d again: %w", s.off, err)
		}
	}
	return nil
}

// leastWhole is how much must come of a blob, or all of it, that is sent without its
// length: messages of whoever stands between, which say none either, are shorter.
const leastWhole = 64 << 10

// plausible sees that a body without a length is not at its end long before the blob
// is: what comes of it cannot be taken back.
func (s *stream) plausible(body *Body) error {
	if body.Size >= 0 || !body.Whole || s.size < 0 {
		return nil
	}
	var first bytes.Buffer
	n, err := io.CopyN(&first, body, min(leastWhole, s.size))
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("upstream's body ends at byte %d of %d: %w", n, s.size, oci.ErrCorrupt)
	}
	rest := body.ReadCloser
	body.ReadCloser = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(&first, rest), rest}
	return err
}

// Read implements io.Reader. It gives io.EOF at the end only.
func (s *stream) Read(p []byte) (int, error) {
	s.since = time.Now()
	for {
		if s.body == nil {
			if err := s.reopen(); err != nil {
				return 0, err
			}
		}
		n, err := s.draw(s.body, p)
		s.off += int64(n)
		last := s.last()
		if last >= 0 && s.off > last {
			return 0, fmt.Errorf("upstream sent more than up to byte %d, as it had said: %w", last, oci.ErrCorrupt)
		}
		if n > 0 {
			s.tries = 0
			s.wait.Reset()
			return n, nil // an error comes again with the next read
		}
		switch {
		case err == nil:
			continue
		case errors.Is(err, io.EOF) && (last < 0 || s.off == last):
			return 0, io.EOF
		case s.off == last && !errors.Is(err, oci.ErrCorrupt):
			return 0, io.EOF // all is there: how the connection ended does not matter
		case errors.Is(err, io.EOF):
			err = io.ErrUnexpectedEOF
		}
		s.close()
		if !s.retry(err) {
			return 0, fmt.Errorf("reading from upstream at byte %d: %w", s.off, err)
		}
	}
}

// draw reads from a body, as much as the stream may. Waiting for that is not waiting
// for upstream.
func (s *stream) draw(body *Body, p []byte) (int, error) {
	if s.may == nil {
		return body.Read(p)
	}
	if left := s.last() - s.off; s.last() >= 0 && left < int64(len(p)) {
		p = p[:max(left, 1)] // one more to see that nothing follows
	}
	if s.unread == 0 {
		n, err := s.may.take(s.ctx, len(p), s.first)
		if err != nil {
			return 0, err
		}
		s.unread, s.since = n, time.Now()
	}
	n, err := body.Read(p[:min(len(p), s.unread)])
	s.unread -= n
	return n, err
}

// reopen opens the body again until it works or no more tries are left.
func (s *stream) reopen() error {
	for {
		err := s.open()
		if err == nil || !s.retry(err) {
			return err
		}
	}
}

// retry tells whether to try again after err, and waits before it.
func (s *stream) retry(err error) bool {
	for _, final := range []error{errNoRanges, oci.ErrNotFound, oci.ErrDenied, oci.ErrLimited, oci.ErrCorrupt, context.Canceled} {
		if errors.Is(err, final) {
			return false
		}
	}
	s.tries++
	if s.tries > maxTries || s.ctx.Err() != nil {
		return false
	}
	if s.tries == 1 {
		return true // however long it took: see stoodStill
	}
	if time.Since(s.since) > silence {
		return false
	}
	t := time.NewTimer(s.wait.NextBackOff())
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.ctx.Done():
		return false
	}
}

// blame tells the source that what the stream brought was wrong.
func (s *stream) blame() {
	if s.culprit != nil {
		s.culprit()
	}
}

func (s *stream) close() {
	if s.body != nil {
		s.body.Close()
		s.drop(nil)
		s.body = nil
	}
}

// end closes the stream for good.
func (s *stream) end() {
	s.close()
	if s.cancel != nil {
		s.cancel()
	}
}
