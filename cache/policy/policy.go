// Package policy has the numbers by which blobs are evicted, apart from the cache
// that uses them, so that the simulator in bench reckons with the same. Which blobs
// those are is the index's business (Index.Victims).
package policy

import (
	"time"

	"cistern/cache/index"
)

// Floors, in percent of the cap: small blobs and manifests are not evicted
// below them, since together they are next to nothing and each costs a round
// trip or a Hub pull. Above them they compete like the rest. Decision 20.
const (
	smallFloor    = 1
	manifestFloor = 10
)

// Floors gives what each class is not evicted below, in allocated bytes, under a
// cap of limit.
func Floors(limit int64) (floors [index.Classes]int64) {
	floors[index.ClassSmall] = limit * smallFloor / 100
	floors[index.ClassManifest] = limit * manifestFloor / 100
	return floors
}

const (
	extraShare = 512
	extraMost  = 4 << 20
)

// Extra is what is evicted beyond what is wanted, down to the low watermark: a
// share of the cap, so that not each fill into a full cache pays for a search of
// its own, and so little that it costs no hits.
func Extra(limit int64) int64 { return min(limit/extraShare, extraMost) }

const (
	touchShare    = 32
	leastTouchAge = time.Second
	calmTouchAge  = 10 * time.Second
)

// TouchAge is how old a recorded use must be to be worth replacing, if what was
// evicted last had not been used for evicted: where blobs live long, much older
// uses still give the right order; in a storm they live for seconds. 0 says that
// nothing was evicted yet.
func TouchAge(evicted time.Duration) time.Duration {
	if evicted <= 0 {
		return calmTouchAge
	}
	return max(leastTouchAge, evicted/touchShare)
}
