package policy_test

import (
	"testing"
	"time"

	"cistern/cache/index"
	"cistern/cache/policy"
)

// A cache that is all floors could evict nothing.
func TestFloorsLeaveRoom(t *testing.T) {
	t.Parallel()
	for _, limit := range []int64{0, 1 << 20, 100 << 30, 1 << 50} {
		sum := int64(0)
		for _, f := range policy.Floors(limit) {
			sum += f
		}
		if sum > limit/2 || sum < 0 {
			t.Errorf("floors of %d under a cap of %d", sum, limit)
		}
		if limit > 0 && policy.Floors(limit)[index.ClassManifest] == 0 {
			t.Errorf("manifests are exempt from nothing under a cap of %d", limit)
		}
		if e := policy.Extra(limit); e > limit/100 || e > 4<<20 {
			t.Errorf("%d beyond what is wanted under a cap of %d", e, limit)
		}
	}
}

func TestTouchAge(t *testing.T) {
	t.Parallel()
	for evicted, want := range map[time.Duration]time.Duration{
		0: 10 * time.Second, time.Second: time.Second, 64 * time.Second: 2 * time.Second, 32 * time.Minute: time.Minute, 32 * time.Hour: time.Hour,
	} {
		if got := policy.TouchAge(evicted); got != want {
			t.Errorf("%s after %s, want %s", got, evicted, want)
		}
	}
}
