package upstream

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/sony/gobreaker/v2"

	"cistern/internal/oci"
)

const (
	maxTries   = 3
	retryDelay = 100 * time.Millisecond // before the same endpoint is asked again; then three times that
	// slowTries: after this long only one retry is made, so that a miss stays
	// within the bound of DESIGN.md section 7.
	slowTries = 2 * time.Second
	// maxAsks: refused token, new token, expired redirect, new redirect.
	maxAsks = 4
	// silence: an endpoint that says nothing for so long is at fault even if it
	// is the caller's deadline that ends the wait.
	silence = 5 * time.Second
	// patience is how long a call waits while every breaker is open, and once
	// more if a probe is under way by then.
	patience = time.Second
)

// call is one operation with its tries.
type call struct {
	q       *query
	started time.Time
	tries   int
	last    error
	visits  map[*endpoint]*visit
}

// visit is what a call has had to do with one endpoint: one permission by its
// breaker, and one outcome.
type visit struct {
	done  func(error)
	probe bool  // let through a half-open breaker
	lacks bool  // it has answered that it does not have it
	err   error // of the last try; nil if it answered
}

// do asks the endpoints in order until use is content, an answer is final or
// the tries are used up. use owns the answer's body.
func (u *Upstream) do(ctx context.Context, q *query, use func(*answer) error) error {
	if err := u.limits.check(q); err != nil {
		return err.label(q.op())
	}
	c := &call{q: q, started: time.Now(), visits: map[*endpoint]*visit{}}
	delays := &pause{ExponentialBackOff: backoff.ExponentialBackOff{InitialInterval: retryDelay, Multiplier: 3, RandomizationFactor: 0.3, MaxInterval: time.Second}, u: u, c: c}
	var err error
	defer func() { u.settle(c, err) }() // also on a panic: a breaker waits for its probe's outcome
	_, err = backoff.Retry(ctx, func() (struct{}, error) {
		return struct{}{}, u.attempt(ctx, c, use)
	}, backoff.WithBackOff(delays), backoff.WithMaxTries(maxTries))
	if err == nil {
		return nil
	}
	var e *Error
	if !errors.As(err, &e) {
		e = ended(ctx, "")
		e.Err = err
	}
	return e.label(q.op())
}

// label gives a copy with the operation: the error itself may be shared with
// other calls that waited for the same token.
func (e *Error) label(op string) *Error {
	labelled := *e
	labelled.Op = op
	return &labelled
}

// pause waits only where no other endpoint is left to be asked at once.
type pause struct {
	backoff.ExponentialBackOff
	u *Upstream
	c *call
}

// NextBackOff implements backoff.BackOff.
func (p *pause) NextBackOff() time.Duration {
	for _, ep := range p.u.endpoints {
		if p.c.visits[ep] == nil && ep.healthy() {
			return 0
		}
	}
	return p.ExponentialBackOff.NextBackOff()
}

// attempt is one try. Its error is permanent for backoff.Retry unless another
// try makes sense.
func (u *Upstream) attempt(ctx context.Context, c *call, use func(*answer) error) error {
	ep, err := u.admit(ctx, c)
	if err != nil {
		return backoff.Permanent(err)
	}
	c.tries++
	err = u.try(ctx, c.q, ep, use)
	c.note(ep, err)
	if err == nil {
		if c.q.method == http.MethodHead {
			ep.works()
		}
		return nil
	}
	c.last = err
	if !c.again(err) && !u.elsewhere(c, err) {
		return backoff.Permanent(u.unsure(c, err))
	}
	return err
}

func (c *call) again(err error) bool {
	var e *Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.fault {
	case faultPassing, faultAway:
		return c.tries < 2 || time.Since(c.started) < slowTries
	case faultContent:
		return c.tries < 2
	}
	return false
}

