package proxy

import (
	"time"

	"cistern/internal/hist"
)

// Stats is what the registry face has counted since the start.
type Stats struct {
	Requests  []RequestCount
	Sent      []SentCount
	FirstByte []FirstByte
	LastPull  time.Time // zero: none yet
	Clients   int       // in the table of Clients
}

// RequestCount is one series of cistern_requests_total.
type RequestCount struct {
	Kind, Upstream, Outcome string // Upstream "" where no configured one was meant
	Code                    int
	N                       uint64
}

// SentCount is one series of cistern_sent_bytes_total: body bytes written.
type SentCount struct {
	Kind, Upstream, Outcome string
	Bytes                   uint64
}

// FirstByte is one series of cistern_request_seconds.
type FirstByte struct {
	Kind, Outcome string
	Seconds       hist.Snapshot
}

// Client is somebody who has asked for something since the start.
type Client struct {
	Address   string    `json:"address"` // without the port
	UserAgent string    `json:"user_agent"`
	First     time.Time `json:"first_seen"`
	Last      time.Time `json:"last_seen"`
	LastPull  time.Time `json:"last_pull"` // of a manifest or blob; zero: none
	LastImage string    `json:"last_image"`
	Requests  uint64    `json:"requests"`
	Bytes     uint64    `json:"bytes"`
	Upstreams []string  `json:"upstreams"`
}

// Refreshed says what a refresh of a tag found.
type Refreshed struct {
	Image   string `json:"image"`
	Before  string `json:"before"` // digest; "" if it was not known here
	Now     string `json:"now"`
	Changed bool   `json:"changed"`
}
