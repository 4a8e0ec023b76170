package metric

import (
	"maps"
	"net/http"
	"runtime"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"cistern/cache"
	"cistern/internal/hist"
	"cistern/internal/oci"
	"cistern/proxy"
	"cistern/upstream"
)

// collector reads the sources at each scrape. It holds no figure.
type collector struct {
	s     Sources
	descs descs
}

// out sends one scrape's figures.
type out chan<- prometheus.Metric

func (o out) counter(d *prometheus.Desc, v float64, labels ...string) {
	o <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
}

func (o out) gauge(d *prometheus.Desc, v float64, labels ...string) {
	o <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (o out) histogram(d *prometheus.Desc, h hist.Snapshot, labels ...string) {
	buckets := make(map[float64]uint64, len(h.Bounds))
	for i, b := range h.Bounds {
		buckets[b] = h.Counts[i]
	}
	o <- prometheus.MustNewConstHistogram(d, h.Count, h.Sum, buckets, labels...)
}

// Describe sends nothing: series come and go with codes, and an unchecked
// collector is still checked for contradictions when it collects.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

// Collect reads and sends everything.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	ups := c.s.Upstreams()
	names := make([]string, len(ups))
	for i, u := range ups {
		names[i] = u.Name
	}
	c.proxy(ch, names)
	c.cache(ch, ups)
	c.listener(ch)
	for _, u := range ups {
		c.upstream(ch, u)
	}
	out(ch).gauge(c.descs.build, 1, c.s.Version, c.s.Revision, runtime.Version())
}

type requestKey struct {
	kind, upstream, outcome string
	code                    int
}

// proxy sends what the registry face counted, and 0 for the series that could
// be foreseen: an alert on a series that does not exist yet never fires.
func (c *collector) proxy(ch out, upstreams []string) {
	s := c.s.Proxy()
	requests, sent := map[requestKey]uint64{}, map[requestKey]uint64{}
	for _, k := range oci.Kinds() {
		for _, u := range upstreamsOf(k, upstreams) {
			for _, o := range cache.Outcomes() {
				key := requestKey{kind: k.String(), upstream: u, outcome: o.String()}
				sent[key] = 0
				key.code = http.StatusOK
				requests[key] = 0
			}
		}
	}
	for _, r := range s.Requests {
		requests[requestKey{r.Kind, r.Upstream, r.Outcome, r.Code}] += r.N
	}
	for _, b := range s.Sent {
		sent[requestKey{kind: b.Kind, upstream: b.Upstream, outcome: b.Outcome}] += b.Bytes
	}
	for k, n := range requests {
		ch.counter(c.descs.requests, float64(n), k.kind, k.upstream, k.outcome, strconv.Itoa(k.code))
	}
	for k, n := range sent {
		ch.counter(c.descs.sent, float64(n), k.kind, k.upstream, k.outcome)
	}
	c.firstByte(ch, s.FirstByte)
	ch.gauge(c.descs.lastPull, timestamp(s.LastPull))
	ch.gauge(c.descs.clients, float64(s.Clients))
}

// timestamp is a time in seconds; 0 for none.
func timestamp(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}

// upstreamsOf are the values that go with a kind: pings and strange requests
// are for no upstream.
func upstreamsOf(k oci.Kind, upstreams []string) []string {
	if k == oci.KindPing || k == oci.KindOther {
		return []string{""}
	}
	return upstreams
}

func (c *collector) firstByte(ch out, counted []proxy.FirstByte) {
	type key struct{ kind, outcome string }
	all := map[key]hist.Snapshot{}
	for _, k := range oci.Kinds() {
		for _, o := range cache.Outcomes() {
			all[key{k.String(), o.String()}] = hist.Latency().Snapshot()
		}
	}
	for _, f := range counted {
		all[key{f.Kind, f.Outcome}] = f.Seconds
	}
	for k, h := range all {
		ch.histogram(c.descs.requestSeconds, h, k.kind, k.outcome)
	}
}

