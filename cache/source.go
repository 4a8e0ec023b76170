package cache

import (
	"context"
	"io"
	"regexp"
	"time"

	"cistern/cache/bandwidth"
	"cistern/internal/oci"
)

// Source is where a repository's content comes from: an upstream, seen through
// one repository. Errors are of the classes of package oci (errors.Is). It is
// safe for concurrent use. Retries of a request that got no answer are the
// source's business; going on after a body broke off is the cache's.
type Source interface {
	// Manifest fetches a manifest whole, by tag or digest, and checks it
	// against the digest asked for or named by upstream.
	Manifest(ctx context.Context, ref string) (*Manifest, error)
	// Resolve asks what a tag or digest is without spending a pull (P 4.12).
	// The digest is zero where upstream does not say.
	Resolve(ctx context.Context, ref string) (Resolved, error)
	// Blob opens bytes [off, end) of a blob; end < 0 is its end. The bytes
	// are not verified.
	Blob(ctx context.Context, d oci.Digest, off, end int64) (*Body, error)
	// BlobInfo asks for a blob's size and existence.
	BlobInfo(ctx context.Context, d oci.Digest) (Resolved, error)
	// Healthy is false while upstream is known to be unusable.
	Healthy() bool
}

// Resolved is what a source says of something without sending it.
type Resolved struct {
	oci.Descriptor
	Private bool // obtained with credentials
}

// Body is an open blob on its way.
type Body struct {
	io.ReadCloser
	Size    int64  // of the whole blob; -1 unknown
	Offset  int64  // where the bytes really start: 0 when upstream ignored a range
	Whole   bool   // all of the blob comes, whatever was asked for
	Host    string // that sends them
	Private bool   // obtained with credentials
	Blame   func() // tells the source that these bytes were wrong

	// Again opens other bytes of the same blob as Blob does, but where these came
	// from; nil: there is nothing to be gained by that.
	Again func(ctx context.Context, off, end int64) (*Body, error)
}

// Manifest is a manifest whole, byte for byte as upstream sent it.
type Manifest struct {
	Bytes     []byte
	MediaType string
	Digest    oci.Digest
	Private   bool // obtained with credentials
	Unkept    bool // its digest is not that of its bytes (schema 1, P 3.13)
}

// Repository is a repository with what is needed to serve it. Values are made
// per request; Source and Policy outlive it.
type Repository struct {
	oci.Repository
	Source Source
	Policy *Policy
}

// Policy says how long an upstream's tags may be served without asking.
type Policy struct {
	Tags         []TagRule     // the first whose Match matches the tag decides
	StaleIfError time.Duration // since upstream's last word; 0: never stale
	MaxStreams   int           // of one blob at a time; 0 is 1
	RangeMiss    RangeMiss
	Bandwidth    *bandwidth.Limit // of what comes of blobs; nil: none but that of all upstreams
}

// RangeMiss is what a range of a blob does that is not here (P 5.5), in the words of
// the configuration.
type RangeMiss string

const (
	// RangeExtent fetches and keeps the pieces around it; so does "".
	RangeExtent RangeMiss = "extent"
	// RangeFill fetches the whole blob.
	RangeFill RangeMiss = "fill"
	// RangePass fetches what was asked for, for whoever asked, and keeps nothing.
	RangePass RangeMiss = "pass"
)

// TagRule is a rule of freshness.
type TagRule struct {
	Match *regexp.Regexp
	Fresh time.Duration
}

// DefaultFresh is a tag's freshness where no rule matches it.
const DefaultFresh = time.Minute

// Fresh is how long a tag stays fresh after upstream's last word on it.
func (p *Policy) Fresh(tag string) time.Duration {
	for _, r := range p.Tags {
		if r.Match.MatchString(tag) {
			return r.Fresh
		}
	}
	return DefaultFresh
}
