package index

import (
	"encoding/binary"
	"time"

	bolt "go.etcd.io/bbolt"

	"cistern/internal/oci"
)

// Remembered is how many blobs that are gone are remembered, the last ones.
const Remembered = 1 << 14

// Why says why a blob is gone.
type Why uint8

// The reasons. Their numbers are on disk.
const (
	Evicted Why = 1 + iota // for others
	Removed                // by a person
	Damaged                // its file was not what its record said
	whyEnd
)

// Departure says of a blob that is gone when that was, and why, for whoever misses it.
// A blob that is put again has none any more.
type Departure struct {
	Digest   oci.Digest
	Why      Why
	At       time.Time
	LastUsed time.Time
	Size     int64 // bytes of content
}

// addedBuckets are what a file of an older program may lack: the first transaction makes
// them, and they mean nothing to that program.
func addedBuckets() [][]byte { return [][]byte{bucketDeparted, bucketDepartures} }

func addBuckets(tx *bolt.Tx) error {
	for _, name := range addedBuckets() {
		if _, err := tx.CreateBucketIfNotExists(name); err != nil {
			return err
		}
	}
	return nil
}

// Departed tells of a digest that has gone, if it is among those remembered. A value
// that is damaged is none.
func (x *Index) Departed(d oci.Digest) (dep Departure, known bool, err error) {
	if d.IsZero() {
		return Departure{}, false, nil
	}
	err = x.view("get", func(tx *bolt.Tx) error {
		bucket := tx.Bucket(bucketDeparted)
		if bucket == nil { // no transaction has made it yet
			return nil
		}
		key := digestKey(d)
		v := bucket.Get(key)
		if v == nil {
			return nil
		}
		if _, dep, known = decodeDeparture(key, v); !known {
			x.noteBad(bucketDeparted, key)
		}
		dep.Digest = d
		return nil
	})
	return dep, known, err
}

// departures remembers those of the batch, and forgets as many of the oldest as are
// too many.
func (w *writer) departures() error {
	bucket, order := w.tx.Bucket(bucketDeparted), w.tx.Bucket(bucketDepartures)
	for _, dep := range w.batch.Departed {
		if dep.Digest.IsZero() || dep.Why == 0 || dep.Why >= whyEnd || dep.Size < 0 {
			w.x.refused.Add(1)
			continue
		}
		n, err := order.NextSequence()
		if err != nil {
			return err
		}
		key := digestKey(dep.Digest)
		if err := bucket.Put(key, encodeDeparture(key, n, dep)); err != nil {
			return err
		}
		if err := order.Put(departureKey(n), key); err != nil {
			return err
		}
		if err := forgetDepartures(bucket, order, n); err != nil {
			return err
		}
	}
	return nil
}

// forgetDepartures drops the oldest, if the n-th is one too many: of a digest that has
// gone again since the later one stays.
func forgetDepartures(bucket, order *bolt.Bucket, n uint64) error {
	if n <= Remembered {
		return nil
	}
	first := departureKey(n - Remembered)
	key := order.Get(first)
	if seq, _, ok := decodeDeparture(key, bucket.Get(key)); ok && seq == n-Remembered {
		if err := bucket.Delete(key); err != nil {
			return err
		}
	}
	return order.Delete(first)
}

func departureKey(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

const departureLen = 2 + 4*8

func encodeDeparture(key []byte, n uint64, d Departure) []byte {
	b := make([]byte, 0, departureLen+crcLen)
	b = append(b, valueVersion, byte(d.Why))
	for _, v := range []uint64{n, uint64(d.Size), nanos(d.At), nanos(d.LastUsed)} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return seal(key, b)
}

func decodeDeparture(key, value []byte) (n uint64, d Departure, ok bool) {
	b, ok := unseal(key, value)
	if !ok || len(b) != departureLen || b[0] != valueVersion || b[1] == 0 || Why(b[1]) >= whyEnd {
		return 0, Departure{}, false
	}
	d = Departure{Why: Why(b[1]), Size: int64(be64(b[10:])), At: timeOf(be64(b[18:])), LastUsed: timeOf(be64(b[26:]))}
	return be64(b[2:]), d, d.Size >= 0
}
