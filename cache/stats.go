package cache

// Stats is the cache at one moment; counters are since the start.
type Stats struct {
	Bytes    int64 // allocated by everything in the directory, fills included
	Reserved int64 // promised to fills and not written yet
	Limit    int64 // the cap; 0: none
	Blobs    int64 // whole ones, manifests included

	EvictedBytes uint64
	EvictedBlobs uint64
	EvictedAge   float64 // seconds since the last use of the blob evicted last

	FillsInFlight  int64
	FlightReaders  int64
	ResumedBytes   uint64 // not fetched again because they were on disk
	UnverifiedSent uint64 // range bytes delivered before their blob's digest was known to match
	Checkpoints    uint64
	Unbacked       uint64 // fills that went past the disk: full, broken, or no room in time

	VerifyFailures map[string]uint64 // by upstream
	StaleServed    map[string]uint64 // by upstream

	// What ranges cost upstream, by upstream: of blobs that are not here whole and
	// that nobody has asked for whole, the bytes that clients asked for and took, and
	// those that were fetched for them.
	RangeAsked, RangeFetched map[string]uint64

	Held map[string]float64 // by upstream: seconds that streams waited for what their bandwidth is limited to

	Mended      uint64 // hits whose file broke in the middle and that went on from upstream
	Damaged     uint64 // blobs whose file was not what its record says
	Stalled     uint64 // operations of fills that the disk did not come back from in time
	EvictedOpen int64  // bytes of Bytes that are evicted, and held by a reader still
	Syncs       uint64 // fsync calls for blobs and their folders
	Commits     uint64 // transactions of the index

	Panics uint64 // each ended one piece of work: a fill, a checkpoint ...

	Rebuild  Rebuild // of an index that was lost
	Scrub    Scrub
	Degraded string // why nothing new is kept; "" when all is well
}

// Removed says what a removal took away.
type Removed struct {
	Tags   int   `json:"tags"`
	Blobs  int   `json:"blobs"`            // manifests included
	Bytes  int64 `json:"bytes"`            // allocated
	Pinned int   `json:"pinned,omitempty"` // tags that stay, being pinned
	Kept   int   `json:"kept,omitempty"`   // blobs that stay, being pinned
	// Pins are by what they are kept, some of them.
	Pins []string `json:"pins,omitempty"`
}