// note tells the endpoint and the visit how a try went.
func (c *call) note(ep *endpoint, err error) {
	v := c.visits[ep]
	before := v.err
	v.err = nil
	var e *Error
	switch {
	case err == nil:
		return
	case errors.As(err, &e) && (e.fault == faultPassing || e.fault == faultLasting):
		v.err = errDown
		if !e.counted {
			ep.faulty(err)
		}
	case e == nil || e.Class == nil || errors.Is(err, context.DeadlineExceeded):
		if v.err = before; before == nil { // else the fault before the caller's end stands
			v.err = errNothing
		}
	case e.Class == oci.ErrNotFound:
		v.lacks = true
	case !e.counted:
		ep.note(err)
	}
}

// settle reports the call's outcome to the breakers it passed. One of several
// endpoints that failed while another one answered is not down by that; a
// probe's result always counts.
func (u *Upstream) settle(c *call, err error) {
	for _, v := range c.visits {
		outcome := v.err
		if outcome == errDown && err == nil && !v.probe {
			outcome = errNothing
		}
		v.done(outcome)
		if v.probe || outcome != nil {
			u.news.tell(v.probe && outcome == errDown, err)
		}
	}
}

// try asks one endpoint once: a slot, authentication and redirects included.
func (u *Upstream) try(ctx context.Context, q *query, ep *endpoint, use func(*answer) error) error {
	free, err := u.slots.take(ctx, q.long)
	if err != nil {
		return ended(ctx, "")
	}
	rctx, cancel := context.WithCancelCause(ctx)
	unlink := context.AfterFunc(u.flights.ctx, func() { cancel(errClosed) })
	end := func() {
		unlink()
		cancel(nil)
		free()
	}
	start := time.Now()
	a, err := u.ask(rctx, q, ep)
	if err != nil {
		err = silent(ctx, err, time.Since(start))
	} else {
		u.counts.quota(a.Header)
		err = a.err()
	}
	if err == nil && q.isPull() {
		meterOf(ctx)(0, 1)
	}
	var e *Error
	if errors.As(err, &e) && e.Class == oci.ErrLimited {
		u.limits.remember(q, e)
	}
	switch {
	case a == nil:
		end()
		return err
	case a.refusal != nil || q.method == http.MethodHead:
		end()
		a.Body = http.NoBody
	default:
		a.Body = u.newStream(rctx, cancel, a, end)
	}
	if err != nil && (q.tolerates == nil || !q.tolerates(a.StatusCode)) {
		_ = a.Body.Close() // of an answer that nobody reads
		return err
	}
	return use(a)
}

// silent makes a caller's deadline the endpoint's fault where that had said
// nothing for as long as a connection may take: an upstream that hangs would
// else never be found down by callers less patient than our own timeouts. A
// caller who left is another matter, and so is one who wakes up long after the
// deadline: the process stood still.
func silent(ctx context.Context, err error, took time.Duration) error {
	var e *Error
	if d, ok := ctx.Deadline(); ok && time.Since(d) > time.Second {
		return err
	}
	if took < silence || !errors.As(err, &e) || e.fault != faultNone || e.Class != oci.ErrUnavailable || !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	hung := *e
	hung.fault = faultLasting
	return &hung
}

// ask gets the endpoint's final answer: a 401 is answered once or twice, an
// expired redirect renewed once.
func (u *Upstream) ask(ctx context.Context, q *query, ep *endpoint) (*answer, error) {
	if a := u.revisit(ctx, q, ep); a != nil {
		return a, nil
	}
	renewed := false
	for tries := 1; ; tries++ {
		p, err := u.auth.pass(ctx, ep, q.Name)
		if err != nil {
			return nil, wrapTransport(ctx, ep.base.Host, false, err)
		}
		a, err := u.follow(ctx, q, ep, p)
		if err != nil {
			return nil, err
		}
		if a.StatusCode >= 400 {
			a.refusal = readSome(a.Response, errorBody)
		}
		again := false
		switch {
		case tries == maxAsks:
		case urlExpired(a):
			again, renewed = !renewed, true
		case a.away:
		case a.StatusCode == http.StatusUnauthorized, a.StatusCode == http.StatusForbidden && saysExpired(a.refusal):
			again, err = u.auth.refused(ctx, ep, q.Name, a.Response, p)
		case p.private && p.token == nil:
			u.auth.account.works(p.gen)
		}
		if err != nil {
			return nil, wrapTransport(ctx, ep.base.Host, false, err)
		}
		if !again {
			return a, nil
		}
	}
}

