package crash_test

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"cistern/test/lab"
)

// TestEvictedComesBack is FAULTS row 41 for evictions: with a journal that is not committed, what was unlinked is there
// again after a power cut. As long as it can come back its record must not go: a file without one is counted by nobody.
func TestEvictedComesBack(t *testing.T) {
	t.Parallel()
	s := stage(t, ext4("commit=1000"), 32*mib)
	for range 3 {
		s.pull(s.blobs(20, mib)...)
		s.recorded()
	}
	s.pull(s.blobs(12, mib)...) // evicts as many, and the power goes before a checkpoint, or just after
	if n := s.daemon.Metric(t, "cistern_evicted_blobs_total"); n < 30 {
		t.Fatalf("void: %.0f were evicted", n)
	}
	s.cutPower()
	s.counted()
}

// TestRemovedComesBack is the same for what an operator has removed.
func TestRemovedComesBack(t *testing.T) {
	t.Parallel()
	s := stage(t, ext4("commit=1000"), large)
	s.pull(s.blobs(20, mib)...)
	for range 60 {
		s.pull(s.world.newTag()) // of up to three of the blobs each: with the images go their blobs
	}
	s.recorded()
	was := s.daemon.Metric(t, "cistern_checkpoints_total")
	resp, err := http.Post(s.daemon.Admin+"/api/v1/rm?image="+repository, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status)
	}
	lab.Eventually(t, 10*time.Second, s.daemon.Process, func() error {
		if s.daemon.Metric(t, "cistern_checkpoints_total") <= was {
			return fmt.Errorf("no checkpoint")
		}
		return nil
	})
	if used := s.used(); used > 10*mib {
		t.Fatalf("void: %d bytes are in use after the removal", used)
	}
	s.cutPower()
	s.counted()
}

// TestCapWhileSyncing is FAULTS row 38 beside the cap: a checkpoint has the files open that it syncs. If they are evicted
// meanwhile their space is not free before the sync is over, and must not be promised to others.
func TestCapWhileSyncing(t *testing.T) {
	t.Parallel()
	s := stage(t, ext4(""), 32*mib)
	attach(t, s.daemon, "-e", "trace=fsync", "-e", "inject=fsync:delay_enter=3s")
	ends := time.After(7 * time.Second)
	stop := make(chan struct{})
	var running sync.WaitGroup
	for range 4 {
		running.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					if r := s.client.do(t.Context(), ask{x: s.blobs(1, 2*mib)[0]}); r.err != nil {
						t.Error(r.err)
					}
				}
			}
		})
	}
	most := int64(0)
	for going := true; going; {
		select {
		case <-ends:
			going = false
		case <-time.After(2 * time.Millisecond):
		}
		most = max(most, s.used())
	}
	close(stop)
	running.Wait()
	if n := s.daemon.Metric(t, "cistern_evicted_blobs_total"); n < 50 {
		t.Errorf("void: %.0f were evicted", n)
	}
	if most > s.limit {
		t.Errorf("OVER THE CAP: %d bytes were in use of %d", most, s.limit)
	}
}
