package peer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// ErrNoMetric is when a target exports no such metric.
var ErrNoMetric = errors.New("no such metric")

// Metric reads a number of Cistern's from its admin listener: the sum over the
// labels of the metric called name. ErrNoMetric where there is none.
func (t *Target) Metric(ctx context.Context, name string) (float64, error) {
	var sum float64
	found := false
	err := t.lines(ctx, "/metrics", func(line string) {
		v, ok := sample(line, name)
		found = found || ok
		sum += v
	})
	if err == nil && !found {
		err = ErrNoMetric
	}
	if err != nil {
		return 0, fmt.Errorf("metric %s of %s: %w", name, t.Name, err)
	}
	return sum, nil
}

// Allocations are of Go objects since a process began, freed ones included.
type Allocations struct{ Count, Bytes float64 }

// Allocations reads what Cistern's runtime has counted: go_memstats_mallocs_total and
// go_memstats_alloc_bytes_total, but from the head of the heap profile. It costs a
// thousand allocations, each time the same; /metrics between ten and fifty thousand,
// of which any part may be in what it tells. ErrNoMetric where there is none.
func (t *Target) Allocations(ctx context.Context) (Allocations, error) {
	var a Allocations
	found := 0
	err := t.lines(ctx, "/debug/pprof/heap?debug=1", func(line string) {
		for name, into := range map[string]*float64{"# Mallocs =": &a.Count, "# TotalAlloc =": &a.Bytes} {
			if rest, ok := strings.CutPrefix(line, name); ok {
				if v, err := strconv.ParseFloat(strings.TrimSpace(rest), 64); err == nil {
					*into, found = v, found+1
				}
			}
		}
	})
	if err == nil && found != 2 {
		err = ErrNoMetric
	}
	if err != nil {
		return a, fmt.Errorf("allocations of %s: %w", t.Name, err)
	}
	return a, nil
}

// lines calls do for each line of a page of the admin listener.
func (t *Target) lines(ctx context.Context, path string, do func(line string)) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.Admin+path, nil)
	if err != nil {
		return err
	}
	// One connection each, as for the registry's control address.
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	sc := bufio.NewScanner(resp.Body)
	for sc.Scan() {
		do(sc.Text())
	}
	return sc.Err()
}

// sample reads one line of the text format; false where it is another metric's.
func sample(line, name string) (float64, bool) {
	rest, ok := strings.CutPrefix(line, name)
	if !ok || rest == "" || rest[0] != ' ' && rest[0] != '{' {
		return 0, false
	}
	v, err := strconv.ParseFloat(rest[strings.LastIndexByte(rest, ' ')+1:], 64)
	return v, err == nil
}
