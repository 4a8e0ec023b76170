package index

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"

	"cistern/internal/oci"
)

const (
	// perTx bounds a transaction, in entries: each dirties three random leaves
	// and what leads to them. A name longer than textPerEntry bytes counts as
	// more than one.
	perTx        = 1000
	textPerEntry = 256
	// minTouchAge is Batch.TouchAge's default.
	minTouchAge = 10 * time.Second
	// recencyFill: the order of use grows at its end, so pages are left fuller
	// than bbolt's half. blobsFill: digests come anywhere, but in a rebuilding
	// they come in order too; it makes the file 5 to 10 % smaller.
	recencyFill = 0.9
	blobsFill   = 0.6
)

// Apply makes a batch durable: in one transaction, or in several, in the
// batch's order, if it has more than a thousand entries. It waits for fsync. An
// error that is no ErrBroken (a full disk) leaves undone what was not applied
// yet; the same batch may be tried again.
func (x *Index) Apply(b Batch) error {
	x.applyMu.Lock()
	defer x.applyMu.Unlock()
	bad := x.takeBad()
	rest := part{Batch: b, touch: slices.Collect(maps.Keys(b.Touch))}
	if rest.empty() && len(bad) == 0 {
		return x.Broken()
	}
	for first := true; first || !rest.empty(); first = false {
		w := &writer{x: x, batch: rest.cut(), at: b.Touch, age: max(b.TouchAge, 0)}
		if w.age == 0 {
			w.age = minTouchAge
		}
		if first {
			w.bad = bad
		}
		if err := x.update("apply", w.run, func() { x.totals.Store(&w.totals) }); err != nil {
			return err
		}
	}
	return nil
}

// part is a piece of a batch; its Touch is not used, but touch.
type part struct {
	Batch
	touch []oci.Digest
}

func (p *part) empty() bool {
	return len(p.Delete)+len(p.Departed)+len(p.Put)+len(p.touch)+len(p.PutTags)+len(p.DeleteTags)+len(p.PutGrants) == 0
}

// cut takes a transaction's worth off the front.
func (p *part) cut() (front part) {
	room := perTx
	names := func(texts ...string) int {
		n := 1
		for _, text := range texts {
			n += min(len(text), maxName) / textPerEntry
		}
		return n
	}
	one := func(oci.Digest) int { return 1 }
	front.Delete = cutOff(&p.Delete, &room, one)
	front.Departed = cutOff(&p.Departed, &room, func(Departure) int { return 1 })
	front.Put = cutOff(&p.Put, &room, func(r Record) int { return names(r.MediaType, r.Origin) })
	front.touch = cutOff(&p.touch, &room, one)
	front.PutTags = cutOff(&p.PutTags, &room, func(t Tag) int {
		return names(t.Upstream, t.Name, t.Reference.Tag, t.Target.MediaType)
	})
	front.DeleteTags = cutOff(&p.DeleteTags, &room, func(oci.Reference) int { return 1 })
	front.PutGrants = cutOff(&p.PutGrants, &room, func(g Grant) int { return names(g.Upstream, g.Name) })
	return front
}

func cutOff[T any](list *[]T, room *int, cost func(T) int) []T {
	n := 0
	for ; n < len(*list) && *room > 0; n++ {
		*room -= cost((*list)[n])
	}
	front := (*list)[:n:n]
	*list = (*list)[n:]
	return front
}

// writer is one write transaction.
type writer struct {
	x       *Index
	batch   part
	at      map[oci.Digest]time.Time // of its touches
	age     time.Duration
	bad     []badKey
	totals  Totals
	recount bool // a damaged record went: nobody knows what it counted
	touched bool // a touch was stored

	tx             *bolt.Tx
	blobs, recency *bolt.Bucket
}

func (w *writer) run(tx *bolt.Tx) error {
	if err := addBuckets(tx); err != nil {
		return err
	}
	w.tx, w.blobs, w.recency = tx, tx.Bucket(bucketBlobs), tx.Bucket(bucketRecency)
	w.recency.FillPercent, w.blobs.FillPercent = recencyFill, blobsFill
	w.totals = w.x.Totals()
	for _, step := range []func() error{w.dropBad, w.deletes, w.departures, w.puts, w.touches, w.tags, w.grants} {
		if err := step(); err != nil {
			return err
		}
	}
	onlyTouches := w.batch
	onlyTouches.touch = nil
	if onlyTouches.empty() && len(w.bad) == 0 && !w.touched {
		return errUnchanged
	}
	if w.recount {
		w.totals = w.x.count(tx)
	}
	return putTotals(tx, w.totals)
}

// take removes a record from the order of use and from the totals.
func (w *writer) take(key []byte) (stored, bool, error) {
	v := w.blobs.Get(key)
	if v == nil {
		return stored{}, false, nil
	}
	s, ok := decodeRecord(key, v)
	if !ok {
		w.recount = true
		return stored{}, false, nil
	}
	w.totals.add(s, -1)
	err := w.recency.Delete(recencyKey(s.lane(), s.last, key))
	if s.lane() != lane(s.class) { // of before there was laneAgain
		err = firstError(err, w.recency.Delete(recencyKey(lane(s.class), s.last, key)))
	}
	return s, true, err
}

