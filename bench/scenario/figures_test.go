package scenario

import (
	"math"
	"strings"
	"testing"

	"cistern/bench/peer"
	"cistern/bench/report"
)

func TestFiguresOfNothing(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	before := ""
	for _, f := range Figures(peer.Cistern, []string{peer.Plain, peer.Token}) {
		if v := f.Value(&report.Samples{}); !math.IsNaN(v) {
			t.Errorf("%s: %v out of nothing", f.Name, v)
		}
		name := f.Name
		if strings.HasPrefix(name, "the same") {
			name = before + ", " + name
		}
		if before = f.Name; seen[name] {
			t.Errorf("%q is there twice", name)
		}
		seen[name] = true
	}
}

// One bad round of one case is enough to break a promise about all.
func TestWorst(t *testing.T) {
	t.Parallel()
	s := &report.Samples{}
	f := Figures(peer.Cistern, []string{peer.Plain})
	var bytes report.Figure
	for _, c := range f {
		if strings.Contains(c.Name, "upstream bytes / size, worst") {
			bytes = c
		}
	}
	add := func(size, n int, v float64) {
		s.Add(report.Key{Scenario: "herd", Case: herdCaseName(peer.Plain, size, n), Peer: peer.Cistern, Metric: upstreamBytes}, v)
	}
	for _, size := range []int{64, 256} {
		for _, n := range []int{1, 10, 50, 100} {
			if v := bytes.Value(s); !math.IsNaN(v) {
				t.Errorf("%v before all cases were measured", v)
			}
			add(size, n, 1)
		}
	}
	if v := bytes.Value(s); v != 1 {
		t.Errorf("worst %v, want 1", v)
	}
	add(64, 50, 2)
	add(64, 50, 1)
	if v := bytes.Value(s); v != 2 {
		t.Errorf("worst %v, want 2", v)
	}
}

func TestScenarioNames(t *testing.T) {
	t.Parallel()
	if !strings.HasPrefix(Names(), "warm-large, ") || len(All()) != 19 {
		t.Errorf("scenarios: %s", Names())
	}
}
