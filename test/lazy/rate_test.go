package lazy_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"cistern/test/lab"
)

// Nothing here depends on how fast the machine is: a limit is a least time, and who comes first is an order.

const (
	slowRate = 4_000_000 // bytes a second
	// ahead is what may come before its time: a tenth of a second's bytes, and what the kernel holds of a connection.
	ahead = slowRate/10 + 512*kib
)

// TestRate: what comes from an upstream is no more than its limit allows, by whatever number of fills and readers, and the metric
// says that they were held up.
func TestRate(t *testing.T) {
	t.Parallel()
	r := start(t, 1<<30, "rate: 4MB")
	all := []*blob{r.blob(4 * mib), r.blob(4 * mib), r.blob(4 * mib)}
	since := time.Now()
	r.parallel(6, 6, func(i int) error {
		b := all[i%3]
		if i == 5 {
			return r.closed(b, span{3 * mib, 3*mib + 10})
		}
		_, err := r.whole(b)
		return err
	})
	if least := time.Duration(12*mib-ahead) * time.Second / slowRate; time.Since(since) < least {
		t.Errorf("12 MiB took %s, and %s at the least at 4 MB/s", time.Since(since), least)
	}
	if held := r.daemon.Metric(t, "cistern_rate_wait_seconds_total", "upstream", "docker.io"); held < 1 {
		t.Errorf("streams waited for %v s", held)
	}
	for _, b := range all {
		r.silently(b, func() { r.hit(b) })
	}
}

// TestRateAwaited: a download that its client has left gives way to those that somebody waits for, and is finished after them.
func TestRateAwaited(t *testing.T) {
	t.Parallel()
	r := start(t, 1<<30, "rate: 4MB")
	left, wanted := r.blob(8*mib), r.blob(8*mib)
	r.must(r.begin(left, "", span{0, left.size()}, 1000))
	before := r.sent(left)
	_, err := r.whole(wanted)
	r.must(err)
	if came := r.sent(left) - before; came > wanted.size()/8+ahead {
		t.Errorf("beside 8 MiB that somebody waited for came %d bytes that nobody waited for", came)
	}
	r.hit(left)
	r.about(left, 0)
}

// TestRateFair: two downloads come equally fast, although one has four streams and forty readers.
func TestRateFair(t *testing.T) {
	t.Parallel()
	r := start(t, 1<<30, "rate: 4MB", "max_streams: 4")
	one, many := r.blob(8*mib), r.blob(40*mib)
	var readers sync.WaitGroup
	t.Cleanup(readers.Wait) // the end of the test ends them
	for i := range int64(40) {
		readers.Go(func() { _ = r.closed(many, pieces(i, 1)) })
	}
	lab.Eventually(t, 10*time.Second, r.daemon.Process, func() error {
		if n := len(r.asked(many)); n < 4 {
			return fmt.Errorf("%d streams", n)
		}
		return nil
	})
	before := r.sent(many)
	_, err := r.whole(one)
	r.must(err)
	if came := r.sent(many) - before; came < one.size()/2 || came > one.size()*3/2+4*ahead {
		t.Errorf("while %d bytes came of the one, %d came of the other", one.size(), came)
	}
}

// TestRateOfAll: several upstreams together get no more than the limit of all, and one with less of its own keeps to that.
func TestRateOfAll(t *testing.T) {
	t.Parallel()
	lab.NarrowBuffers(t)
	o := startOrigin(t)
	daemon := lab.StartCistern(t, lab.CisternOptions{Config: fmt.Sprintf(
		"cache: { max_size: 1GiB, min_free: 0B }\nrate: 4MB\nupstreams:\n  docker.io:\n    endpoints: [\"http://%[1]s\"]\n    rate: 1MB\n  other:\n    endpoints: [\"http://%[1]s\"]\n", o.addr)})
	own, rest := o.blob(2*mib), o.blob(6*mib)
	since := time.Now()
	ended := make(chan time.Duration, 1)
	go func() {
		pull(t, daemon.URL+own.path(), own)
		ended <- time.Since(since)
	}()
	pull(t, daemon.URL+rest.path()+"?ns=other", rest)
	if least := time.Duration(rest.size()-ahead) * time.Second / slowRate; time.Since(since) < least {
		t.Errorf("6 MiB took %s, and %s at the least at 4 MB/s", time.Since(since), least)
	}
	if took, least := <-ended, time.Duration(own.size()-100_000)*time.Second/1_000_000; took < least {
		t.Errorf("2 MiB took %s, and %s at the least at 1 MB/s", took, least)
	}
}

// pull gets a blob whole.
func pull(t *testing.T, url string, b *blob) {
	resp, err := http.Get(url)
	if err != nil {
		t.Error(err)
		return
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil || !bytes.Equal(got, b.data) {
		t.Errorf("%s: %d bytes, %v", resp.Status, len(got), err)
	}
}
