package disk_test

import (
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"cistern/test/lab"
)

// TestRemoveBesidePulls is FAULTS row 51 for `cistern rm`: an operator drops images again and again while eight clients pull them. Each
// pull is whole, the account never goes below zero, and in the end it is what lies on disk.
func TestRemoveBesidePulls(t *testing.T) {
	t.Parallel()
	r := start(t, settings{cap: 64 * mib})
	shared := r.blob(2 * mib)
	all := []*blob{shared}
	var names []string
	for i := range 6 {
		name := fmt.Sprint("v", i)
		layers := []*blob{shared, r.blob(300_000 + i), r.blob(20_000 + i), r.blob(3*mib + i)}
		all = append(append(all, layers[1:]...), r.image(name, layers...))
		names = append(names, repository+":"+name)
	}
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for n := range 8 {
		clients.Go(func() {
			for i := n; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				if a := r.get(all[(i*7)%len(all)]); a.err != nil {
					t.Errorf("%q: %v", a.outcome, a.err)
				}
			}
		})
	}
	for i := range 20 {
		if err := r.remove(names[i%len(names)]); err != nil {
			t.Error(err)
		}
		for _, name := range []string{"cistern_cache_bytes", "cistern_cache_blobs"} {
			if n := r.daemon.Metric(t, name); n < 0 {
				t.Errorf("%s is %v", name, n)
			}
		}
	}
	close(stop)
	clients.Wait()
	r.keeps(all...)
	r.accounts()
	if err := r.remove(repository); err != nil {
		t.Fatal(err)
	}
	r.misses(all...)
	r.keeps(all...)
	r.accounts()
}

// remove runs the operator's command.
func (r *rig) remove(image string) error {
	admin := strings.TrimPrefix(r.daemon.Admin, "http://")
	_, err := lab.Run(r.t.Context(), exec.Command(lab.Binary(r.t), "rm", image, "--admin", admin))
	return err
}
