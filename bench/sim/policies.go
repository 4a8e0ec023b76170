package sim

import (
	"time"

	"cistern/cache/index"
	"cistern/cache/policy"
)

// BuiltIn is the policy of the cache, by the real index.
func BuiltIn() Policy {
	return Policy{"built-in", func(w *Work, limit int64, dir string) (keeper, error) { return newBuiltIn(w, limit, dir) }}
}

// Model is the policy of the cache in memory, exact to the request.
func Model() Policy {
	return inMemory("model", func(w *Work, limit int64) *segmented {
		return newSegmented(w, limit, rules{floors: policy.Floors(limit), once: index.OnceAges, burst: index.AgainAfter})
	})
}

// LRU is what the others are compared with.
func LRU() Policy { return inMemory("lru", newLRU) }

// Reserve is LRU with the cache's floors and nothing else.
func Reserve() Policy {
	return inMemory("reserve", func(w *Work, limit int64) *segmented {
		return newSegmented(w, limit, rules{floors: policy.Floors(limit)})
	})
}

// Probation is Reserve with a segment of that share of the cap for large blobs that
// were used once.
func Probation(share float64, burst time.Duration) Policy {
	return inMemory("probation", func(w *Work, limit int64) *segmented {
		return newSegmented(w, limit, rules{floors: policy.Floors(limit), probation: share, burst: burst})
	})
}

// What Policies has of Probation.
const (
	probationShare = 0.15
	probationBurst = 5 * time.Minute
)

// Policies are all that are compared, the built-in one first.
func Policies() []Policy {
	return []Policy{
		BuiltIn(), LRU(), Reserve(), Probation(probationShare, probationBurst),
		inMemory("s3-fifo", newS3FIFO), inMemory("gdsf-log", newGDSF), inMemory("belady", newBelady),
		inMemory("infinite", func(w *Work, _ int64) *infinite { return &infinite{make([]bool, len(w.objects))} }),
	}
}

func inMemory[K keeper](name string, make func(w *Work, limit int64) K) Policy {
	return Policy{name, func(w *Work, limit int64, _ string) (keeper, error) { return make(w, limit), nil }}
}
