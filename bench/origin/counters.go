package origin

import (
	"maps"
	"net/http"
	"sync"
	"sync/atomic"
)

// Counters are what a registry's owner would see of the clients, since the start
// or the last reset. All are totals.
type Counters struct {
	// Connections that carried a request, to registry and CDN together; those kept
	// open since before a reset count once more when they are used again.
	Connections int64 `json:"connections"`
	// SentBytes were written to connections, headers included.
	SentBytes int64 `json:"sent_bytes"`
	// Requests by method and kind: "GET blob", "HEAD manifest", "GET token".
	Requests map[string]int64 `json:"requests"`
	// Bodies is how many GETs of blobs were answered with a body, whole or in part.
	Bodies int64 `json:"bodies"`
	// BlobBytes is how much of those bodies was handed to the connection; a body
	// that was broken off counts as far as it went.
	BlobBytes int64 `json:"blob_bytes"`
	// Ranges is how many requests carried a Range header.
	Ranges int64 `json:"ranges"`
	// ForeignAuth is how many requests to the CDN carried an Authorization that
	// was none of its business.
	ForeignAuth int64 `json:"foreign_auth"`
	// Active is how many requests are being answered now; a reset leaves it alone.
	Active int64 `json:"active"`
	// Faults is how many requests met one.
	Faults int64 `json:"faults"`
}

type counting struct {
	bodies, blobBytes, ranges, foreign, active atomic.Int64

	mu       sync.Mutex
	requests map[string]int64 // guarded by mu
}

func newCounting() *counting { return &counting{requests: map[string]int64{}} }

func (c *counting) request(r *http.Request, req request) {
	if r.Header.Get("Range") != "" {
		c.ranges.Add(1)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests[r.Method+" "+req.kind]++
}

func (c *counting) reset() {
	for _, n := range []*atomic.Int64{&c.bodies, &c.blobBytes, &c.ranges, &c.foreign} {
		n.Store(0)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests = map[string]int64{}
}

// Counters returns the totals since the start or the last [Server.ResetCounters].
func (s *Server) Counters() Counters {
	s.count.mu.Lock()
	requests := maps.Clone(s.count.requests)
	s.count.mu.Unlock()
	return Counters{
		Connections: s.link.Used(), SentBytes: s.link.Sent(), Requests: requests,
		Bodies: s.count.bodies.Load(), BlobBytes: s.count.blobBytes.Load(), Ranges: s.count.ranges.Load(),
		ForeignAuth: s.count.foreign.Load(), Active: s.count.active.Load(), Faults: s.faults.met.Load(),
	}
}

// ResetCounters sets all counters to zero.
func (s *Server) ResetCounters() {
	s.link.Reset()
	s.count.reset()
	s.faults.met.Store(0)
}
