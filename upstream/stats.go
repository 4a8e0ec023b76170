package upstream

import (
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"cistern/internal/hist"
	"cistern/internal/oci"
)

// RequestKey groups requests sent upstream. Token requests are KindOther.
type RequestKey struct {
	Kind oci.Kind
	Code int // HTTP status; 0: no answer. Codes that HTTP does not name count as the first of their hundred
}

// EndpointStats is one endpoint at a moment.
type EndpointStats struct {
	Host        string
	Up          bool // its breaker is closed
	Marked      bool // it goes last for a while
	LastError   string
	LastErrorAt time.Time // zero: never
}

// Stats is an upstream at a moment. Counters only grow.
type Stats struct {
	Name                          string
	Up                            bool                       // as Healthy
	Requests                      map[RequestKey]uint64      // every round trip, redirects' and tokens' included
	Seconds                       map[oci.Kind]hist.Snapshot // from a request to its response header
	Received                      uint64                     // body bytes read
	RateLimitKnown                bool                       // upstream sent the two that follow (P 4.12)
	RateLimit, RateLimitRemaining int64                      // of its current window
	VerifyFailures                uint64                     // bodies and manifests with a wrong digest
	ConnectionsActive             int64                      // open now, idle ones included
	ConnectionsOpened             uint64                     // since the start
	Endpoints                     []EndpointStats
}

// counters are what Stats is read from.
type counters struct {
	received, verify, opened atomic.Uint64
	active                   atomic.Int64
	seconds                  map[oci.Kind]*hist.Histogram

	mu               sync.Mutex // guards what follows
	requests         map[RequestKey]uint64
	limit, remaining int64
	limitKnown       bool
}

func newCounters() *counters {
	c := &counters{requests: map[RequestKey]uint64{}, seconds: map[oci.Kind]*hist.Histogram{}}
	for _, k := range oci.Kinds() {
		c.seconds[k] = hist.Latency()
	}
	return c
}

// answered counts a round trip; resp is nil where there was no answer.
func (c *counters) answered(kind oci.Kind, resp *http.Response, took time.Duration) {
	c.seconds[kind].Observe(took.Seconds())
	key := RequestKey{Kind: kind}
	if resp != nil {
		key.Code = knownCode(resp.StatusCode)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests[key]++
}

// knownCode keeps the label's values a closed set, whatever upstream sends.
func knownCode(code int) int {
	if http.StatusText(code) != "" {
		return code
	}
	return min(max(code/100, 1), 5) * 100
}

// quota notes Docker Hub's headers, where both are there and sane.
func (c *counters) quota(h http.Header) {
	limit, okL := parseRateLimit(h.Get("Ratelimit-Limit"))
	remaining, okR := parseRateLimit(h.Get("Ratelimit-Remaining"))
	if !okL || !okR {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limit, c.remaining, c.limitKnown = limit, remaining, true
}

// Stats gives the counters. It allocates; ask a few times a minute.
func (u *Upstream) Stats() Stats {
	c := u.counts
	s := Stats{
		Name: u.name, Up: u.Healthy(), Requests: map[RequestKey]uint64{}, Seconds: map[oci.Kind]hist.Snapshot{},
		Received: c.received.Load(), VerifyFailures: c.verify.Load(),
		ConnectionsActive: c.active.Load(), ConnectionsOpened: c.opened.Load(),
	}
	for k, h := range c.seconds {
		s.Seconds[k] = h.Snapshot()
	}
	for _, ep := range u.endpoints {
		s.Endpoints = append(s.Endpoints, ep.stats())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for k, n := range c.requests {
		s.Requests[k] = n
	}
	s.RateLimit, s.RateLimitRemaining, s.RateLimitKnown = c.limit, c.remaining, c.limitKnown
	return s
}
