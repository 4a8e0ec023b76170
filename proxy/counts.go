package proxy

import (
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"cistern/cache"
	"cistern/internal/hist"
	"cistern/internal/oci"
	"cistern/proxy/savings"
)

// codes are the statuses that are counted apart; any other counts as 500.
var codes = [...]int{200, 206, 304, 400, 401, 403, 404, 405, 412, 416, 429, statusClientGone, 500, 502, 503, 504}

const (
	kinds    = 6
	outcomes = 6
)

// counts are plain atomics in arrays, so that counting a request costs neither
// a lock nor a look-up of labels.
type counts struct {
	names    []string // of upstreams; the last is "" for requests that name none
	requests [][kinds][outcomes][len(codes)]atomic.Uint64
	sent     [][kinds][outcomes]atomic.Uint64
	seconds  [kinds][outcomes]*hist.Histogram
	lastPull atomic.Int64 // unix nanoseconds
}

func newCounts(ups []Upstream) *counts {
	n := len(ups) + 1
	c := &counts{
		names:    make([]string, n),
		requests: make([][kinds][outcomes][len(codes)]atomic.Uint64, n),
		sent:     make([][kinds][outcomes]atomic.Uint64, n),
	}
	for i, u := range ups {
		c.names[i] = u.Client.Name()
	}
	for k := range kinds {
		for o := range outcomes {
			c.seconds[k][o] = hist.Latency()
		}
	}
	return c
}

func (c *counts) observe(x *exchange) {
	u, k, o := x.target.index, x.req.Kind, x.outcome
	code := slices.Index(codes[:], x.w.status)
	if code < 0 {
		code = slices.Index(codes[:], 500)
	}
	c.requests[u][k][o][code].Add(1)
	c.sent[u][k][o].Add(uint64(x.w.bytes))
	if first := x.w.first; !first.IsZero() {
		c.seconds[k][o].Observe(first.Sub(x.start).Seconds())
	}
	if x.pulled() {
		c.lastPull.Store(x.start.UnixNano())
	}
}

// pulled tells whether the client got a manifest or a blob.
func (x *exchange) pulled() bool {
	return (x.req.Kind == oci.KindManifest || x.req.Kind == oci.KindBlob) && x.outcome != cache.OutcomeError
}

// saved puts down what the client got, errors aside. A tag that is known, by upstream's
// word or by what is kept of it, is proof of its repository; a digest is none: what is
// public is served under any name.
func (x *exchange) saved() {
	if x.target.up == nil || x.outcome == cache.OutcomeError {
		return
	}
	t, manifest := savings.Tally{Sent: uint64(x.w.bytes)}, x.req.Kind == oci.KindManifest
	if manifest && x.r.Method == http.MethodGet {
		t.Asked = 1
	}
	x.target.book.Add(x.target.up.Client.Name(), x.target.repo, manifest && x.req.Tag != "", t)
}

// Stats reads the counts. Of series whose labels are known from the start,
// those with code 200 are there at 0.
func (h *Handler) Stats() Stats {
	c := h.counts
	s := Stats{Clients: h.clients.len()}
	for u, name := range c.names {
		for _, k := range oci.Kinds() {
			for _, o := range cache.Outcomes() {
				for i, code := range codes {
					if n := c.requests[u][k][o][i].Load(); n > 0 || code == 200 && name != "" && o != cache.OutcomeError {
						s.Requests = append(s.Requests, RequestCount{k.String(), name, o.String(), code, n})
					}
				}
				if n := c.sent[u][k][o].Load(); n > 0 || name != "" {
					s.Sent = append(s.Sent, SentCount{k.String(), name, o.String(), n})
				}
			}
		}
	}
	for _, k := range oci.Kinds() {
		for _, o := range cache.Outcomes() {
			s.FirstByte = append(s.FirstByte, FirstByte{k.String(), o.String(), c.seconds[k][o].Snapshot()})
		}
	}
	if at := c.lastPull.Load(); at > 0 {
		s.LastPull = time.Unix(0, at)
	}
	return s
}
