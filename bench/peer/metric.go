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
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.Admin+"/metrics", nil)
	if err != nil {
		return 0, fmt.Errorf("metric %s: %w", name, err)
	}
	// One connection each, as for the registry's control address.
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return 0, fmt.Errorf("metric %s: %w", name, err)
	}
	defer resp.Body.Close()
	var sum float64
	found := false
	sc := bufio.NewScanner(resp.Body)
	for sc.Scan() {
		v, ok := sample(sc.Text(), name)
		found = found || ok
		sum += v
	}
	if err := sc.Err(); err != nil {
		return 0, fmt.Errorf("metric %s: %w", name, err)
	}
	if !found {
		return 0, fmt.Errorf("metric %s of %s: %w", name, t.Name, ErrNoMetric)
	}
	return sum, nil
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
