package sim

// infinite never evicts: no policy has more hits.
type infinite struct{ here []bool }

func (k *infinite) get(r request) (bool, error) {
	hit := k.here[r.object]
	if !r.head {
		k.here[r.object] = true
	}
	return hit, nil
}

func (*infinite) held() int64 { return 0 } // its cache has no size

func (*infinite) close() error { return nil }

// lru evicts what was used longest ago, whatever it is.
type lru struct {
	objects []object
	limit   int64
	here    []bool
	order   list
}

func newLRU(w *Work, limit int64) *lru {
	return &lru{w.objects, limit, make([]bool, len(w.objects)), newList(newLinks(len(w.objects)))}
}

func (k *lru) get(r request) (bool, error) {
	size := k.objects[r.object].allocated
	if k.here[r.object] {
		k.order.remove(r.object, size)
		k.order.push(r.object, size)
		return true, nil
	}
	if r.head || size > k.limit {
		return false, nil
	}
	for k.order.bytes+size > k.limit {
		victim := k.order.oldest
		k.here[victim] = false
		k.order.remove(victim, k.objects[victim].allocated)
	}
	k.here[r.object] = true
	k.order.push(r.object, size)
	return false, nil
}

func (k *lru) held() int64 { return k.order.bytes }

func (*lru) close() error { return nil }

// s3fifo is S3-FIFO by bytes: what is new goes into a queue of a tenth of the cache,
// and into the main one if it was used more than once there, or comes back soon
// after it left.
type s3fifo struct {
	objects            []object
	limit              int64
	place              []place
	uses               []uint8 // since it came in, three at most
	small, main, ghost list
}

// place says where an object is.
type place uint8

const (
	nowhere place = iota
	inSmall
	inMain
	inGhost
)

func newS3FIFO(w *Work, limit int64) *s3fifo {
	l := newLinks(len(w.objects))
	return &s3fifo{
		objects: w.objects, limit: limit, place: make([]place, len(w.objects)), uses: make([]uint8, len(w.objects)),
		small: newList(l), main: newList(l), ghost: newList(l),
	}
}

func (k *s3fifo) get(r request) (bool, error) {
	o, size := r.object, k.objects[r.object].allocated
	if k.place[o] == inSmall || k.place[o] == inMain {
		k.uses[o] = min(3, k.uses[o]+1)
		return true, nil
	}
	if r.head || size > k.limit {
		return false, nil
	}
	known := k.place[o] == inGhost
	if known {
		k.ghost.remove(o, size)
		k.place[o] = nowhere
	}
	for k.small.bytes+k.main.bytes+size > k.limit {
		k.evict()
	}
	k.uses[o] = 0
	if known {
		k.to(&k.main, inMain, o)
	} else {
		k.to(&k.small, inSmall, o)
	}
	return false, nil
}

func (k *s3fifo) held() int64 { return k.small.bytes + k.main.bytes }

func (*s3fifo) close() error { return nil }

func (k *s3fifo) to(l *list, p place, o int32) {
	l.push(o, k.objects[o].allocated)
	k.place[o] = p
}

// evict moves one object on.
func (k *s3fifo) evict() {
	if k.small.bytes >= k.limit/10 && k.small.oldest != nobody || k.main.oldest == nobody {
		o := k.small.oldest
		k.small.remove(o, k.objects[o].allocated)
		if k.uses[o] > 1 {
			k.uses[o] = 0
			k.to(&k.main, inMain, o)
			return
		}
		k.to(&k.ghost, inGhost, o)
		for k.ghost.bytes > k.limit*9/10 {
			o := k.ghost.oldest
			k.ghost.remove(o, k.objects[o].allocated)
			k.place[o] = nowhere
		}
		return
	}
	o := k.main.oldest
	k.main.remove(o, k.objects[o].allocated)
	if k.uses[o] > 0 {
		k.uses[o]--
		k.to(&k.main, inMain, o)
		return
	}
	k.place[o] = nowhere
}
