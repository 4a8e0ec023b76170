// Package trace makes up the traffic of a registry proxy: who asks for what, when,
// and how large it is. Five scenarios, each from a printed seed, the same on every
// machine; and the order of a recorded trace with sizes drawn.
//
// Images come first: a catalogue of repositories whose layers, sizes and sharing are
// drawn from curves found in registries, tags that move as tags were seen to move,
// then pulls of them, then the requests that a pull is made of. Honesty tells how
// far the outcome is from what was found in a real trace.
//
// It sends nothing: package sim puts a trace before caches that are reckoned only,
// and the CSV is for other tools.
package trace

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"time"

	"cistern/internal/oci"
)

// Kind is what a request is for.
type Kind uint8

// The kinds.
const (
	Ping     Kind = iota // GET /v2/
	Manifest             // manifests and indexes
	Blob                 // configs, layers, attestations
)

// String is the kind's name in the CSV.
func (k Kind) String() string { return [...]string{"ping", "manifest", "blob"}[k] }

// Object is content with a digest.
type Object struct {
	Size int64 // bytes
	Kind Kind
}

// None is the Object of a ping.
const None = -1

// ByDigest is the Tag of a request that names a digest.
const ByDigest = -1

// Request is one request of a client.
type Request struct {
	At     time.Duration // since the trace's start
	Object int32         // in Trace.Objects; None of a ping
	Client int32         // in Trace.Clients
	Repo   int32
	Tag    int32 // of the repository; ByDigest if the request names a digest
	Pull   int32 // requests of one pull have the same
	Head   bool  // HEAD; the others are GETs
	Scan   bool  // it is a scanner's or a poller's: nobody waits for the image
}

// Trace is the requests of one scenario in the order of time. It is not changed
// once it is made, and may be read concurrently.
type Trace struct {
	Name     string // "A"
	Seed     uint64
	Objects  []Object
	Requests []Request
	Clients  []string
	// Sharing is the bytes of one image of each repository over their distinct
	// bytes; 0 where there are no images.
	Sharing float64
}

// Digest is the made-up digest of an object.
func (t *Trace) Digest(object int32) oci.Digest {
	var sum [32]byte
	r := rand.New(rand.NewPCG(t.Seed, uint64(object)))
	for at := 0; at < len(sum); at += 8 {
		binary.BigEndian.PutUint64(sum[at:], r.Uint64())
	}
	d, _ := oci.FromSum(sum[:]) // 32 bytes are a sha256
	return d
}

// blockSize is what files are rounded up to on disk.
const blockSize = 4096

// Allocated is what an object of size bytes takes on disk.
func Allocated(size int64) int64 { return (size + blockSize - 1) / blockSize * blockSize }

// Footprint is what all objects that are asked for by GET take on disk.
func (t *Trace) Footprint() (bytes int64) {
	seen := make([]bool, len(t.Objects))
	for _, r := range t.Requests {
		if !r.Head && r.Object != None && !seen[r.Object] {
			seen[r.Object] = true
			bytes += Allocated(t.Objects[r.Object].Size)
		}
	}
	return bytes
}

// Names of the scenarios, in order.
func Names() []string { return []string{"A", "B", "C", "D", "E"} }

// Make makes a scenario up; ok is false if there is none of that name. Scale is how
// much of it: 1 is what is published, less is for tests; only the length of the
// time is scaled, and in B the number of nodes.
func Make(name string, seed uint64, scale float64) (t *Trace, ok bool) {
	scenario, ok := map[string]func(*maker, float64){"A": ci, "B": storm, "C": edge, "D": training, "E": scanned}[name]
	if !ok {
		return nil, false
	}
	m := newMaker(name, seed)
	scenario(m, scale)
	// Stable: what came at the same instant stays in the order in which it was made.
	slices.SortStableFunc(m.t.Requests, func(a, b Request) int { return int(a.At - b.At) })
	return m.t, true
}
