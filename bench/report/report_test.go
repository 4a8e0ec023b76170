package report_test

import (
	"math"
	"strings"
	"testing"

	"cistern/bench/report"
)

func samples() *report.Samples {
	s := &report.Samples{}
	add := func(cas, peer string, vs ...float64) {
		for _, v := range vs {
			s.Add(report.Key{Scenario: "warm", Case: cas, Peer: peer, Metric: "GB/s"}, v)
		}
	}
	add("C=8", "nginx", 4, 2, 4)
	add("C=8", "cistern", 3, 1.6, 3.6)
	add("C=32", "nginx", 5)
	return s
}

// A round on a busy machine slows both: the ratio is of values of one round.
func TestRatioIsOfRounds(t *testing.T) {
	t.Parallel()
	s := samples()
	k := report.Key{Scenario: "warm", Case: "C=8", Peer: "cistern", Metric: "GB/s"}
	if got := s.Ratio(k, "nginx"); math.Abs(got-0.8) > 1e-9 {
		t.Errorf("ratio %v, want 0.8", got)
	}
	if got := s.Ratio(k, "nobody"); !math.IsNaN(got) {
		t.Errorf("ratio to nobody: %v", got)
	}
	other := report.Key{Scenario: "warm", Case: "C=8", Peer: "nginx", Metric: "GB/s"}
	if got := s.Against(k, other); math.Abs(got-0.8) > 1e-9 {
		t.Errorf("against another key %v, want 0.8", got)
	}
	if got := s.Max(k); got != 3.6 {
		t.Errorf("max %v", got)
	}
}

func TestTables(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	if err := report.WriteTables(&b, samples()); err != nil {
		t.Fatal(err)
	}
	want := "## warm\n\n| GB/s | nginx | cistern |\n|---|---:|---:|\n| C=8 | 4 | 3 |\n| C=32 | 5 | – |\n\n"
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

func TestVerdicts(t *testing.T) {
	t.Parallel()
	atMost := report.Figure{Target: 1.05}
	atLeast := report.Figure{Target: 0.75, Reach: 1, AtLeast: true}
	for _, c := range []struct {
		f    report.Figure
		v    float64
		want string
	}{
		{atMost, 1.05, "met"},
		{atMost, 1.06, "**not met**"},
		{atMost, 1.054, "met"},
		{report.Figure{Target: 1, Exact: true}, 1.0004, "**not met**"},
		{report.Figure{Target: 1, Exact: true}, 1, "met"},
		{atMost, math.NaN(), "not measured"},
		{atLeast, 0.74, "**not met**"},
		{atLeast, 0.76, "met"},
		{atLeast, 1.2, "met, and what was hoped for"},
		{atLeast, math.NaN(), "not measured"},
		{report.Figure{Told: "near 0"}, 3, "told"},
		{report.Figure{Told: "near 0"}, math.NaN(), "not measured"},
	} {
		if got := c.f.Verdict(c.v); got != c.want {
			t.Errorf("%v with target %v: %q, want %q", c.v, c.f.Target, got, c.want)
		}
	}
}

func TestFigures(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	value := func(v float64) func(*report.Samples) float64 { return func(*report.Samples) float64 { return v } }
	err := report.WriteFigures(&b, samples(), []report.Figure{
		{Name: "a", Unit: " s", Target: 2, Reach: 1, Value: value(1.5)},
		{Name: "b", Told: "near 0", Value: value(3)},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := "| figure | measured | target | |\n|---|---:|---:|---|\n| a | 1.50 s | ≤ 2 s (1 s) | met |\n| b | 3 | near 0 | told |\n\n"
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

func TestNumber(t *testing.T) {
	t.Parallel()
	for v, want := range map[float64]string{0: "0", 1: "1", 1.004: "1.00", 0.0123: "0.012", 12.34: "12.3", 123.4: "123", 22410.7: "22411", math.Inf(1): "–"} {
		if got := report.Number(v); got != want {
			t.Errorf("Number(%v) = %s, want %s", v, got, want)
		}
	}
}

func TestMachine(t *testing.T) {
	t.Parallel()
	if m := report.Machine(); strings.Contains(m, "\n") || !strings.Contains(m, "cores") {
		t.Errorf("machine %q", m)
	}
	if s := report.Slug(); strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		t.Errorf("slug %q", s)
	}
}

func TestFileSystem(t *testing.T) {
	t.Parallel()
	for dir, want := range map[string]string{"/proc/self": "proc on ", "/proc": "proc on "} {
		if got := report.FileSystem(dir); !strings.HasPrefix(got, want) {
			t.Errorf("FileSystem(%s) = %q", dir, got)
		}
	}
	if got := report.FileSystem("."); got == "unknown" {
		t.Error("nothing holds the working directory")
	}
}
