package crash_test

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"cistern/test/lab"
)

// standstill is longer than any bound of one pull: connecting (5 s), a header (10 s), a stall (10 s), an opening (10 s), all
// that a stream may be silent for (20 s).
const standstill = 23 * time.Second

// TestStandstill is FAULTS row 45: the process stands still under load, as one that was stopped or whose machine was moved,
// and goes on when each timer of what was under way has run out. Upstream has answered meanwhile, and is not at fault: no pull
// fails that a client would have waited for, upstream is not held for down, and it is not stormed.
func TestStandstill(t *testing.T) {
	t.Parallel()
	s := stage(t, ext4(""), large)
	warm := s.blobs(20, 300*kib)
	s.pull(warm...)
	under := append(s.blobs(1, 40*kib), append(s.blobs(1, 2*mib), s.blobs(1, 12*mib)...)...)
	under = append(under, s.world.newTag())
	var holds []*held
	for i, x := range under {
		at := int64(-1)
		if i == 2 {
			at = 3 * mib
		}
		holds = append(holds, s.origin.hold(x, at))
	}
	answers := s.begin(under...)
	for _, h := range holds {
		await(t, h.there, "upstream is asked")
	}
	s.until(func() error { // it has the header of the one whose body stands still
		if n := s.daemon.Metric(t, "cistern_flight_readers"); n != 1 {
			return fmt.Errorf("%v readers", n)
		}
		return nil
	})
	asked := s.origin.asked.Load()
	s.signal(syscall.SIGSTOP)
	for _, h := range holds {
		close(h.gate)
	}
	late := append(append([]*thing{}, warm...), s.blobs(10, 500*kib)...)
	queued := s.begin(late...) // they wait in the kernel
	<-time.After(standstill)
	s.signal(syscall.SIGCONT)
	for range under {
		if r := <-answers; r.err != nil {
			t.Errorf("under way: %v", r.err)
		}
	}
	for range late {
		if r := <-queued; r.err != nil {
			t.Errorf("come meanwhile: %v", r.err)
		}
	}
	if up := s.daemon.Metric(t, "cistern_upstream_up"); up != 1 {
		t.Errorf("upstream is held for down: %v", up)
	}
	// What was under way, once more at most; what came meanwhile; and the ping.
	if n, most := s.origin.asked.Load()-asked, int64(2*len(under)+10); n > most {
		t.Errorf("upstream was asked %d times, want %d at most", n, most)
	}
	s.origin.off.Store(true)
	if hits := s.pull(append(under, late...)...); hits != len(under)+len(late) {
		t.Errorf("%d of %d were kept", hits, len(under)+len(late))
	}
}

// begin asks for things, each at once, and sends what came of each.
func (s *scene) begin(things ...*thing) <-chan answer {
	answers := make(chan answer, len(things))
	for _, x := range things {
		go func() { answers <- s.client.do(s.t.Context(), ask{x: x}) }()
	}
	return answers
}

func (s *scene) until(ok func() error) {
	s.t.Helper()
	lab.Eventually(s.t, 20*time.Second, s.daemon.Process, ok)
}

func (s *scene) signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.daemon.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

func await(t *testing.T, done <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatalf("not within 20 s: %s", what)
	}
}