func (w *writer) put(key []byte, s stored) error {
	w.totals.add(s, +1)
	if err := w.recency.Put(recencyKey(s.lane(), s.last, key), nil); err != nil {
		return err
	}
	return w.blobs.Put(key, s.encode(key))
}

func (w *writer) puts() error {
	departed := w.tx.Bucket(bucketDeparted)
	for _, r := range w.batch.Put {
		mediaType, ok1, err1 := intern(w.tx, r.MediaType)
		origin, ok2, err2 := intern(w.tx, r.Origin)
		if err1 != nil || err2 != nil {
			return fmt.Errorf("intern names of %s: %w", r.Digest, firstError(err1, err2))
		}
		if !ok1 || !ok2 || r.Class >= Classes || r.Size < 0 || r.Allocated < 0 || r.Digest.IsZero() {
			w.x.refused.Add(1)
			continue
		}
		key := digestKey(r.Digest)
		if _, _, err := w.take(key); err != nil {
			return err
		}
		if err := departed.Delete(key); err != nil { // it is here again
			return err
		}
		err := w.put(key, stored{
			class: r.Class, public: r.Public, size: r.Size, allocated: r.Allocated,
			first: nanos(r.FirstSeen), last: nanos(r.LastUsed), mediaType: mediaType, origin: origin,
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *writer) touches() error {
	for _, d := range w.batch.touch {
		if d.IsZero() {
			continue
		}
		key := digestKey(d)
		v := w.blobs.Get(key)
		s, ok := decodeRecord(key, v)
		if v == nil || !ok {
			continue // gone since, or the next reader notes it
		}
		// Also when the stored one is later: then the clock was set back, and
		// it would keep its place until that time comes again.
		at := nanos(w.at[d])
		moved := s
		moved.last = at
		if max(at, s.last)-min(at, s.last) < uint64(w.age) && moved.lane() == s.lane() {
			continue
		}
		s, _, err := w.take(key)
		if err != nil {
			return err
		}
		s.last, w.touched = at, true
		if err := w.put(key, s); err != nil {
			return err
		}
	}
	return nil
}

func (w *writer) deletes() error {
	grants := w.tx.Bucket(bucketGrants)
	for _, d := range w.batch.Delete {
		if d.IsZero() {
			continue
		}
		key := digestKey(d)
		if _, _, err := w.take(key); err != nil {
			return err
		}
		if err := w.blobs.Delete(key); err != nil {
			return err
		}
		c := grants.Cursor()
		for k, _ := c.Seek(key); bytes.HasPrefix(k, key); k, _ = c.Seek(key) {
			if err := c.Delete(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *writer) tags() error {
	bucket := w.tx.Bucket(bucketTags)
	for _, t := range w.batch.PutTags {
		mediaType, ok, err := intern(w.tx, t.Target.MediaType)
		if err != nil {
			return err
		}
		key, known, err := w.tagKey(t.Reference)
		if err != nil {
			return err
		}
		if !ok || !known || t.Target.Digest.IsZero() || t.Target.Size < -1 {
			w.x.refused.Add(1)
			continue
		}
		s := storedTag{
			public: t.Public, size: t.Target.Size, checked: nanos(t.Checked), changed: nanos(t.Changed),
			mediaType: mediaType, target: t.Target.Digest,
		}
		if err := bucket.Put(key, s.encode(key)); err != nil {
			return err
		}
	}
	for _, r := range w.batch.DeleteTags {
		if id, ok := nameID(w.tx, repoText(r.Repository)); ok {
			if err := bucket.Delete(tagKey(id, r.Tag)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *writer) tagKey(r oci.Reference) (key []byte, ok bool, err error) {
	id, ok, err := intern(w.tx, repoText(r.Repository))
	return tagKey(id, r.Tag), ok && r.Tag != "" && len(r.Tag) <= maxName, err
}

func (w *writer) grants() error {
	bucket := w.tx.Bucket(bucketGrants)
	for _, g := range w.batch.PutGrants {
		id, ok, err := intern(w.tx, repoText(g.Repository))
		if err != nil {
			return err
		}
		if !ok || g.Digest.IsZero() {
			w.x.refused.Add(1)
			continue
		}
		key := grantKey(g.Digest, id)
		if err := bucket.Put(key, encodeGrant(key, nanos(g.At))); err != nil {
			return err
		}
	}
	return nil
}

func tagKey(repo uint32, tag string) []byte {
	return append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(tag)), repo), tag...)
}

// grantKey has the digest first, so that a blob's grants go with it by a walk
// over its prefix.
func grantKey(d oci.Digest, repo uint32) []byte {
	return binary.BigEndian.AppendUint32(digestKey(d), repo)
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
