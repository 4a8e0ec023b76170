package sim

import (
	"container/heap"
	"math"
)

// ranked is an object with the rank that it had when it was put into a heap.
type ranked struct {
	rank   float64
	object int32
}

// ranks is a heap, the lowest rank first. Ranks that changed since are left in it,
// and passed over.
type ranks []ranked

func (r ranks) Len() int           { return len(r) }
func (r ranks) Less(i, j int) bool { return r[i].rank < r[j].rank }
func (r ranks) Swap(i, j int)      { r[i], r[j] = r[j], r[i] }
func (r *ranks) Push(x any)        { *r = append(*r, x.(ranked)) }
func (r *ranks) Pop() any {
	last := len(*r) - 1
	x := (*r)[last]
	*r = (*r)[:last]
	return x
}

// ranking is a cache that evicts the lowest rank.
type ranking struct {
	objects []object
	limit   int64
	used    int64
	here    []bool
	rank    []float64
	heap    ranks
}

func newRanking(w *Work, limit int64) ranking {
	return ranking{objects: w.objects, limit: limit, here: make([]bool, len(w.objects)), rank: make([]float64, len(w.objects))}
}

func (k *ranking) set(o int32, rank float64) {
	k.rank[o] = rank
	heap.Push(&k.heap, ranked{rank, o})
}

// lowest takes the object of the lowest rank off the heap; it is still here.
func (k *ranking) lowest() ranked {
	for {
		x := heap.Pop(&k.heap).(ranked)
		if k.here[x.object] && k.rank[x.object] == x.rank {
			return x
		}
	}
}

func (k *ranking) drop(o int32) {
	k.here[o] = false
	k.used -= k.objects[o].allocated
}

func (k *ranking) add(o int32) {
	k.here[o] = true
	k.used += k.objects[o].allocated
}

func (k *ranking) held() int64 { return k.used }

func (*ranking) close() error { return nil }

// gdsf is greedy-dual by frequency and the logarithm of size: an object is worth
// its uses over the digits of its size, plus what the last one evicted was worth.
type gdsf struct {
	ranking
	uses []float64
	aged float64
}

func newGDSF(w *Work, limit int64) *gdsf {
	return &gdsf{ranking: newRanking(w, limit), uses: make([]float64, len(w.objects))}
}

func (k *gdsf) get(r request) (bool, error) {
	o, size := r.object, k.objects[r.object].allocated
	hit := k.here[o]
	if !hit {
		if r.head || size > k.limit {
			return false, nil
		}
		for k.used+size > k.limit {
			x := k.lowest()
			k.aged = x.rank
			k.drop(x.object)
		}
		k.uses[o] = 0
		k.add(o)
	}
	k.uses[o]++
	k.set(o, k.aged+k.uses[o]/math.Log2(float64(size)+2))
	return hit, nil
}

// belady knows the future: it evicts what is asked for last, and does not take in
// what is asked for later than that.
type belady struct {
	ranking
	taken []ranked
}

func newBelady(w *Work, limit int64) *belady { return &belady{ranking: newRanking(w, limit)} }

func (k *belady) get(r request) (bool, error) {
	o, size := r.object, k.objects[r.object].allocated
	if r.head {
		return k.here[o], nil
	}
	if k.here[o] {
		if r.next == never {
			k.drop(o)
		} else {
			k.set(o, -float64(r.next))
		}
		return true, nil
	}
	if r.next == never || size > k.limit {
		return false, nil
	}
	k.taken = k.taken[:0]
	for free := k.limit - k.used; free < size; {
		x := k.lowest()
		k.taken = append(k.taken, x)
		if x.rank >= -float64(r.next) { // all that is left is asked for earlier
			for _, x := range k.taken {
				heap.Push(&k.heap, x)
			}
			return false, nil
		}
		free += k.objects[x.object].allocated
	}
	for _, x := range k.taken {
		k.drop(x.object)
	}
	k.add(o)
	k.set(o, -float64(r.next))
	return false, nil
}
