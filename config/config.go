// Package config turns the YAML file, the environment and the command line into one plain, validated Config.
//
// It builds nothing: no listener, no client, no logger, and it reads no secret. Paths of secrets are passed on, and whoever
// builds the client reads them when it needs them. It decides nothing at run time either; what a key does is
// documented where it takes effect. Only cmd/ imports this package.
package config

import (
	"regexp"
	"time"
)

// Config is everything that `cistern serve` can be told. A Config that Load returned is valid as it stands: names are
// canonical, paths absolute, cross references resolved. It is not changed afterwards and may be shared.
type Config struct {
	// File is the absolute path of the configuration file that was read; empty if there was none.
	File string
	// Listen is the address of the registry listener, host:port; an empty host means all addresses, port 0 any free one.
	Listen string
	// TLS is the certificate pair of the registry listener; its zero value means plain HTTP.
	TLS TLS
	// Admin is the listener of metrics, health and the admin API.
	Admin Admin
	// Log says what is logged, and how.
	Log Log
	// Cache is the cache directory and its bounds.
	Cache Cache
	// Rate bounds the bytes per second of blobs from all upstreams together; 0 means no bound.
	Rate int64
	// DefaultUpstream is the Name of the upstream that answers requests which name none; empty if there is none.
	DefaultUpstream string
	// Upstreams are the registries that may be dialled, in the order they were written; at least one, no Name twice.
	Upstreams []Upstream
}

// TLS is a certificate pair in PEM files. Both paths are set, or none.
type TLS struct {
	Cert, Key string
}

// Enabled reports whether the registry listener speaks TLS.
func (t TLS) Enabled() bool { return t.Cert != "" }

// Admin is the `admin` section.
type Admin struct {
	// Listen is host:port (port 0: any free one), "unix:" and an absolute path, or AdminOff.
	Listen string
	// TokenFile is the path of the bearer token that admin calls from beyond loopback need; empty means none is accepted.
	TokenFile string
	// Hosts are further names, in lower case, that a Host header on the admin listener may carry.
	Hosts []string
}

// AdminOff as Admin.Listen means that there is no admin listener.
const AdminOff = "off"

// Log is the `log` section.
type Log struct {
	// Level is debug, info, warn or error.
	Level string
	// Format is json or console; empty means console on a terminal and json elsewhere.
	Format string
}

// Cache is the `cache` section.
type Cache struct {
	// Dir is the cache directory, absolute.
	Dir string
	// DirDefaulted is true if nobody chose Dir, so that the choice is worth a line at start.
	DirDefaulted bool
	// MaxSize is the cap in allocated bytes, over everything in Dir; 0 means that MinFree alone bounds the cache.
	MaxSize int64
	// SizeDefaulted is true if nobody chose MaxSize.
	SizeDefaulted bool
	// MinFree is the space that the cache leaves free on its file system.
	MinFree MinFree
	// StopAbandoned is true if a fill that lost its last reader is stopped (abandoned_fills: stop) rather than finished.
	StopAbandoned bool
	// FillsKept is how long a fill that stopped is kept when nobody touches it; 0 means until its space is wanted.
	FillsKept time.Duration
	// ScrubRate is how fast cached blobs are hashed again while nobody is served, in bytes per second; 0 means not at all.
	ScrubRate int64
}

// MinFree is a floor of free space: bytes, or a share of the file system. The zero value is no floor.
type MinFree struct {
	Bytes   int64
	Percent float64
}

// Of gives the floor in bytes on a file system of fsSize bytes.
func (m MinFree) Of(fsSize int64) int64 {
	return m.Bytes + int64(float64(fsSize)*m.Percent/100)
}

// Upstream is one entry of `upstreams`.
type Upstream struct {
	// Name is the canonical name: the registry's host[:port] in lower case, or a label without dots.
	Name string
	// Endpoints are base URLs, tried in order: scheme, host and maybe a path, no trailing slash. At least one.
	Endpoints []string
	// Credentials says where an account is found; its zero value means anonymous.
	Credentials Credentials
	// Tags are the freshness rules, first match wins. A tag that none matches is fresh for DefaultTagFresh.
	Tags []TagRule
	// StaleIfError is how long after its last check a tag may be served while the upstream is down; 0 means never.
	StaleIfError time.Duration
	// MaxStreams bounds the parallel ranges of one blob; at most MaxConnections.
	MaxStreams int
	// RangeMiss is what a range of a blob that is not here does: RangeExtent, RangeFill or RangePass.
	RangeMiss string
	// MaxConnections bounds the connections to this upstream.
	MaxConnections int
	// Rate bounds the bytes per second of blobs from this upstream; 0 means no bound but that of all together.
	Rate int64
	// Network is NetworkAuto, NetworkPublic or NetworkPrivate.
	Network string
	// TokenHosts are host[:port] that may see the credentials beside the upstream's own and the built-in ones.
	TokenHosts []string
	// CAFile is a PEM bundle trusted beside the system's; empty means the system's alone.
	CAFile string
}

// The values of Upstream.Network: which addresses an upstream may be reached at, by redirect and token realm too.
const (
	NetworkAuto    = "auto"    // private if an endpoint is plain http, localhost, a one-label name or a private address
	NetworkPublic  = "public"  // never loopback, link-local, private or metadata addresses
	NetworkPrivate = "private" // any address
)

// The values of Upstream.RangeMiss: what a range of a blob does that is not here.
const (
	RangeExtent = "extent" // fetches and keeps the pieces around it
	RangeFill   = "fill"   // fetches the whole blob
	RangePass   = "pass"   // fetches what was asked for, and keeps nothing
)

// Credentials says where the account for an upstream is found. Either Username and one of the two Password fields are
// set, or Docker is, or nothing.
type Credentials struct {
	Username string
	// PasswordFile is the path of a file that holds the password; read at each use, so that it can be rotated.
	PasswordFile string
	// PasswordEnv is the name of the environment variable that holds the password.
	PasswordEnv string
	// Docker means: the docker client's config.json and its credential helpers.
	Docker bool
}

// IsZero reports whether the upstream is used anonymously.
func (c Credentials) IsZero() bool { return c == Credentials{} }

// TagRule is one line of an upstream's `tags`.
type TagRule struct {
	// Match is searched in the tag, unanchored.
	Match *regexp.Regexp
	// Fresh is how long a matching tag is served without asking upstream; 0 means never.
	Fresh time.Duration
}
