package metric

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"cistern/cache"
	"cistern/internal/hist"
	"cistern/internal/listener"
	"cistern/internal/oci"
	"cistern/proxy"
	"cistern/upstream"
)

// sources of a daemon that has served a little.
func sources() Sources {
	first := hist.Latency()
	first.Observe(0.02)
	return Sources{
		Proxy: func() proxy.Stats {
			return proxy.Stats{
				Requests: []proxy.RequestCount{
					{Kind: "blob", Upstream: "docker.io", Outcome: "hit", Code: 200, N: 7},
					{Kind: "blob", Upstream: "docker.io", Outcome: "error", Code: 404, N: 2},
					{Kind: "manifest", Outcome: "error", Code: 404, N: 1}, // an unknown upstream
				},
				Sent:      []proxy.SentCount{{Kind: "blob", Upstream: "docker.io", Outcome: "hit", Bytes: 4096}},
				FirstByte: []proxy.FirstByte{{Kind: "blob", Outcome: "hit", Seconds: first.Snapshot()}},
				LastPull:  time.UnixMilli(1_700_000_000_500),
				Clients:   3,
			}
		},
		Cache: func() cache.Stats {
			return cache.Stats{Bytes: 10, Limit: 100, Blobs: 2, Degraded: "full", Scrub: cache.Scrub{Bytes: 77, Ended: time.Unix(1_700_000_000, 0)}, StaleServed: map[string]uint64{"docker.io": 5},
				RangeAsked: map[string]uint64{"docker.io": 64}, RangeFetched: map[string]uint64{"docker.io": 1 << 20}, Held: map[string]float64{"docker.io": 1.5}}
		},
		Listener: func() listener.Stats { return listener.Stats{Connections: 4, Limit: 384} },
		Upstreams: func() []upstream.Stats {
			return []upstream.Stats{
				{Name: "docker.io", Up: true, Received: 99, RateLimitKnown: true, RateLimit: 100, RateLimitRemaining: 42,
					Requests: map[upstream.RequestKey]uint64{{Kind: oci.KindBlob, Code: 0}: 1}, VerifyFailures: 1},
				{Name: "ghcr.io"},
			}
		},
		Version: "v1", Revision: "abc",
	}
}

func TestNamesAndValues(t *testing.T) {
	t.Parallel()
	want := `
		cistern_requests_total{code="200",kind="blob",outcome="hit",upstream="docker.io"} 7
		cistern_requests_total{code="404",kind="blob",outcome="error",upstream="docker.io"} 2
		cistern_requests_total{code="404",kind="manifest",outcome="error",upstream=""} 1
		cistern_requests_total{code="200",kind="referrers",outcome="stale",upstream="ghcr.io"} 0
		cistern_requests_total{code="200",kind="ping",outcome="hit",upstream=""} 0
		cistern_request_seconds_bucket{kind="blob",outcome="hit",le="0.025"} 1
		cistern_request_seconds_count{kind="manifest",outcome="miss"} 0
		cistern_sent_bytes_total{kind="blob",outcome="hit",upstream="docker.io"} 4096
		cistern_sent_bytes_total{kind="manifest",outcome="miss",upstream="ghcr.io"} 0
		cistern_upstream_requests_total{code="0",kind="blob",upstream="docker.io"} 1
		cistern_upstream_requests_total{code="200",kind="manifest",upstream="ghcr.io"} 0
		cistern_upstream_received_bytes_total{upstream="docker.io"} 99
		cistern_upstream_up{upstream="docker.io"} 1
		cistern_upstream_up{upstream="ghcr.io"} 0
		cistern_ratelimit_limit{upstream="docker.io"} 100
		cistern_ratelimit_remaining{upstream="docker.io"} 42
		cistern_cache_bytes 10
		cistern_cache_limit_bytes 100
		cistern_cache_blobs 2
		cistern_cache_degraded 1
		cistern_evicted_bytes_total 0
		cistern_evicted_blobs_total 0
		cistern_evicted_age_seconds 0
		cistern_fills_in_flight 0
		cistern_flight_readers 0
		cistern_fill_resumed_bytes_total 0
		cistern_range_asked_bytes_total{upstream="docker.io"} 64
		cistern_range_asked_bytes_total{upstream="ghcr.io"} 0
		cistern_range_fetched_bytes_total{upstream="docker.io"} 1.048576e+06
		cistern_range_fetched_bytes_total{upstream="ghcr.io"} 0
		cistern_rate_wait_seconds_total{upstream="docker.io"} 1.5
		cistern_rate_wait_seconds_total{upstream="ghcr.io"} 0
		cistern_unverified_sent_bytes_total 0
		cistern_verify_failures_total{upstream="docker.io"} 1
		cistern_verify_failures_total{upstream="ghcr.io"} 0
		cistern_stale_served_total{upstream="docker.io"} 5
		cistern_stale_served_total{upstream="ghcr.io"} 0
		cistern_last_pull_timestamp_seconds 1.7000000005e+09
		cistern_clients_seen 3
		cistern_scrubbed_bytes_total 77
		cistern_scrub_ended_timestamp_seconds 1.7e+09
		cistern_connections 4
		cistern_connections_limit 384
		cistern_build_info{goversion=
		go_goroutines
		process_open_fds`
	got := scrape(t, Registry(sources()))
	for line := range strings.Lines(want) {
		if line = strings.TrimSpace(line); line != "" && !strings.Contains(got, "\n"+line) {
			t.Errorf("missing: %s", line)
		}
	}
	if strings.Contains(got, `cistern_ratelimit_limit{upstream="ghcr.io"}`) {
		t.Error("a rate limit that nobody stated is exported")
	}
}

func TestLint(t *testing.T) {
	t.Parallel()
	problems, err := testutil.GatherAndLint(Registry(sources()))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func TestTwoDaemonsInOneProcess(t *testing.T) {
	t.Parallel()
	a, b := Registry(sources()), Registry(sources())
	n, err := testutil.GatherAndCount(a)
	if err != nil {
		t.Fatal(err)
	}
	m, err := testutil.GatherAndCount(b)
	if err != nil {
		t.Fatal(err)
	}
	// The runtime's own series may differ by what has happened between the two.
	if n < 150 || m < 150 {
		t.Errorf("%d and %d series", n, m)
	}
}

func scrape(t *testing.T, r *prometheus.Registry) string {
	t.Helper()
	srv := httptest.NewServer(Handler(r))
	defer srv.Close()
	resp, err := http.Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status, err)
	}
	return string(b)
}
