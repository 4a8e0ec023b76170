package peer_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"cistern/bench/peer"
)

func TestMetric(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close")
		_, _ = io.WriteString(w, `# TYPE cistern_blobs gauge
cistern_blobs 1.5e+06
cistern_blobs_total 7
cistern_sent{kind="blob of {x}"} 2
cistern_sent{kind="manifest"} 3
`)
	}))
	defer s.Close()
	target := &peer.Target{Name: "cistern", Admin: s.URL}
	for name, want := range map[string]float64{"cistern_blobs": 1.5e6, "cistern_blobs_total": 7, "cistern_sent": 5} {
		if got, err := target.Metric(t.Context(), name); err != nil || got != want {
			t.Errorf("%s: %v, %v, want %v", name, got, err, want)
		}
	}
	if _, err := target.Metric(t.Context(), "cistern"); !errors.Is(err, peer.ErrNoMetric) {
		t.Errorf("a metric that is not there: %v", err)
	}
}

func TestAllocations(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		if r.URL.Path == "/debug/pprof/heap" && r.URL.Query().Get("debug") == "1" {
			_, _ = io.WriteString(w, "heap profile: 1: 2 [3: 4] @ heap/1048576\n\n# runtime.MemStats\n# Alloc = 5\n# TotalAlloc = 7000\n# Mallocs = 30\n# Frees = 20\n")
		}
	}))
	defer s.Close()
	target := &peer.Target{Name: "cistern", Admin: s.URL}
	if a, err := target.Allocations(t.Context()); err != nil || a != (peer.Allocations{Count: 30, Bytes: 7000}) {
		t.Errorf("%+v, %v", a, err)
	}
	target.Admin += "/other"
	if a, err := target.Allocations(t.Context()); !errors.Is(err, peer.ErrNoMetric) {
		t.Errorf("where there is none: %+v, %v", a, err)
	}
}
