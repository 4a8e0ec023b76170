package crash_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A tally is what a series of lives came to. What it counts of wrong or lost bytes fails the test on the spot, so that
// a tally that is printed says 0 of them.
type tally struct {
	histories, lives, kills, cuts, terms int
	requests, failed                     int64 // failed: for upstream's faults
	failedUpstream                       int64 // faults of upstream
	load, starts, checks                 time.Duration
	slowest                              time.Duration // start
	there, rest, partial                 int           // things checked without upstream, with it; delivered in part when it ended
	lost                                 int           // things delivered less than two checkpoints before a cut, and fetched again
	unstored                             int           // small blobs delivered less than a second before a kill, and fetched again
	missing, fetched                     int64         // of what was fetched at all in the checks, bytes

	unknown int64 // most bytes that a daemon that has just started did not know of

	mu   sync.Mutex
	peak int64 // most bytes in use
}

func (y *tally) started(took time.Duration) {
	y.starts += took
	y.slowest = max(y.slowest, took)
}

func (y *tally) lived(how ending, l *load, took time.Duration, partial int) {
	y.lives++
	switch {
	case how.term: // with a cut or without: nothing is at stake in it
		y.terms++
	case how.cut:
		y.cuts++
	default:
		y.kills++
	}
	y.requests += l.done.Load()
	y.failed += l.failed.Load()
	y.load += took
	y.partial += partial
}

func (y *tally) checked(there, rest int, took time.Duration) {
	y.there += there
	y.rest += rest
	y.checks += took
}

// space notes how many bytes are in use, and tells whether they were never more.
func (y *tally) space(used int64) (most bool) {
	y.mu.Lock()
	defer y.mu.Unlock()
	most = used > y.peak
	y.peak = max(y.peak, used)
	return most
}

func (y *tally) rate() float64 { return float64(y.requests) / y.load.Seconds() }

// row is a row of the table in docs/faults.md.
func (y *tally) row(name string, seed uint64, took time.Duration) string {
	mb := func(n int64) float64 { return float64(n) / 1e6 }
	each := func(d time.Duration) int64 { return d.Milliseconds() / int64(y.lives+1) }
	return fmt.Sprintf("| %s | %d | %d kills, %d cuts, %d ends of %d caches | %d, %.0f/s | %d | %d, %d | %d | %d with %.1f of %.1f MB | %.1f MB | %d ms, %d | %.0f s |",
		name, seed, y.kills, y.cuts, y.terms, y.histories, y.requests, y.rate(), y.partial, y.lost, y.unstored, y.there,
		y.rest, mb(y.fetched), mb(y.missing), mb(y.unknown), each(y.starts), y.slowest.Milliseconds(), took.Seconds())
}

// metric is the value of a metric without labels.
func metric(ctx context.Context, admin, name string) (float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, admin+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strconv.ParseFloat(strings.TrimSpace(value), 64)
		}
	}
	return 0, fmt.Errorf("no metric %s", name)
}
