package cache

import (
	"bytes"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"cistern/cache/index"
	"cistern/internal/oci"
)

// maxHot is the largest object kept in memory: manifests, configs and the
// small layers that make up half of all objects (WORKLOAD 3.1).
const maxHot = 32 << 10

// hotSet holds small verified objects, the least recently used of which go
// when their bytes pass the limit.
type hotSet struct {
	mu    sync.Mutex // guards all below
	lru   *simplelru.LRU[oci.Digest, *hotEntry]
	bytes int64
	limit int64
}

// hotEntry is immutable but for the time of its last use.
type hotEntry struct {
	data    []byte
	rec     index.Record
	touched atomic.Int64 // unix seconds of the last use that was noted
}

// cost is what an entry takes: its bytes, which the allocator rounds up by up to
// an eighth, and its bookkeeping: 176 bytes for itself, 80 for the list, 80 for
// the digest, some 64 for the map.
func (e *hotEntry) cost() int64 { return int64(len(e.data)+len(e.data)/8) + 400 }

func newHotSet(limit int64) *hotSet {
	h := &hotSet{limit: limit}
	// The count never limits: bytes do. The callback keeps their sum.
	h.lru, _ = simplelru.NewLRU(int(limit/400)+1, func(_ oci.Digest, e *hotEntry) { h.bytes -= e.cost() })
	return h
}

func (h *hotSet) get(d oci.Digest) (*hotEntry, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.lru.Get(d)
}

func (h *hotSet) add(rec index.Record, data []byte) {
	rec.Digest = rec.Digest.Clone()
	if cap(data)-len(data) > len(data)/8 { // it was read without knowing how long it is
		data = bytes.Clone(data)
	}
	e := &hotEntry{data: data, rec: rec}
	e.touched.Store(time.Now().Unix())
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lru.Remove(rec.Digest)
	h.bytes += e.cost()
	h.lru.Add(rec.Digest, e)
	for h.bytes > h.limit {
		if _, _, ok := h.lru.RemoveOldest(); !ok {
			return
		}
	}
}

func (h *hotSet) remove(d oci.Digest) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lru.Remove(d)
}
