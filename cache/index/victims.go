package index

import (
	"bytes"
	"container/heap"
	"math"
	"time"

	bolt "go.etcd.io/bbolt"

	"cistern/internal/oci"
)

// maxVictims bounds one call: a thousand deletions are a transaction's worth.
const maxVictims = 1000

// Victims gives the least recently used blobs, oldest first over all classes,
// until they allocate want bytes or are 1,000. A large blob that was not used again
// (AgainAfter) counts OnceAges times as old as it is at now; with the zero time all
// ages are what they are. A class is not taken below its floor (allocated bytes, by Class): what would, and all younger ones of that
// class, are left. pendingTouch gives a use that is not stored yet, or the zero
// time; if it is later than the stored one it decides. Blobs for which skip
// says true are passed over. Both may be nil, must not call the Index, and are
// called without other locks.
//
// Victims changes nothing: until they are deleted, they come again.
func (x *Index) Victims(now time.Time, want int64, floors [Classes]int64, pendingTouch func(oci.Digest) time.Time, skip func(oci.Digest) bool) (victims []Record, err error) {
	if want <= 0 {
		return nil, x.Broken()
	}
	left := x.Totals().Allocated
	err = x.view("victims", func(tx *bolt.Tx) error {
		o := newOrder(x, tx, now, pendingTouch, skip)
		defer o.passOn()
		for want > 0 && len(victims) < maxVictims {
			c, ok := o.next()
			if !ok {
				return nil
			}
			if left[c.class]-c.allocated < floors[c.class] {
				o.end(c.class)
				continue
			}
			r, ok := x.full(tx, c.key, c.digest, c.stored)
			if !ok {
				continue
			}
			left[c.class] -= c.allocated
			want -= c.allocated
			victims = append(victims, r)
		}
		return nil
	})
	return victims, err
}

// candidate is a blob with its place in the order.
type candidate struct {
	stored
	key    []byte // of blobs; valid within the transaction
	digest oci.Digest
	rank   int64 // the use that counts, or how long ago that counts as
}

func (c candidate) before(d candidate) bool {
	if c.rank != d.rank {
		return c.rank < d.rank
	}
	return bytes.Compare(c.key, d.key) < 0
}

// later holds blobs whose pending touch outranks the place where the walk met
// them, oldest first. It is a heap.Interface.
type later []candidate

func (l later) Len() int           { return len(l) }
func (l later) Less(i, j int) bool { return l[i].before(l[j]) }
func (l later) Swap(i, j int)      { l[i], l[j] = l[j], l[i] }
func (l *later) Push(c any)        { *l = append(*l, c.(candidate)) }
func (l *later) Pop() any {
	last := len(*l) - 1
	c := (*l)[last]
	*l = (*l)[:last]
	return c
}

// order merges the orders of use of the classes.
type order struct {
	x       *Index
	tx      *bolt.Tx
	now     uint64 // 0: ages are not weighed
	pending func(oci.Digest) time.Time
	skip    func(oci.Digest) bool
	blobs   *bolt.Cursor
	paths   [lanes]path
	ended   [Classes]bool
	later   later
	calling bool // one of the caller's functions
}

// path is the way through one lane of recency.
type path struct {
	lane   lane
	cursor *bolt.Cursor // nil: walked to its end
	begun  bool
	head   *candidate // nil: to be looked for
}

func newOrder(x *Index, tx *bolt.Tx, now time.Time, pending func(oci.Digest) time.Time, skip func(oci.Digest) bool) *order {
	o := &order{x: x, tx: tx, now: nanos(now), pending: pending, skip: skip, blobs: tx.Bucket(bucketBlobs).Cursor()}
	for l := range o.paths {
		o.paths[l] = path{lane: lane(l), cursor: tx.Bucket(bucketRecency).Cursor()}
	}
	return o
}

// end takes a class out.
func (o *order) end(c Class) {
	o.ended[c] = true
	o.paths[c] = path{}
	if c == ClassLarge {
		o.paths[laneAgain] = path{}
	}
}

// next gives the oldest candidate of all.
func (o *order) next() (candidate, bool) {
	var best *path
	for l := range o.paths {
		w := &o.paths[l]
		o.fill(w)
		if w.head != nil && (best == nil || w.head.before(*best.head)) {
			best = w
		}
	}
	for len(o.later) > 0 && (best == nil || o.later[0].before(*best.head)) {
		c := heap.Pop(&o.later).(candidate)
		if !o.ended[c.class] { // else the class is at its floor
			return c, true
		}
	}
	if best == nil {
		return candidate{}, false
	}
	c := *best.head
	best.head = nil
	return c, true
}

// fill looks for a lane's next candidate.
func (o *order) fill(w *path) {
	prefix := []byte{byte(w.lane)}
	for w.cursor != nil && w.head == nil {
		var k []byte
		if w.begun {
			k, _ = w.cursor.Next()
		} else {
			k, _ = w.cursor.Seek(prefix)
			w.begun = true
		}
		if !bytes.HasPrefix(k, prefix) { // also nil: the end
			w.cursor = nil
			return
		}
		c, ok := o.candidate(k)
		switch {
		case !ok:
		case c.rank > o.rank(w.lane, c.last):
			heap.Push(&o.later, c)
		default:
			w.head = &c
		}
	}
}

// rank is where in the order a use at that time stands in a lane. In one lane a
// later use has a higher rank.
func (o *order) rank(l lane, used uint64) int64 {
	rank := int64(min(used, math.MaxInt64))
	if l == lane(ClassLarge) && used < o.now {
		// OnceAges being 2, never below -now.
		rank -= (OnceAges - 1) * int64(o.now-used)
	}
	return rank
}

// candidate reads what a recency key stands for; one that stands for nothing is
// noted.
func (o *order) candidate(k []byte) (candidate, bool) {
	l, last, key, ok := cutRecency(k)
	d, rest, dok := cutDigest(key)
	if !ok || !dok || len(rest) != 0 {
		o.x.noteBad(bucketRecency, k)
		return candidate{}, false
	}
	if o.skips(d) {
		return candidate{}, false
	}
	found, v := o.blobs.Seek(key)
	s, rok := decodeRecord(key, v)
	if !bytes.Equal(found, key) || !rok || !s.mayStandIn(l) || s.last != last {
		if bytes.Equal(found, key) && !rok { // else its blob would never be evicted
			o.x.noteBad(bucketBlobs, key)
		}
		o.x.noteBad(bucketRecency, k)
		return candidate{}, false
	}
	used := last
	if at := o.pendingUse(d); at > last {
		used = at
		if s.class == ClassLarge && again(s.first, at) {
			l = laneAgain // as it will be once the use is stored
		}
	}
	return candidate{stored: s, key: key, digest: d, rank: o.rank(l, used)}, true
}

func (o *order) skips(d oci.Digest) bool {
	if o.skip == nil {
		return false
	}
	o.calling = true
	skips := o.skip(d)
	o.calling = false
	return skips
}

func (o *order) pendingUse(d oci.Digest) uint64 {
	if o.pending == nil {
		return 0
	}
	o.calling = true
	at := o.pending(d)
	o.calling = false
	return nanos(at)
}

// passOn is deferred: a panic of the caller's function is not the file's.
func (o *order) passOn() {
	if o.calling {
		if p := recover(); p != nil {
			panic(callerPanic{p})
		}
	}
}