func (c *collector) cache(ch out, ups []upstream.Stats) {
	s, d := c.s.Cache(), c.descs
	ch.gauge(d.bytes, float64(s.Bytes))
	ch.gauge(d.reserved, float64(s.Reserved))
	ch.gauge(d.limit, float64(s.Limit))
	ch.gauge(d.blobs, float64(s.Blobs))
	ch.gauge(d.degraded, boolean(s.Degraded != ""))
	ch.counter(d.evictedBytes, float64(s.EvictedBytes))
	ch.counter(d.evictedBlobs, float64(s.EvictedBlobs))
	ch.gauge(d.evictAge, s.EvictedAge)
	ch.gauge(d.fills, float64(s.FillsInFlight))
	ch.gauge(d.readers, float64(s.FlightReaders))
	ch.counter(d.resumed, float64(s.ResumedBytes))
	ch.counter(d.unverified, float64(s.UnverifiedSent))
	ch.counter(d.unbacked, float64(s.Unbacked))
	ch.counter(d.checkpoints, float64(s.Checkpoints))
	ch.counter(d.mended, float64(s.Mended))
	ch.counter(d.damaged, float64(s.Damaged))
	ch.counter(d.stalled, float64(s.Stalled))
	ch.counter(d.panics, float64(s.Panics))
	ch.counter(d.syncs, float64(s.Syncs))
	ch.counter(d.commits, float64(s.Commits))
	ch.gauge(d.evictedOpen, float64(s.EvictedOpen))
	ch.gauge(d.rebuilding, boolean(s.Rebuild.Running))
	ch.gauge(d.rebuildFiles, float64(s.Rebuild.Files))
	ch.gauge(d.rebuildHashed, float64(s.Rebuild.Hashed))
	ch.gauge(d.rebuildDamaged, float64(s.Rebuild.Damaged))
	ch.counter(d.scrubbed, float64(s.Scrub.Bytes))
	ch.gauge(d.scrubEnded, timestamp(s.Scrub.Ended))
	c.failures(ch, s, ups)
	for _, u := range ups {
		ch.counter(d.held, s.Held[u.Name], u.Name)
		ch.counter(d.rangeAsked, float64(s.RangeAsked[u.Name]), u.Name)
		ch.counter(d.rangeFetched, float64(s.RangeFetched[u.Name]), u.Name)
	}
}

// failures are those of upstreams that the cache has seen.
func (c *collector) failures(ch out, s cache.Stats, ups []upstream.Stats) {
	d := c.descs
	// Manifests are verified by upstream, blobs by cache, which tells upstream:
	// the same failures, counted in two places.
	verify, stale := map[string]uint64{}, map[string]uint64{}
	for _, u := range ups {
		verify[u.Name], stale[u.Name] = u.VerifyFailures, 0
	}
	maps.Copy(stale, s.StaleServed)
	for name, n := range s.VerifyFailures {
		verify[name] = max(verify[name], n)
	}
	for name, n := range verify {
		ch.counter(d.verify, float64(n), name)
	}
	for name, n := range stale {
		ch.counter(d.stale, float64(n), name)
	}
}

func (c *collector) listener(ch out) {
	s := c.s.Listener()
	ch.gauge(c.descs.connections, float64(s.Connections))
	ch.gauge(c.descs.connLimit, float64(s.Limit))
	ch.counter(c.descs.connRefused, float64(s.Refused))
	ch.counter(c.descs.connEvicted, float64(s.Evicted))
}

func (c *collector) upstream(ch out, u upstream.Stats) {
	d := c.descs
	requests := map[upstream.RequestKey]uint64{}
	for _, k := range oci.Kinds() {
		if k != oci.KindPing { // upstream is never pinged
			requests[upstream.RequestKey{Kind: k, Code: http.StatusOK}] = 0
		}
	}
	maps.Copy(requests, u.Requests)
	for k, n := range requests {
		ch.counter(d.upRequests, float64(n), u.Name, k.Kind.String(), strconv.Itoa(k.Code))
	}
	for k, h := range u.Seconds {
		if k == oci.KindPing && h.Count == 0 {
			continue
		}
		ch.histogram(d.upSeconds, h, u.Name, k.String())
	}
	ch.counter(d.upReceived, float64(u.Received), u.Name)
	ch.gauge(d.up, boolean(u.Up), u.Name)
	ch.gauge(d.upConnections, float64(u.ConnectionsActive), u.Name)
	if u.RateLimitKnown {
		ch.gauge(d.rateLimit, float64(u.RateLimit), u.Name)
		ch.gauge(d.rateRemaining, float64(u.RateLimitRemaining), u.Name)
	}
}

func boolean(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
