package admin

import (
	"time"

	"cistern/cache"
	"cistern/proxy"
	"cistern/proxy/savings"
)

// Version says which program runs.
type Version struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"` // linux/amd64
}

// Status is the answer to GET /api/v1/status. Sizes are bytes.
type Status struct {
	Version  Version   `json:"version"`
	Started  time.Time `json:"started"`
	Listen   string    `json:"listen"`
	Ready    bool      `json:"ready"`
	NotReady string    `json:"not_ready,omitempty"` // why

	Cache    CacheStatus `json:"cache"`
	Pulls    PullStatus  `json:"pulls"`
	Clients  int         `json:"clients"`
	LastPull *time.Time  `json:"last_pull"` // null: none since the start

	Savings savings.Summary `json:"savings"` // kept over restarts

	Connections ConnectionStatus `json:"connections"`
	Upstreams   []Upstream       `json:"upstreams"`
}

// CacheStatus is the cache directory. Limit 0 means that there is no cap.
type CacheStatus struct {
	Dir           string         `json:"dir"`
	Bytes         int64          `json:"bytes"`
	Reserved      int64          `json:"reserved_bytes"`
	Limit         int64          `json:"limit_bytes"`
	Blobs         int64          `json:"blobs"`
	EvictedBytes  uint64         `json:"evicted_bytes"`
	EvictedBlobs  uint64         `json:"evicted_blobs"`
	FillsInFlight int64          `json:"fills_in_flight"`
	FlightReaders int64          `json:"flight_readers"`
	ResumedBytes  uint64         `json:"resumed_bytes"`
	Degraded      string         `json:"degraded,omitempty"` // why nothing new is kept
	Rebuild       *RebuildStatus `json:"rebuild,omitempty"`  // nil: none is running
	Damaged       uint64         `json:"damaged_blobs"`      // since the start
	Scrub         ScrubStatus    `json:"scrub"`
}

// PullStatus counts manifests and blobs asked for since the start. The maps are
// by outcome: hit, miss, join, stale, pass, error.
type PullStatus struct {
	Requests      map[string]uint64 `json:"requests"`
	SentBytes     map[string]uint64 `json:"sent_bytes"`
	ReceivedBytes uint64            `json:"received_bytes"` // from upstream
}

// ConnectionStatus is the registry listener.
type ConnectionStatus struct {
	Open    int    `json:"open"`
	Limit   int    `json:"limit"`
	Refused uint64 `json:"refused"`
}

// Upstream is one registry that Cistern may fetch from.
type Upstream struct {
	Name          string     `json:"name"`
	Default       bool       `json:"default"` // answers requests that name no upstream
	Up            bool       `json:"up"`
	Account       bool       `json:"account"` // asked with credentials
	Endpoints     []Endpoint `json:"endpoints"`
	Requests      uint64     `json:"requests"`
	Failures      uint64     `json:"failures"` // no answer, 429 or 5xx
	ReceivedBytes uint64     `json:"received_bytes"`
	// RateLimit is what upstream said last; null: nothing yet.
	RateLimit *RateLimit `json:"rate_limit"`
}

// Endpoint is one base URL of an upstream.
type Endpoint struct {
	Host        string     `json:"host"`
	Up          bool       `json:"up"`
	LastError   string     `json:"last_error,omitempty"`
	LastErrorAt *time.Time `json:"last_error_at,omitempty"`
}

// RateLimit is a quota of pulls, as Docker Hub states it.
type RateLimit struct {
	Limit     int64 `json:"limit"`
	Remaining int64 `json:"remaining"`
}

// Clients is the answer to GET /api/v1/clients, the last seen first.
type Clients struct {
	Clients []proxy.Client `json:"clients"`
}

// Fills is the answer to GET /api/v1/fills: what is on its way, the oldest first.
type Fills struct {
	Fills []cache.FillInfo `json:"fills"`
}

// Upstreams is the answer to GET /api/v1/upstreams.
type Upstreams struct {
	Upstreams []Upstream `json:"upstreams"`
}

// failure is the answer to whatever went wrong under /api/.
type failure struct {
	Error string `json:"error"`
}

// ScrubStatus says how far the hashing of all blobs has come.
type ScrubStatus struct {
	Bytes   uint64    `json:"bytes"`          // hashed since the start
	Running bool      `json:"running"`        // though it may wait until nobody is served
	Done    float64   `json:"done"`           // of 1, while it runs
	Ended   time.Time `json:"ended,omitzero"` // the last time that it came to its end
}

// RebuildStatus says how far files without a record have been taken up.
type RebuildStatus struct {
	Files   int64 `json:"files"` // 0: still being counted
	Hashed  int64 `json:"hashed_files"`
	Damaged int64 `json:"damaged_files"`
}
