package config

import (
	"path/filepath"
	"strings"
	"time"
)

// What holds where nothing is configured.
const (
	// DefaultFile is the configuration file that is read if none is named and it exists.
	DefaultFile = "/etc/cistern/cistern.yaml"
	// DefaultListen serves registry clients on every address.
	DefaultListen = ":5000"
	// DefaultAdminListen keeps the admin API on this machine.
	DefaultAdminListen = "127.0.0.1:5001"
	// DefaultLogLevel logs one line a request.
	DefaultLogLevel = "info"
	// RootCacheDir is the cache directory of root.
	RootCacheDir = "/var/cache/cistern"
	// DefaultMaxSize is the cap if it fits into half of what is available: 50 GiB.
	DefaultMaxSize int64 = 50 << 30
	// DefaultMinFree is the free-space floor, 1 GiB: room for others to log and for a person to log in and clean up.
	DefaultMinFree int64 = 1 << 30
	// DefaultFillsKept is how long an unfinished fill waits for somebody to go on with it.
	DefaultFillsKept = 72 * time.Hour
	// DefaultScrubRate is how fast cached blobs are hashed again while nobody is served: 50 GiB in an hour and a half.
	DefaultScrubRate int64 = 10 << 20
	// DefaultUpstreamName answers requests that name no upstream, if it is configured.
	DefaultUpstreamName = "docker.io"
	// DefaultTagFresh is how long a tag is served without a check upstream where no rule matches it.
	DefaultTagFresh = time.Minute
	// DefaultStaleIfError is how long a tag is served while its upstream is down.
	DefaultStaleIfError = 7 * 24 * time.Hour
	// DefaultMaxStreams is the number of parallel ranges of one blob.
	DefaultMaxStreams = 4
	// DefaultMaxConnections is the number of connections to one upstream.
	DefaultMaxConnections = 32
)

// hubEndpoint is where docker.io's API is; docker.io itself serves a web site (P 2.32, 4.10).
const hubEndpoint = "https://registry-1.docker.io"

// wellKnown are the upstreams of a machine without any configuration: public registries that serve anonymous pulls
// under their own host, docker.io aside.
func wellKnown() []Upstream {
	hosts := []string{
		DefaultUpstreamName,
		"ghcr.io",
		"quay.io",
		"registry.k8s.io",
		"gcr.io",
		"mcr.microsoft.com",
		"public.ecr.aws",
		"registry.gitlab.com",
		"registry.access.redhat.com",
		"nvcr.io",
		"docker.elastic.co",
		"lscr.io",
	}
	out := make([]Upstream, len(hosts))
	for i, h := range hosts {
		out[i] = newUpstream(h)
		out[i].Endpoints = []string{defaultEndpoint(h)}
	}
	return out
}

// newUpstream is an upstream with every default but its endpoints.
func newUpstream(name string) Upstream {
	return Upstream{
		Name:           name,
		StaleIfError:   DefaultStaleIfError,
		MaxStreams:     DefaultMaxStreams,
		MaxConnections: DefaultMaxConnections,
		RangeMiss:      RangeExtent,
		Network:        NetworkAuto,
	}
}

// defaultEndpoint is where a registry named by its host is found; empty for a label, which says nothing of a host.
func defaultEndpoint(name string) string {
	switch {
	case name == DefaultUpstreamName:
		return hubEndpoint
	case isLabel(name):
		return ""
	default:
		return "https://" + name
	}
}

// DefaultSize is the cap of a cache nobody gave one: DefaultMaxSize, or half of the available bytes if that is less.
// Available counts what the cache already holds; see Sources.
func DefaultSize(available int64) int64 {
	return max(min(DefaultMaxSize, available/2), minMaxSize)
}

// defaultCacheDir chooses the cache directory: the one systemd made, root's, the user's; empty if there is none.
func defaultCacheDir(s Sources) string {
	// systemd joins several directories by colons; ours is the first.
	if dir, _, _ := strings.Cut(s.getenv("CACHE_DIRECTORY"), ":"); dir != "" {
		return absolute(s.WorkDir, dir)
	}
	if s.Root {
		return RootCacheDir
	}
	if s.UserCacheDir != "" {
		return filepath.Join(s.UserCacheDir, "cistern")
	}
	return ""
}
