// Package sim reckons what a cache would have kept of a trace: the built-in policy,
// by the real index and the real numbers of the cache, beside others that hold all
// in memory. It moves no bytes and knows no clock but the trace's.
//
// What it leaves out, for all policies alike: a fill takes no time, so that whoever
// would join one hits; nothing is pinned, and no reader keeps a blob from being
// evicted. Sizes are what files take on disk, ratios are of the bytes in them.
package sim

import (
	"fmt"
	"time"

	"cistern/bench/trace"
	"cistern/cache/index"
	"cistern/internal/oci"
)

// Work is a trace made ready for policies, read only from then on.
type Work struct {
	trace    *trace.Trace
	requests []request
	objects  []object
	digests  []oci.Digest
	// Footprint is what all that is asked for takes on disk, in bytes.
	Footprint int64
}

// object is what a policy may know of an object.
type object struct {
	class     index.Class
	allocated int64 // bytes on disk
}

// request is one that names an object.
type request struct {
	at     time.Duration
	object int32
	pull   int32
	next   int32 // the next GET of the object, in Work.requests; never if there is none
	head   bool
}

const never = 1<<31 - 1

// Prepare makes a trace ready. The trace must not be changed afterwards.
func Prepare(t *trace.Trace) *Work {
	w := &Work{trace: t, Footprint: t.Footprint(), objects: make([]object, len(t.Objects)), digests: make([]oci.Digest, len(t.Objects))}
	next := make([]int32, len(t.Objects))
	for i, o := range t.Objects {
		w.objects[i] = object{index.ClassOf(o.Size, o.Kind == trace.Manifest), trace.Allocated(o.Size)}
		w.digests[i] = t.Digest(int32(i))
		next[i] = never
	}
	for _, r := range t.Requests {
		if r.Object != trace.None {
			w.requests = append(w.requests, request{r.At, r.Object, r.Pull, never, r.Head})
		}
	}
	for i := len(w.requests) - 1; i >= 0; i-- {
		r := &w.requests[i]
		r.next = next[r.object]
		if !r.head {
			next[r.object] = int32(i)
		}
	}
	return w
}

// keeper is a cache of a fixed size under one policy.
type keeper interface {
	// get asks for an object and tells whether it is there. If it is not, it is
	// afterwards, unless the policy would rather not, or the request is a HEAD.
	get(r request) (hit bool, err error)
	// held is the bytes on disk of what is there.
	held() int64
	// close gives back what the keeper has beside memory.
	close() error
}

// Outcome is what one policy came to with one size of cache.
type Outcome struct {
	Blobs, BlobHits         int   // GETs of blobs
	Manifests, ManifestHits int   // GETs of manifests; each miss is a pull that counts
	Bytes, HitBytes         int64 // of all GETs
	JobBytes, JobHitBytes   int64 // of those that are no scanner's
	Distinct                int64 // bytes of what was asked for, each counted once
}

// ObjectHits is the share of blobs asked for that were there, from 0 to 1.
func (o Outcome) ObjectHits() float64 { return share(int64(o.BlobHits), int64(o.Blobs)) }

// ByteHits is the share of bytes asked for that were there, from 0 to 1.
func (o Outcome) ByteHits() float64 { return share(o.HitBytes, o.Bytes) }

// JobByteHits is ByteHits of what is no scanner's.
func (o Outcome) JobByteHits() float64 { return share(o.JobHitBytes, o.JobBytes) }

// Upstream is the bytes that came from upstream over the distinct ones asked for:
// 1 is the least, what is above it is what was evicted too early.
func (o Outcome) Upstream() float64 { return share(o.Bytes-o.HitBytes, o.Distinct) }

// Pulls is how many manifests were asked for upstream.
func (o Outcome) Pulls() int { return o.Manifests - o.ManifestHits }

func share(a, b int64) float64 {
	if b == 0 {
		return 0
	}
	return float64(a) / float64(b)
}

// Policy names how a cache chooses.
type Policy struct {
	Name string
	open func(w *Work, limit int64, dir string) (keeper, error)
}

// Run puts the trace before a cache of limit bytes under the policy. An index lies
// in a new folder within dir while it runs.
func (p Policy) Run(w *Work, limit int64, dir string) (o Outcome, err error) {
	k, err := p.open(w, limit, dir)
	if err != nil {
		return o, fmt.Errorf("%s: %w", p.Name, err)
	}
	seen := make([]bool, len(w.objects))
	i := 0
	for _, r := range w.trace.Requests {
		if r.Object == trace.None {
			continue
		}
		hit, err := k.get(w.requests[i])
		if err != nil {
			_ = k.close() // the first error says it
			return o, fmt.Errorf("%s: request %d: %w", p.Name, i, err)
		}
		if held := k.held(); held > limit {
			_ = k.close()
			return o, fmt.Errorf("%s: request %d: it holds %d bytes, the cache has %d", p.Name, i, held, limit)
		}
		i++
		if r.Head {
			continue
		}
		o.count(w.trace.Objects[r.Object], r.Scan, hit)
		if !seen[r.Object] {
			seen[r.Object] = true
			o.Distinct += w.trace.Objects[r.Object].Size
		}
	}
	if err := k.close(); err != nil {
		return o, fmt.Errorf("%s: %w", p.Name, err)
	}
	return o, nil
}

func (o *Outcome) count(what trace.Object, scan, hit bool) {
	one, bytes := 0, int64(0)
	if hit {
		one, bytes = 1, what.Size
	}
	o.Bytes += what.Size
	o.HitBytes += bytes
	if !scan {
		o.JobBytes += what.Size
		o.JobHitBytes += bytes
	}
	if what.Kind == trace.Manifest {
		o.Manifests++
		o.ManifestHits += one
		return
	}
	o.Blobs++
	o.BlobHits += one
}
