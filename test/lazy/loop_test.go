package lazy_test

import (
	"fmt"
	"net/http"
	"testing"

	"cistern/test/lab"
)

// TestLoop is FAULTS row 28 for ranges, a parent that leads to us: the daemon's upstream is the daemon itself, or another one whose upstream that is. What
// comes back is refused (P 2.33): nobody waits for himself, and no more comes back than was asked for.
func TestLoop(t *testing.T) {
	for name, parent := range map[string]bool{"itself": false, "by a parent": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr := lab.Addr()
			back := lab.NewFront(t, "http://"+addr) // writes down what comes back
			to := back.URL
			if parent {
				to = lab.StartCistern(t, lab.CisternOptions{Upstreams: map[string]string{"docker.io": to}}).URL
			}
			daemon := lab.StartCistern(t, lab.CisternOptions{Addr: addr, Upstreams: map[string]string{"docker.io": to}})
			r := &rig{origin: &origin{blobs: map[string]*blob{}}, t: t, daemon: daemon, client: http.DefaultClient}
			for _, spec := range []string{"", "0-99", "5000000-5100000", "5000000-", "-100", "5-6,7000000-7000009"} {
				b := r.blob(8 * mib)
				errs := make(chan error)
				for range 20 {
					go func() { errs <- r.turnedAway(b, spec) }()
				}
				for range 20 {
					r.must(<-errs)
				}
			}
			asked := back.Requests()
			if len(asked) == 0 || len(asked) > 2*6*20 { // to learn a size takes two
				t.Errorf("%d requests have come back for 6 times 20: %v", len(asked), asked)
			}
			for _, x := range asked {
				if x.Status != http.StatusLoopDetected {
					t.Errorf("not refused: %v", x)
				}
			}
		})
	}
}

// turnedAway asks for what nobody has.
func (r *rig) turnedAway(b *blob, spec string) error {
	ctx, stop := r.ctx()
	defer stop()
	a, err := r.open(ctx, b, spec, nil)
	if err != nil {
		return err
	}
	_ = a.Body.Close()
	if a.StatusCode < 400 {
		return fmt.Errorf("range %q: %s", spec, a.Status)
	}
	return nil
}
