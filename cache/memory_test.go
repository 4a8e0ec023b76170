package cache

import (
	"sync"
	"testing"

	"cistern/internal/oci"
)

// TestMemoryIsSharedInTurn: what a small blob was collected in holds no other one
// while somebody reads it, however many come meanwhile.
func TestMemoryIsSharedInTurn(t *testing.T) {
	t.Parallel()
	o, c := newOrigin(), open(t, Options{})
	for i := range uint64(8) {
		d := o.put(noise(100<<10, 900+i))
		content, err := c.Blob(t.Context(), o.repo("a"), d)
		if err != nil || content.Reader != nil || content.Outcome != OutcomeMiss {
			t.Fatalf("%+v, %v", content, err)
		}
		var wg sync.WaitGroup
		for j := range uint64(8) {
			next := o.put(noise(90<<10, 1000+8*i+j))
			wg.Go(func() {
				if got, outcome, err := c.get(o.repo("a"), next); err != nil || oci.FromBytes(got) != next || outcome != OutcomeMiss {
					t.Errorf("%d bytes, %v, %v", len(got), outcome, err)
				}
			})
		}
		wg.Wait()
		c.idle()
		if oci.FromBytes(content.Bytes) != d {
			t.Error("the memory was used for another blob while it was read")
		}
		content.Close()
		content.Close()
	}
}
