package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"cistern/internal/oci"
)

var errStalled = errors.New("stalled")

// stream is an answer's body with its bounds: no byte for StallTimeout ends
// it, and so does an end before or after the length that was announced. It
// holds a connection slot until it is at its end or closed.
type stream struct {
	rc      io.ReadCloser
	want    int64 // bytes still expected; -1: not known
	stall   time.Duration
	timer   *time.Timer
	ctx     context.Context // the request's: its cause tells a stall from a caller who left
	ep      *endpoint
	host    string
	away    bool
	counts  *counters
	meter   Meter
	release func()
	once    sync.Once
	err     error // sticky; Read only
}

// newStream wraps a's body. cancel ends the request, release is called once,
// at the end.
func (u *Upstream) newStream(ctx context.Context, cancel context.CancelCauseFunc, a *answer, release func()) *stream {
	s := &stream{
		rc: a.Body, want: a.ContentLength, stall: u.stall, ctx: ctx,
		ep: a.ep, host: a.host, away: a.away, counts: u.counts, meter: meterOf(ctx), release: release,
	}
	s.timer = time.AfterFunc(s.stall, func() { cancel(errStalled) })
	s.timer.Stop()
	return s
}

// Read implements io.Reader. The timer runs only while we wait for upstream: a
// reader that takes its time between calls is not a stall.
func (s *stream) Read(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	s.timer.Reset(s.stall)
	n, err := s.rc.Read(p)
	s.timer.Stop()
	s.counts.received.Add(uint64(n))
	s.meter(uint64(n), 0)
	if s.want >= 0 {
		if int64(n) > s.want {
			n, err = int(s.want), s.corrupt("sends more bytes than it announced")
		}
		s.want -= int64(n)
	}
	if err == nil {
		return n, nil
	}
	s.err = s.explain(err)
	_ = s.Close() // the error at hand is the one that counts
	return n, s.err
}

// explain gives a read's error its meaning; only a whole body ends in io.EOF.
func (s *stream) explain(err error) error {
	var e *Error
	switch {
	case errors.As(err, &e):
		return err
	case errors.Is(context.Cause(s.ctx), errStalled):
		e = &Error{Host: s.host, Class: oci.ErrUnavailable, Err: fmt.Errorf("no byte for %s", s.stall), fault: faultPassing}
	case s.ctx.Err() != nil:
		return ended(s.ctx, s.host)
	case err == io.EOF && s.want <= 0:
		s.ep.works()
		return io.EOF
	case err == io.EOF:
		e = &Error{Host: s.host, Class: oci.ErrUnavailable, Err: io.ErrUnexpectedEOF, fault: faultPassing}
	default:
		e = &Error{Host: s.host, Class: oci.ErrUnavailable, Err: fmt.Errorf("body: %w", err), fault: faultPassing}
	}
	if s.away {
		e.fault = faultAway
	}
	s.ep.faulty(e)
	e.counted = true
	return e
}

func (s *stream) corrupt(what string) error {
	return &Error{Host: s.host, Class: oci.ErrCorrupt, Err: errors.New(what)}
}

// Close ends the body; a connection with bytes left in it is not used again.
// It may be called while Read runs, and more than once.
func (s *stream) Close() error {
	var err error
	s.once.Do(func() {
		s.timer.Stop()
		err = s.rc.Close()
		s.release()
	})
	return err
}
