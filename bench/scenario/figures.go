package scenario

import (
	"fmt"
	"math"
	"strings"

	"cistern/bench/peer"
	"cistern/bench/report"
)

// Figures are the numbers that the project has promised, for the peer called
// name, on the registry variants that were measured. What was not measured in a
// run says so.
func Figures(name string, variants []string) []report.Figure {
	k := func(scenario, cas, metric string) report.Key {
		return report.Key{Scenario: scenario, Case: cas, Peer: name, Metric: metric}
	}
	fs := warmFigures(name, k)
	for _, v := range variants {
		fs = append(fs, coldFigures(v, k)...)
	}
	return append(fs, sizeFigures(k)...)
}

type keyOf func(scenario, cas, metric string) report.Key

func coldFigures(v string, k keyOf) []report.Figure {
	tag := func(format string, a ...any) string { return v + ": " + fmt.Sprintf(format, a...) }
	var fs []report.Figure
	var bytes []report.Key
	for _, size := range []int{64, 256} {
		for _, n := range []int{1, 10, 50, 100} {
			bytes = append(bytes, k("herd", fmt.Sprintf("%s %d MiB N=%d", v, size, n), "upstream bytes / size"))
		}
	}
	fs = append(fs, report.Figure{
		Name: tag("upstream bytes / size, worst of 1 to 100 clients, 64 and 256 MiB"), Target: 1, Format: "%.3f",
		Value: func(s *report.Samples) float64 { return worst(s, bytes) },
	})
	for n, target := range map1(1, 1.05, 10, 1.10) {
		fs = append(fs, report.Figure{Name: tag("last client done / ideal, 256 MiB, %d clients", n), Target: target, Value: median(k("herd", fmt.Sprintf("%s 256 MiB N=%d", v, n), "last done / ideal"))})
	}
	ten := k("herd", v+" 64 MiB N=10", "first byte, slowest, ms")
	hundred := k("herd", v+" 64 MiB N=100", "first byte, slowest, ms")
	fs = append(fs,
		report.Figure{Name: tag("first byte of the slowest of 10 clients"), Unit: " ms", Target: 120, Value: median(ten)},
		report.Figure{Name: tag("first byte of the slowest of 100 clients / direct"), Target: 1.5, Value: ratio(hundred, peer.Direct)},
	)
	for _, leader := range []string{"leader slow", "leader leaves"} {
		fs = append(fs, report.Figure{Name: tag("first byte for a second client, %s", leader), Unit: " ms", Target: 50, Value: median(k("follower", v+" "+leader, "follower's first byte, ms"))})
	}
	many := v + " rtt 20 ms"
	return append(fs,
		report.Figure{Name: tag("2,000 cold 64 KiB blobs, 20 ms: blobs/s / direct"), Target: 0.85, AtLeast: true, Value: ratio(k("many-small", many, "blobs/s"), peer.Direct)},
		report.Figure{Name: tag("the same: upstream connections (about 16)"), Target: 20, Value: median(k("many-small", many, "upstream connections"))},
		report.Figure{Name: tag("cold image, 20 MB/s: seconds / direct"), Target: 1.05, Value: ratio(k("image", v+" 20 MB/s", "cold s"), peer.Direct)},
		report.Figure{Name: tag("cold image, 5 MB/s a connection: seconds / direct"), Target: 1.05, Value: ratio(k("image", v+" 5 MB/s a connection", "cold s"), peer.Direct)},
	)
}

// map1 yields pairs in order, which a map would not.
func map1(a int, x float64, b int, y float64) func(func(int, float64) bool) {
	return func(yield func(int, float64) bool) { _ = yield(a, x) && yield(b, y) }
}

func warmFigures(name string, k keyOf) []report.Figure {
	var fs []report.Figure
	for _, n := range []int{8, 32} {
		for _, mode := range []string{"copy", "truncate"} {
			cas := fmt.Sprintf("C=%d %s", n, mode)
			about := fmt.Sprintf("warm 512 MiB, %d clients (%s)", n, mode)
			fs = append(fs,
				report.Figure{Name: about + ": GB/s / nginx-static", Target: 0.75, Reach: 1, AtLeast: true, Value: ratio(k("warm-large", cas, "GB/s"), peer.NginxFiles)},
				report.Figure{Name: about + ": CPU s/GB / nginx-static", Target: 1.3, Reach: 1, Value: ratio(k("warm-large", cas, "CPU s/GB"), peer.NginxFiles)},
				report.Figure{Name: about + ": CPU s/GB / fileserver", Target: 1.15, Value: ratio(k("warm-large", cas, "CPU s/GB"), peer.FileServer)},
			)
		}
	}
	for _, kind := range []string{"blob 4 KiB", "manifest by digest", "manifest by tag"} {
		logged := func(key report.Key) report.Key {
			if name == peer.Cistern {
				key.Peer = peer.CisternLog
			}
			return key
		}
		fs = append(fs,
			report.Figure{Name: "warm " + kind + ", 64 clients: requests/s / nginx-cache", Target: 0.4, Reach: 0.6, AtLeast: true, Value: ratio(k("warm-small", kind+" C=64", "requests/s"), peer.NginxCache)},
			report.Figure{Name: "warm " + kind + ", 16 clients: CPU a request", Unit: " µs", Target: 60, Value: median(k("warm-small", kind+" C=16", "CPU µs/request"))},
			report.Figure{Name: "the same with the access log at info", Unit: " µs", Target: 75, Value: median(logged(k("warm-small", kind+" C=16", "CPU µs/request")))},
		)
	}
	return fs
}

func sizeFigures(k keyOf) []report.Figure {
	var fs []report.Figure
	for _, m := range []struct {
		cas    string
		target float64
	}{{"32 fast readers", 40}, {"200 readers at 64 KiB/s", 64}, {"100 clients, cold 1 GiB", 64}} {
		fs = append(fs, report.Figure{Name: "peak memory, " + m.cas, Unit: " MiB", Target: m.target, Value: median(k("memory", m.cas, "peak MiB"))})
	}
	return append(fs, report.Figure{
		Name: "start to first hit, 10,000 blobs cached", Unit: " ms", Target: 100,
		Value: median(k("start", "10000 blobs of 4 KiB", "start to first hit, ms")),
	})
}

func median(k report.Key) func(*report.Samples) float64 {
	return func(s *report.Samples) float64 { return s.Median(k) }
}

func ratio(k report.Key, base string) func(*report.Samples) float64 {
	return func(s *report.Samples) float64 { return s.Ratio(k, base) }
}

// worst is the largest value of all keys; NaN where any was not measured: a
// promise for all of them is not kept by some.
func worst(s *report.Samples, keys []report.Key) float64 {
	high := math.Inf(-1)
	for _, k := range keys {
		v := s.Max(k)
		if math.IsNaN(v) {
			return v
		}
		high = max(high, v)
	}
	return high
}

// Names are the scenarios' names, for messages.
func Names() string {
	var out []string
	for _, s := range All() {
		out = append(out, s.Name)
	}
	return strings.Join(out, ", ")
}
