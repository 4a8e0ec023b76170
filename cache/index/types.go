package index

import (
	"time"

	"cistern/internal/oci"
)

// Class decides in which order of use a blob stands, each class having a floor.
type Class uint8

// The classes. Their numbers are on disk.
const (
	ClassLarge    Class = iota // more than 128 KiB
	ClassSmall                 // up to 128 KiB
	ClassManifest              // manifests and indexes, of whatever size
	Classes       = 3          // how many there are
)

// smallMost is the largest of ClassSmall, in bytes. A record keeps the class that
// it was put with.
const smallMost = 128 << 10

// What makes a large blob that was wanted once, as by a scanner, leave before one
// that is wanted again and again. Decision 20.
const (
	// AgainAfter is when after its coming a blob's use counts as one after the
	// first: a burst of pulls is one use.
	AgainAfter = 5 * time.Minute
	// OnceAges is how many times as old a large blob counts that was not used again.
	OnceAges = 2
)

// lane is a part of the order of use: one for each class, by its number, and one
// more. Their numbers are on disk.
type lane uint8

const (
	laneAgain = Classes // ClassLarge that was used again
	lanes     = Classes + 1
)

// ClassOf gives the class of a blob of size bytes.
func ClassOf(size int64, manifest bool) Class {
	switch {
	case manifest:
		return ClassManifest
	case size <= smallMost:
		return ClassSmall
	}
	return ClassLarge
}

// String is the class's name in metrics and tables.
func (c Class) String() string {
	switch c {
	case ClassLarge:
		return "large"
	case ClassSmall:
		return "small"
	case ClassManifest:
		return "manifest"
	}
	return "unknown"
}

// Record says that a blob was verified and is on stable storage. Times have
// nanoseconds; one before 1970 is stored as the zero time.
type Record struct {
	Digest    oci.Digest
	Size      int64 // bytes of content
	Allocated int64 // bytes on disk, as blob.Ingest.Commit gave them
	MediaType string
	Class     Class
	FirstSeen time.Time
	LastUsed  time.Time
	Public    bool   // obtained without credentials: needs no grant
	Origin    string // where it came from; one of few, since interned for ever
}

// Tag is what a tag last resolved to.
type Tag struct {
	oci.Reference                // Tag set
	Target        oci.Descriptor // Size -1 if unknown
	Checked       time.Time      // when upstream last said so
	Changed       time.Time      // when it last said something else
	Public        bool
}

// Grant is the knowledge that upstream serves a digest under a repository.
type Grant struct {
	oci.Repository
	Digest oci.Digest
	At     time.Time
}

// Batch is what one Apply changes, in this order: Delete, Departed, Put, Touch, tags,
// grants. A later entry for the same key wins: a digest that is deleted and put
// has the new record, and of the grants only those that are put with it.
type Batch struct {
	Delete     []oci.Digest // record, recency and all grants of the digest
	Departed   []Departure  // remembered, the last Remembered of them
	Put        []Record     // replaces the record of that digest, grants stay
	Touch      map[oci.Digest]time.Time
	TouchAge   time.Duration // a touch is stored if the stored one differs by more; 0: 10 s
	PutTags    []Tag
	DeleteTags []oci.Reference
	PutGrants  []Grant // to be given only for digests with a record, else nothing ever deletes them
}

// Totals count the records of each class.
type Totals struct {
	Blobs     [Classes]int64
	Allocated [Classes]int64 // bytes
}

// Sum adds up all classes.
func (t Totals) Sum() (blobs, allocated int64) {
	for c := range Classes {
		blobs += t.Blobs[c]
		allocated += t.Allocated[c]
	}
	return blobs, allocated
}

func (t *Totals) add(r stored, sign int64) {
	t.Blobs[r.class] += sign
	t.Allocated[r.class] += sign * r.allocated
}

// Stats are counts since Open.
type Stats struct {
	Commits   uint64 // bbolt transactions written
	BadValues uint64 // values met whose checksum did not match
	Refused   uint64 // entries of batches left out: a name longer than 1 KiB, a class unknown
}
