package sim

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cistern/cache/index"
	"cistern/cache/policy"
	"cistern/internal/oci"
)

// touchesKept is how many uses wait for a checkpoint, as in the cache; one takes a
// thousand of them.
const (
	touchesKept  = 1 << 13
	touchesTaken = 1000
)

// The cache makes a checkpoint each second. So it is here while there is much to
// record; else it may wait, since most of the time that a run takes is checkpoints.
// What waits in memory outranks the index in any case.
const (
	checkpointEvery = time.Second
	manyWaiting     = 64
	checkpointLast  = 10 * time.Second
)

// start is when traces begin.
var start = time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC)

// fresh is a blob that no checkpoint has recorded.
type fresh struct {
	index.Record
	turn int64 // in which it came
}

// builtIn is the cache's own policy, by its own index: checkpoints record what is
// new, gone and used; victims are what the index names.
type builtIn struct {
	w     *Work
	x     *index.Index
	dir   string
	limit int64

	used    int64
	here    []bool
	ids     map[oci.Digest]int32
	pending map[int32]fresh // not recorded yet
	turn    int64
	gone    map[int32]bool // recorded still
	touched map[oci.Digest]time.Time
	evicted time.Duration // age of the last victim
	checked time.Duration // the last checkpoint
}

func newBuiltIn(w *Work, limit int64, parent string) (*builtIn, error) {
	dir, err := os.MkdirTemp(parent, "evict-sim-")
	if err != nil {
		return nil, err
	}
	k := &builtIn{
		w: w, dir: dir, limit: limit, here: make([]bool, len(w.objects)), ids: make(map[oci.Digest]int32, len(w.objects)),
		pending: map[int32]fresh{}, gone: map[int32]bool{}, touched: map[oci.Digest]time.Time{},
	}
	for i, d := range w.digests {
		k.ids[d] = int32(i)
	}
	// Nothing of it is to outlive the run.
	k.x, err = index.Open(filepath.Join(dir, "index.db"), index.Options{NoSync: true})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return k, nil
}

func (k *builtIn) held() int64 { return k.used }

func (k *builtIn) close() error {
	return errors.Join(k.x.Close(), os.RemoveAll(k.dir))
}

func (k *builtIn) get(r request) (hit bool, err error) {
	waited := r.at - k.checked
	waiting := len(k.pending) + len(k.gone) + len(k.touched)
	if waited >= checkpointEvery && waiting >= manyWaiting || waited >= checkpointLast {
		if err := k.checkpoint(); err != nil {
			return false, err
		}
		k.checked = r.at
	}
	now := start.Add(r.at)
	if k.here[r.object] {
		k.touch(r.object, now)
		return true, nil
	}
	what := k.w.objects[r.object]
	if r.head || what.allocated > k.limit {
		return false, nil
	}
	for k.used+what.allocated > k.limit {
		more, err := k.evict(k.used+what.allocated-k.limit, now)
		if err != nil || !more {
			return false, err
		}
	}
	k.here[r.object] = true
	k.used += what.allocated
	d := k.w.digests[r.object]
	k.turn++
	k.pending[r.object] = fresh{index.Record{
		Digest: d, Size: what.allocated, Allocated: what.allocated, Class: what.class, FirstSeen: now, LastUsed: now, Public: true,
	}, k.turn}
	return false, nil
}

func (k *builtIn) touch(o int32, now time.Time) {
	d := k.w.digests[o]
	if _, ok := k.touched[d]; ok || len(k.touched) < touchesKept {
		k.touched[d] = now
	}
}

// evict frees what is wanted and a little more; more is false if nothing can go.
func (k *builtIn) evict(want int64, now time.Time) (more bool, err error) {
	want += policy.Extra(k.limit)
	floors := policy.Floors(k.limit)
	inIndex := floors
	for o := range k.gone { // the index counts them
		inIndex[k.w.objects[o].class] += k.w.objects[o].allocated
	}
	lastTouch := func(d oci.Digest) time.Time { return k.touched[d] }
	passOver := func(d oci.Digest) bool { return k.gone[k.ids[d]] }
	victims, err := k.x.Victims(now, want, inIndex, lastTouch, passOver)
	if err != nil {
		return false, fmt.Errorf("victims: %w", err)
	}
	if len(victims) == 0 {
		victims = k.young(want, floors)
	}
	for _, v := range victims {
		o := k.ids[v.Digest]
		k.evicted = now.Sub(v.LastUsed)
		k.here[o] = false
		k.used -= v.Allocated
		delete(k.touched, v.Digest)
		if _, waits := k.pending[o]; waits {
			delete(k.pending, o)
		} else {
			k.gone[o] = true
		}
	}
	return len(victims) > 0, nil
}

// young picks from what is not recorded, as the cache does once the index has
// nothing to offer.
func (k *builtIn) young(want int64, floors [index.Classes]int64) (victims []index.Record) {
	held := k.x.Totals().Allocated
	for o := range k.gone {
		held[k.w.objects[o].class] -= k.w.objects[o].allocated
	}
	var all []fresh
	for _, p := range k.pending {
		held[p.Class] += p.Allocated
		if at := k.touched[p.Digest]; at.After(p.LastUsed) {
			p.LastUsed = at
		}
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b fresh) int {
		return cmp.Or(a.LastUsed.Compare(b.LastUsed), cmp.Compare(a.turn, b.turn))
	})
	for _, p := range all {
		if want > 0 && held[p.Class] > floors[p.Class] {
			held[p.Class] -= p.Allocated
			want -= p.Allocated
			victims = append(victims, p.Record)
		}
	}
	return victims
}

// checkpoint records what came since the last one.
func (k *builtIn) checkpoint() error {
	b := index.Batch{TouchAge: policy.TouchAge(k.evicted), Touch: map[oci.Digest]time.Time{}}
	for o := range k.gone {
		b.Delete = append(b.Delete, k.w.digests[o])
	}
	for _, p := range k.pending {
		if at, ok := k.touched[p.Digest]; ok {
			p.LastUsed = at
			delete(k.touched, p.Digest)
		}
		b.Put = append(b.Put, p.Record)
	}
	// In an order of their own, or a run would not be like the one before.
	slices.SortFunc(b.Put, func(a, b index.Record) int { return strings.Compare(a.Digest.String(), b.Digest.String()) })
	for _, d := range slices.SortedFunc(maps.Keys(k.touched), func(a, b oci.Digest) int { return strings.Compare(a.String(), b.String()) }) {
		if len(b.Touch) == touchesTaken {
			break
		}
		b.Touch[d] = k.touched[d]
		delete(k.touched, d)
	}
	if len(b.Delete)+len(b.Put)+len(b.Touch) == 0 {
		return nil
	}
	if err := k.x.Apply(b); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	clear(k.gone)
	clear(k.pending)
	return nil
}
