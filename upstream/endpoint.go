package upstream

import (
	"errors"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"
)

const (
	// probeAfter is how long a breaker stays open: so short that an upstream
	// that is back is found at once, as it may be the only one.
	probeAfter = 500 * time.Millisecond
	// faultMark and blameMark are how long an endpoint goes last after faults
	// in a row, and after a wrong digest.
	faultMark   = 30 * time.Second
	blameMark   = 2 * time.Minute
	faultsInRow = 2
)

// Outcomes that a breaker is told, beside nil for an answer.
var (
	errDown    = errors.New("unavailable")
	errNothing = errors.New("no outcome") // the caller left, or another endpoint answered
)

// endpoint is one base URL with what is known of it.
type endpoint struct {
	base      *url.URL
	breaker   *gobreaker.TwoStepCircuitBreaker[struct{}]
	challenge atomic.Pointer[challenge] // the last one it gave
	headless  atomic.Bool               // answers HEAD of a blob with a refusal, and GET not (P 4.34)
	now       func() time.Time

	mu        sync.Mutex // guards what follows
	openedAt  time.Time  // of the breaker
	faults    int        // in a row
	marked    time.Time  // goes last until then
	lastError string
	lastAt    time.Time
}

func newEndpoint(base *url.URL) *endpoint {
	ep := &endpoint{base: base, now: time.Now}
	ep.breaker = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		Name:        base.Host,
		MaxRequests: 1,
		Timeout:     probeAfter,
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= 1 },
		IsExcluded:  func(err error) bool { return errors.Is(err, errNothing) },
		OnStateChange: func(_ string, _, to gobreaker.State) {
			if to == gobreaker.StateOpen {
				ep.opened()
			}
		},
	})
	return ep
}

// opened runs under the breaker's lock; ep.mu is always taken inside it.
func (ep *endpoint) opened() {
	ep.mu.Lock()
	defer ep.mu.Unlock()
	ep.openedAt = ep.now()
}

func (ep *endpoint) healthy() bool { return ep.breaker.State() == gobreaker.StateClosed }

// untilProbe is how long until an open breaker lets a probe through; false if
// it is not open.
func (ep *endpoint) untilProbe() (time.Duration, bool) {
	if ep.breaker.State() != gobreaker.StateOpen {
		return 0, false
	}
	ep.mu.Lock()
	defer ep.mu.Unlock()
	return max(ep.openedAt.Add(probeAfter).Sub(ep.now()), 0) + time.Millisecond, true
}

// mark is until when the endpoint is to be tried after the others; zero: it is not.
func (ep *endpoint) mark() time.Time {
	ep.mu.Lock()
	defer ep.mu.Unlock()
	if !ep.now().Before(ep.marked) {
		return time.Time{}
	}
	return ep.marked
}

// works ends a row of faults.
func (ep *endpoint) works() {
	ep.mu.Lock()
	defer ep.mu.Unlock()
	ep.faults = 0
}

// faulty counts a fault; faults in a row make the endpoint go last.
func (ep *endpoint) faulty(err error) {
	ep.mu.Lock()
	defer ep.mu.Unlock()
	ep.faults++
	if ep.faults >= faultsInRow {
		ep.markLocked(faultMark)
	}
	ep.noteLocked(err.Error())
}

// blame makes the endpoint go last at once.
func (ep *endpoint) blame(what string) {
	ep.mu.Lock()
	defer ep.mu.Unlock()
	ep.markLocked(blameMark)
	ep.noteLocked(what)
}

// note keeps an error for the status display.
func (ep *endpoint) note(err error) {
	ep.mu.Lock()
	defer ep.mu.Unlock()
	ep.noteLocked(err.Error())
}

func (ep *endpoint) markLocked(d time.Duration) {
	if t := ep.now().Add(d); t.After(ep.marked) {
		ep.marked = t
	}
}

func (ep *endpoint) noteLocked(text string) { ep.lastError, ep.lastAt = text, ep.now() }

func (ep *endpoint) stats() EndpointStats {
	up := ep.healthy()
	ep.mu.Lock()
	defer ep.mu.Unlock()
	return EndpointStats{Host: ep.base.Host, Up: up, Marked: ep.now().Before(ep.marked), LastError: ep.lastError, LastErrorAt: ep.lastAt}
}
