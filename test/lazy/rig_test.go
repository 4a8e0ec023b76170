package lazy_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cistern/test/lab"
)

// A rig is a daemon with its origin and a client.
type rig struct {
	*origin
	second *origin // where the daemon has two endpoints
	t      testing.TB
	daemon *lab.Cistern
	client *http.Client
}

// start starts a daemon whose cache may have so many bytes, with further settings of its upstream. When the test is over it must live, and no request of it may have
// asked upstream for anything but the whole or one closed range (P 4.22).
func start(t testing.TB, limit int64, settings ...string) *rig {
	t.Helper()
	o := startOrigin(t)
	return startFor(t, o, []string{"http://" + o.addr}, limit, settings...)
}

// startTwo is start with a second endpoint.
func startTwo(t testing.TB, limit int64, settings ...string) *rig {
	t.Helper()
	o, second := startOrigin(t), startOrigin(t)
	r := startFor(t, o, []string{"http://" + o.addr, "http://" + second.addr}, limit, settings...)
	r.second = second
	return r
}

func startFor(t testing.TB, o *origin, endpoints []string, limit int64, settings ...string) *rig {
	t.Helper()
	lab.NarrowBuffers(t) // what lies in them is the only thing that the bounds below allow for
	r := &rig{origin: o, t: t, client: &http.Client{Transport: &http.Transport{
		MaxIdleConnsPerHost: 64, DisableCompression: true,
	}}}
	t.Cleanup(r.client.CloseIdleConnections)
	config := fmt.Sprintf("cache: { max_size: %dB, min_free: 0B }\nupstreams:\n  docker.io:\n    endpoints: [%s]\n", limit, strings.Join(endpoints, ", "))
	for _, s := range settings {
		config += "    " + s + "\n"
	}
	r.daemon = lab.StartCistern(t, lab.CisternOptions{Config: config})
	t.Cleanup(r.check)
	return r
}

func (r *rig) check() {
	select {
	case <-r.daemon.Exited(): // a daemon that was started again has been ended by now, in order
		if code := r.daemon.ExitCode(); code != 0 {
			r.t.Errorf("the daemon has ended with exit code %d", code)
		}
	default:
	}
	for _, bad := range []string{"panic", "DATA RACE", "fatal error:"} {
		if strings.Contains(r.daemon.Output(), bad) {
			r.t.Errorf("the daemon's output has %q", bad)
		}
	}
	r.origin.mu.Lock()
	defer r.origin.mu.Unlock()
	one := regexp.MustCompile(`^(bytes=\d+-\d+)?$`)
	for _, a := range r.asks {
		if !one.MatchString(a.header) {
			r.t.Errorf("upstream was asked for %q", a.header)
		}
	}
}

// restart ends the daemon, by SIGTERM or SIGKILL, and starts it again on the same cache.
func (r *rig) restart(how syscall.Signal) {
	r.t.Helper()
	r.client.CloseIdleConnections()
	if how == syscall.SIGKILL {
		r.daemon.Kill()
	} else {
		r.daemon.Stop(r.t)
	}
	r.daemon.Restart(r.t)
}

// must ends the test at an error.
func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// parallel runs do for 0 to n-1, so many at once, and ends the test at an error.
func (r *rig) parallel(n, at int, do func(i int) error) {
	r.t.Helper()
	next := make(chan int)
	errs := make(chan error, n)
	var workers sync.WaitGroup
	for range at {
		workers.Go(func() {
			for i := range next {
				errs <- do(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	workers.Wait()
	close(errs)
	for err := range errs {
		r.must(err)
	}
}

// list says what upstream was asked for of a blob.
func (r *rig) list(b *blob) string {
	var s strings.Builder
	for i, a := range r.asked(b) {
		if i == 20 {
			s.WriteString("\n...")
			break
		}
		fmt.Fprintf(&s, "\nGET %q: %d of %d bytes sent", a.header, a.sent.Load(), a.end-a.off)
	}
	return s.String()
}

// fetched sees that upstream was asked for exactly these bytes of a blob, and for none of them twice.
func (r *rig) fetched(b *blob, want ...span) {
	r.t.Helper()
	got, twice := merged(spansOf(r.asked(b)))
	for i := range want {
		want[i].end = min(want[i].end, b.size())
	}
	want, _ = merged(want)
	if !slices.Equal(got, want) || twice > 0 {
		r.t.Fatalf("of %d bytes upstream was asked for %v, %d of them twice, instead of %v:%s", b.size(), got, twice, want, r.list(b))
	}
}

// failed sees that all faults of the blob have come to pass.
func (r *rig) failed(b *blob) {
	r.t.Helper()
	r.origin.mu.Lock()
	left := len(r.faults[b])
	r.origin.mu.Unlock()
	if left > 0 {
		r.t.Fatalf("upstream was not asked for the range that was to go wrong:%s", r.list(b))
	}
}

// about sees that no more left the origin than the blob and what is allowed for.
func (r *rig) about(b *blob, spare int64) {
	r.t.Helper()
	if sent := r.sent(b); sent > b.size()+spare {
		r.t.Errorf("%d bytes were sent of a blob of %d, %.2f times as many:%s", sent, b.size(), float64(sent)/float64(b.size()), r.list(b))
	}
}

// metric waits until a metric is what it should be.
func (r *rig) metric(want float64, name string, labels ...string) {
	r.t.Helper()
	lab.Eventually(r.t, 10*time.Second, r.daemon.Process, func() error {
		if got := r.daemon.Metric(r.t, name, labels...); got != want {
			return fmt.Errorf("%s %v is %v instead of %v", name, labels, got, want)
		}
		return nil
	})
}

// hit waits until the whole blob comes from the cache. Whatever comes before must be right too.
func (r *rig) hit(b *blob) {
	r.t.Helper()
	lab.Eventually(r.t, 30*time.Second, r.daemon.Process, func() error {
		state, err := r.whole(b)
		if errors.Is(err, errWrong) {
			r.t.Fatal(err)
		}
		if err == nil && !strings.Contains(state, "hit") {
			err = fmt.Errorf("it is %q", state)
		}
		return err
	})
}

// silently sees that upstream is not asked for anything of the blob meanwhile.
func (r *rig) silently(b *blob, do func()) {
	r.t.Helper()
	before := len(r.asked(b))
	do()
	if all := r.asked(b); len(all) > before {
		r.t.Errorf("upstream was asked %d times for what is on disk:%s", len(all)-before, r.list(b))
	}
}

// ctx is long enough for every answer.
func (r *rig) ctx() (context.Context, context.CancelFunc) {
	return context.WithTimeout(r.t.Context(), time.Minute)
}
