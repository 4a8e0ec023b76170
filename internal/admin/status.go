package admin

import (
	"slices"

	"cistern/internal/oci"
	"cistern/proxy"
	"cistern/upstream"
)

// status puts together how the daemon fares.
func (h *Handler) status() Status {
	p, c, l := h.o.Registry.Stats(), h.o.Cache.Stats(), h.o.Listener.Stats()
	s := Status{
		Version: h.o.Version, Started: h.started, Listen: h.o.Listener.Addr().String(),
		Cache: CacheStatus{
			Dir: h.o.CacheDir, Bytes: c.Bytes, Reserved: c.Reserved, Limit: c.Limit, Blobs: c.Blobs,
			EvictedBytes: c.EvictedBytes, EvictedBlobs: c.EvictedBlobs, FillsInFlight: c.FillsInFlight,
			FlightReaders: c.FlightReaders, ResumedBytes: c.ResumedBytes, Degraded: c.Degraded,
			Damaged: c.Damaged, Scrub: ScrubStatus(c.Scrub),
		},
		Pulls:       pulls(p),
		Clients:     p.Clients,
		Savings:     h.o.Savings().Summary(),
		Connections: ConnectionStatus{Open: l.Connections, Limit: l.Limit, Refused: l.Refused},
		Upstreams:   h.upstreams(),
	}
	if r := c.Rebuild; r.Running {
		s.Cache.Rebuild = &RebuildStatus{Files: r.Files, Hashed: r.Hashed, Damaged: r.Damaged}
	}
	if !p.LastPull.IsZero() {
		s.LastPull = &p.LastPull
	}
	for _, u := range s.Upstreams {
		s.Pulls.ReceivedBytes += u.ReceivedBytes
	}
	if err := h.readiness(); err != nil {
		s.NotReady = err.Error()
	}
	s.Ready = s.NotReady == ""
	return s
}

// pulls sums manifests and blobs by outcome.
func pulls(p proxy.Stats) PullStatus {
	s := PullStatus{Requests: map[string]uint64{}, SentBytes: map[string]uint64{}}
	for _, r := range p.Requests {
		if isPull(r.Kind) {
			s.Requests[r.Outcome] += r.N
		}
	}
	for _, b := range p.Sent {
		if isPull(b.Kind) {
			s.SentBytes[b.Outcome] += b.Bytes
		}
	}
	return s
}

func isPull(kind string) bool {
	return kind == oci.KindManifest.String() || kind == oci.KindBlob.String()
}

// upstreams lists the registries in the order of the configuration.
func (h *Handler) upstreams() []Upstream {
	out := make([]Upstream, 0, len(h.o.Upstreams))
	for _, u := range h.o.Upstreams {
		s := u.Stats()
		shown := Upstream{
			Name: s.Name, Default: s.Name == h.o.Default, Up: s.Up, Account: u.HasCredentials(),
			ReceivedBytes: s.Received, Endpoints: endpoints(s.Endpoints),
		}
		for key, n := range s.Requests {
			shown.Requests += n
			if failed(key) {
				shown.Failures += n
			}
		}
		if s.RateLimitKnown {
			shown.RateLimit = &RateLimit{Limit: s.RateLimit, Remaining: s.RateLimitRemaining}
		}
		out = append(out, shown)
	}
	return out
}

func failed(k upstream.RequestKey) bool { return k.Code == 0 || k.Code == 429 || k.Code >= 500 }

func endpoints(stats []upstream.EndpointStats) []Endpoint {
	out := make([]Endpoint, len(stats))
	for i, e := range stats {
		out[i] = Endpoint{Host: e.Host, Up: e.Up && !e.Marked, LastError: e.LastError}
		if !e.LastErrorAt.IsZero() {
			out[i].LastErrorAt = &e.LastErrorAt
		}
	}
	return out
}

// clients lists who has pulled, the last seen first.
func (h *Handler) clients() []proxy.Client {
	list := h.o.Registry.Clients()
	slices.SortStableFunc(list, func(a, b proxy.Client) int { return b.Last.Compare(a.Last) })
	if list == nil {
		list = []proxy.Client{} // [] rather than null for readers of the JSON
	}
	return list
}