// errorBody is how much of an error's body is looked at.
const errorBody = 4 << 10

// admit chooses the endpoint for the next try. Where every breaker is open, or the
// others lack what is asked for, a first try waits a little: for the moment of the
// next probe, or for the outcome of the one under way; a retry, or a query that is
// to fail at once, does not.
func (u *Upstream) admit(ctx context.Context, c *call) (*endpoint, error) {
	if ep := u.pick(c); ep != nil {
		return ep, nil
	}
	if c.last != nil && !errors.Is(c.last, oci.ErrNotFound) {
		return nil, c.last
	}
	_, seen, _ := u.news.state()
	if c.q.atOnce {
		return nil, u.down()
	}
	limit := time.NewTimer(patience)
	defer limit.Stop()
	for extended := false; ; {
		changed, failed, _ := u.news.state()
		if failed != seen {
			return nil, u.down()
		}
		if ep := u.pick(c); ep != nil {
			return ep, nil
		}
		probe := time.NewTimer(u.untilProbe())
		select {
		case <-changed:
		case <-probe.C:
		case <-limit.C:
			if extended || !u.probing() {
				probe.Stop()
				return nil, u.down()
			}
			extended = true // a probe's outcome is near: new connections take some round trips
			limit.Reset(patience)
		case <-ctx.Done():
			probe.Stop()
			return nil, ended(ctx, "")
		case <-u.flights.ctx.Done():
			probe.Stop()
			return nil, ended(u.flights.ctx, "")
		}
		probe.Stop()
	}
}

// probing tells whether somebody is finding out if upstream is back.
func (u *Upstream) probing() bool {
	for _, ep := range u.endpoints {
		if ep.breaker.State() == gobreaker.StateHalfOpen {
			return true
		}
	}
	return false
}

// pick gives the first endpoint that may be asked: marked ones last, those of
// this call that failed already after those that it has not seen, none that lacks
// what is asked for.
func (u *Upstream) pick(c *call) *endpoint {
	var seen []*endpoint
	for _, ep := range u.order() {
		if c.visits[ep] != nil {
			seen = append(seen, ep)
			continue
		}
		done, err := ep.breaker.Allow()
		if err != nil {
			continue
		}
		c.visits[ep] = &visit{done: done, probe: ep.breaker.State() == gobreaker.StateHalfOpen}
		return ep
	}
	for _, ep := range seen {
		if v := c.visits[ep]; !v.probe && !v.lacks && ep.healthy() {
			return ep
		}
	}
	return nil
}

// order lists the endpoints as configured, the marked ones behind: of two of these
// first the one whose mark ends first, so that who sends wrong bytes is not asked
// again as long as another one only failed.
func (u *Upstream) order() []*endpoint {
	if len(u.endpoints) == 1 {
		return u.endpoints
	}
	marks := make(map[*endpoint]time.Time, len(u.endpoints))
	for _, ep := range u.endpoints {
		marks[ep] = ep.mark()
	}
	order := slices.Clone(u.endpoints)
	slices.SortStableFunc(order, func(a, b *endpoint) int { return marks[a].Compare(marks[b]) })
	return order
}

// untilProbe is when the next of the open breakers lets somebody through.
func (u *Upstream) untilProbe() time.Duration {
	soonest := patience
	for _, ep := range u.endpoints {
		if d, ok := ep.untilProbe(); ok {
			soonest = min(soonest, d)
		}
	}
	return soonest
}
