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

	Degraded string // why nothing new is kept; "" when all is well
}

// Removed says what a removal took away.
type Removed struct {
	Tags  int   `json:"tags"`
	Blobs int   `json:"blobs"` // manifests included
	Bytes int64 `json:"bytes"` // allocated
}
