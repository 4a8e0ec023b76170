package metric

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"cistern/cache"
	"cistern/internal/listener"
	"cistern/proxy"
	"cistern/upstream"
)

// Sources are asked at each scrape, maybe by several at once. All are needed.
type Sources struct {
	Proxy     func() proxy.Stats
	Cache     func() cache.Stats
	Listener  func() listener.Stats
	Upstreams func() []upstream.Stats
	// Version and Revision label cistern_build_info.
	Version, Revision string
}

// Registry makes the registry of one daemon: its own series, and those of the
// Go runtime and of the process.
func Registry(s Sources) *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(
		&collector{s: s, descs: newDescs()},
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return r
}

// Handler answers scrapes of r.
func Handler(r *prometheus.Registry) http.Handler {
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{
		// Two at once are a person beside Prometheus; more are a mistake.
		MaxRequestsInFlight: 4,
		// A figure that contradicts itself must not take the others along.
		ErrorHandling: promhttp.ContinueOnError,
	})
}
