package sim

import (
	"time"

	"cistern/cache/index"
)

// rules are what a segmented cache goes by.
type rules struct {
	floors [index.Classes]int64
	// burst is how long after an object came a use by another pull is one that
	// counts: until then it is the same crowd.
	burst time.Duration
	// once is how many times as old a large blob counts that has had no use that
	// counts; 0: all ages are what they are.
	once float64
	// probation is a share of the cap: such blobs go first while they have more
	// than that, and stay as long as they have less. 0: no such share.
	probation float64
}

// segmented is a cache in memory, exact to the request, with an order of use for
// each class and one for large blobs that were not used again: the oldest of all
// goes first, no class is taken below its floor. By the rules it is the built-in
// policy, what that was before, or one with probation.
type segmented struct {
	rules
	objects []object
	limit   int64

	used    int64
	now     time.Duration
	lanes   [index.Classes]list
	novices list
	state   []lane
	last    []time.Duration // use
	turn    []int64         // of the last use: what came at the same instant has an order, too
	turns   int64
	first   []time.Duration // when the object came
	pull    []int32         // which brought it
}

// lane says in which list an object is.
type lane uint8

const (
	away lane = iota
	inLane
	novice
)

func newSegmented(w *Work, limit int64, r rules) *segmented {
	n := len(w.objects)
	l := newLinks(n)
	k := &segmented{
		rules: r, objects: w.objects, limit: limit, novices: newList(l), state: make([]lane, n),
		last: make([]time.Duration, n), turn: make([]int64, n), first: make([]time.Duration, n), pull: make([]int32, n),
	}
	for c := range k.lanes {
		k.lanes[c] = newList(l)
	}
	return k
}

func (k *segmented) get(r request) (bool, error) {
	o, what := r.object, k.objects[r.object]
	k.now = r.at
	hit := k.state[o] != away
	switch {
	case hit:
		k.listOf(o).remove(o, what.allocated)
		if k.state[o] == novice && r.pull != k.pull[o] && r.at-k.first[o] >= k.burst {
			k.state[o] = inLane
		}
	case r.head || what.allocated > k.limit || !k.room(what.allocated):
		return false, nil
	default:
		k.state[o] = inLane
		if what.class == index.ClassLarge && (k.once > 0 || k.probation > 0) {
			k.state[o] = novice
		}
		k.first[o], k.pull[o] = r.at, r.pull
		k.used += what.allocated
	}
	k.turns++
	k.last[o], k.turn[o] = r.at, k.turns
	k.listOf(o).push(o, what.allocated)
	return hit, nil
}

// room evicts until so many bytes are free; false if they cannot be.
func (k *segmented) room(size int64) bool {
	for k.used+size > k.limit {
		victim := k.victim()
		if victim == nobody {
			return false
		}
		k.listOf(victim).remove(victim, k.objects[victim].allocated)
		k.state[victim] = away
		k.used -= k.objects[victim].allocated
	}
	return true
}

func (k *segmented) held() int64 { return k.used }

func (*segmented) close() error { return nil }

func (k *segmented) listOf(o int32) *list {
	if k.state[o] == novice {
		return &k.novices
	}
	return &k.lanes[k.objects[o].class]
}

// victim is the object to go next, nobody if all that is left is below floors.
func (k *segmented) victim() int32 {
	best := int32(nobody)
	for c := range k.lanes {
		o := k.lanes[c].oldest
		if o == nobody || k.lanes[c].bytes-k.objects[o].allocated < k.floors[c] {
			continue
		}
		if index.Class(c) == index.ClassLarge && k.probation > 0 && k.novices.oldest != nobody {
			continue // see below
		}
		if best == nobody || k.turn[o] < k.turn[best] {
			best = o
		}
	}
	n, large := k.novices.oldest, k.lanes[index.ClassLarge].oldest
	switch {
	case n == nobody:
	case k.probation > 0:
		if large != nobody && float64(k.novices.bytes) <= k.probation*float64(k.limit) {
			n = large
		}
		if best == nobody || k.turn[n] < k.turn[best] {
			best = n
		}
	case best == nobody || float64(k.now-k.last[n])*k.once >= float64(k.now-k.last[best]):
		best = n
	}
	return best
}
