package sim_test

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"

	"cistern/bench/sim"
	"cistern/bench/trace"
)

const mib = 1 << 20

// sequence is a trace of one GET a minute for blobs of a MiB, by their numbers.
func sequence(blobs ...int32) *trace.Trace {
	t := &trace.Trace{Clients: []string{"one"}}
	for range 20 {
		t.Objects = append(t.Objects, trace.Object{Size: mib, Kind: trace.Blob})
	}
	for i, b := range blobs {
		t.Requests = append(t.Requests, trace.Request{At: time.Duration(i) * time.Minute, Object: b, Pull: int32(i), Tag: trace.ByDigest})
	}
	return t
}

func policy(t testing.TB, name string) sim.Policy {
	t.Helper()
	for _, p := range sim.Policies() {
		if p.Name == name {
			return p
		}
	}
	t.Fatalf("no policy %s", name)
	return sim.Policy{}
}

func run(t testing.TB, p sim.Policy, tr *trace.Trace, limit int64) sim.Outcome {
	t.Helper()
	o, err := p.Run(sim.Prepare(tr), limit, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// What can be reckoned by hand.
func TestByHand(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		blobs []int32
		want  map[string]int // hits, with room for three blobs
	}{
		"a loop of four": {
			[]int32{1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4},
			map[string]int{"lru": 0, "reserve": 0, "belady": 6, "infinite": 8},
		},
		"one comes again and again": {
			[]int32{1, 2, 1, 3, 1, 4, 1, 5, 1},
			map[string]int{"lru": 4, "reserve": 4, "built-in": 4, "belady": 4, "s3-fifo": 4, "gdsf-log": 4, "infinite": 4},
		},
		// 1 and 2 are used again after a quarter of an hour, then six come that nobody
		// wants twice.
		"a scan": {
			[]int32{1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 2, 11, 12, 13, 14, 15, 16, 1, 2},
			map[string]int{"lru": 9, "reserve": 9, "probation": 11, "s3-fifo": 11, "belady": 11, "infinite": 11},
		},
	} {
		for policyName, want := range c.want {
			// The built-in policy frees a little more than it must.
			limit := int64(3 * mib)
			if policyName == "built-in" {
				limit += mib / 2
			}
			if got := run(t, policy(t, policyName), sequence(c.blobs...), limit).BlobHits; got != want {
				t.Errorf("%s: %s has %d hits, want %d", name, policyName, got, want)
			}
		}
	}
}

// The floors keep a small blob and a manifest through a storm of large ones, which
// plain LRU does not; a manifest that is missing is a pull.
func TestFloors(t *testing.T) {
	t.Parallel()
	tr := sequence(2, 3, 4, 5, 6, 7, 8, 9, 2, 3)
	tr.Objects = append(tr.Objects, trace.Object{Size: 5000, Kind: trace.Manifest}, trace.Object{Size: 5000, Kind: trace.Blob})
	manifest, small := int32(len(tr.Objects)-2), int32(len(tr.Objects)-1)
	both := []trace.Request{{Object: manifest, Tag: trace.ByDigest}, {Object: small, Tag: trace.ByDigest}}
	tr.Requests = append(both, tr.Requests...)
	for _, r := range both {
		r.At, r.Pull = time.Hour, 99
		tr.Requests = append(tr.Requests, r)
	}
	for name, want := range map[string][2]int{"built-in": {1, 1}, "reserve": {1, 1}, "lru": {2, 0}} {
		o := run(t, policy(t, name), tr, 4*mib)
		if o.Pulls() != want[0] || o.BlobHits != want[1] {
			t.Errorf("%s: %d pulls, %d hits, want %v", name, o.Pulls(), o.BlobHits, want)
		}
	}
}

// A HEAD is a use, but brings nothing, and is no hit.
func TestHead(t *testing.T) {
	t.Parallel()
	tr := sequence(1, 2, 3)
	tr.Requests[0].Head, tr.Requests[2].Object = true, 1
	for _, p := range sim.Policies() {
		if o := run(t, p, tr, 10*mib); o.Blobs != 2 || o.BlobHits != 0 {
			t.Errorf("%s: %+v", p.Name, o)
		}
	}
}

// No policy has more hits than a cache without an end; none takes what does not fit.
func TestBounds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 0))
		n := rapid.IntRange(1, 200).Draw(rt, "requests")
		var blobs []int32
		for range n {
			blobs = append(blobs, int32(20*math.Pow(r.Float64(), 2)))
		}
		tr := sequence(blobs...)
		for i := range tr.Objects {
			tr.Objects[i].Size = r.Int64N(3 * mib)
		}
		limit := rapid.Int64Range(1, 20*mib).Draw(rt, "limit")
		w := sim.Prepare(tr)
		most, err := policy(t, "infinite").Run(w, limit, "")
		if err != nil {
			rt.Fatal(err)
		}
		for _, p := range sim.Policies() {
			o, err := p.Run(w, limit, t.TempDir()) // fails if it holds more than it may
			if err != nil {
				rt.Fatal(err)
			}
			if o.BlobHits > most.BlobHits || o.HitBytes > most.HitBytes || o.Upstream() < 1 && o.Distinct > 0 {
				rt.Fatalf("%s: %+v, of at most %+v", p.Name, o, most)
			}
		}
	})
}

// The real index, with its checkpoints and batches, does what the rules say to
// within some tenths of a point.
func TestIndexIsThePolicy(t *testing.T) {
	t.Parallel()
	tr, _ := trace.Make("A", 1, 0.05)
	w := sim.Prepare(tr)
	for _, percent := range []int64{3, 25} {
		limit := w.Footprint * percent / 100
		index, err1 := sim.BuiltIn().Run(w, limit, t.TempDir())
		model, err2 := sim.Model().Run(w, limit, "")
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		if d := math.Abs(index.ByteHits() - model.ByteHits()); d > 0.005 {
			t.Errorf("%d %%: the index has %.4f of the bytes, the model %.4f", percent, index.ByteHits(), model.ByteHits())
		}
		if d := math.Abs(index.ObjectHits() - model.ObjectHits()); d > 0.005 {
			t.Errorf("%d %%: the index has %.4f of the blobs, the model %.4f", percent, index.ObjectHits(), model.ObjectHits())
		}
	}
}
