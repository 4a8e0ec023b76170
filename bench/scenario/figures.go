package scenario

import (
	"fmt"
	"math"
	"strings"
	"time"

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
		fs = append(fs, fillFigures(v, k)...)
	}
	fs = append(fs, sizeFigures(k)...)
	return append(fs, storeFigures(k)...)
}

type keyOf func(scenario, cas, metric string) report.Key

func coldFigures(v string, k keyOf) []report.Figure {
	tag := func(format string, a ...any) string { return v + ": " + fmt.Sprintf(format, a...) }
	var fs []report.Figure
	var bytes []report.Key
	for _, size := range []int{64, 256} {
		for _, n := range []int{1, 10, 50, 100} {
			bytes = append(bytes, k("herd", herdCaseName(v, size, n), upstreamBytes))
		}
	}
	fs = append(fs, report.Figure{
		Name: tag("upstream bytes / size, worst of 1 to 100 clients, 64 and 256 MiB"), Target: 1, Format: "%.3f",
		Value: func(s *report.Samples) float64 { return worst(s, bytes) },
	})
	for _, c := range []struct {
		clients int
		target  float64
	}{{1, 1.05}, {10, 1.10}} {
		fs = append(fs, report.Figure{
			Name: tag("last client done / ideal, 256 MiB, N=%d", c.clients), Target: c.target,
			Value: median(k("herd", herdCaseName(v, 256, c.clients), lastDone)),
		})
	}
	ten := k("herd", herdCaseName(v, 64, 10), firstSlowest)
	hundred := k("herd", herdCaseName(v, 64, 100), firstSlowest)
	if v == peer.Plain {
		fs = append(fs, report.Figure{Name: tag("first byte of the slowest of 10 clients"), Unit: " ms", Target: 120, Value: median(ten)})
	} else {
		// Tokens and redirects are round trips, for direct clients as well.
		fs = append(fs, report.Figure{Name: tag("first byte of the slowest of 10 clients / direct"), Target: 1.5, Value: ratio(ten, peer.Direct)})
	}
	fs = append(fs, report.Figure{Name: tag("first byte of the slowest of 100 clients / direct"), Target: 1.5, Value: ratio(hundred, peer.Direct)})
	for _, leader := range []string{leaderSlow, leaderLeaves} {
		fs = append(fs, report.Figure{Name: tag("first byte for a second client, %s", leader), Unit: " ms", Target: 50, Value: median(k("follower", variantCase(v, leader), followerFirst))})
	}
	many, conns := manyCase(v, 20*time.Millisecond), 20.0
	if v == peer.Redirect {
		conns *= 2 // there are two hosts
	}
	return append(fs,
		report.Figure{Name: tag("2,000 cold 64 KiB blobs, 20 ms: blobs/s / direct"), Target: 0.9, Reach: 0.95, AtLeast: true, Value: ratio(k("many-small", many, blobRate), peer.Direct)},
		report.Figure{Name: tag("the same: upstream connections (about 16 a host)"), Target: conns, Value: median(k("many-small", many, connections))},
		report.Figure{Name: tag("cold image, 20 MB/s: seconds / direct"), Target: 1.02, Value: ratio(k("image", variantCase(v, linkTotal), coldSeconds), peer.Direct)},
	)
}

func warmFigures(name string, k keyOf) []report.Figure {
	var fs []report.Figure
	for _, n := range []int{8, 32} {
		for _, truncate := range []bool{false, true} {
			cas := largeCase(n, truncate)
			about := "warm 512 MiB, " + cas
			fs = append(fs,
				report.Figure{Name: about + ": GB/s / nginx-static", Target: 0.75, Reach: 1, AtLeast: true, Value: ratio(k("warm-large", cas, rateGB), peer.NginxFiles)},
				report.Figure{Name: about + ": CPU s/GB / nginx-static", Target: 1.3, Reach: 1, Value: ratio(k("warm-large", cas, cpuGB), peer.NginxFiles)},
				report.Figure{Name: about + ": CPU s/GB / fileserver", Target: 1.15, Value: ratio(k("warm-large", cas, cpuGB), peer.FileServer)},
			)
		}
	}
	for _, kind := range []string{smallBlob, byDigest, byTag} {
		logged := func(key report.Key) report.Key {
			if name == peer.Cistern {
				key.Peer = peer.CisternLog
			}
			return key
		}
		fs = append(fs,
			report.Figure{Name: "warm " + kind + ", 64 clients: requests/s / nginx-cache", Target: 0.4, Reach: 0.6, AtLeast: true, Value: ratio(k("warm-small", smallCase(kind, 64), requestRate), peer.NginxCache)},
			report.Figure{Name: "warm " + kind + ", 16 clients: CPU a request", Unit: " µs", Target: 60, Value: median(k("warm-small", smallCase(kind, 16), cpuRequest))},
			report.Figure{Name: "the same with the access log at info", Unit: " µs", Target: 75, Value: median(logged(k("warm-small", smallCase(kind, 16), cpuRequest)))},
		)
	}
	return fs
}

func sizeFigures(k keyOf) []report.Figure {
	var fs []report.Figure
	for _, m := range []struct {
		cas    string
		target float64
	}{{fast32, 40}, {slow200, 64}, {giant100, 64}} {
		fs = append(fs, report.Figure{Name: "peak memory, " + m.cas, Unit: " MiB", Target: m.target, Value: median(k("memory", m.cas, peakMemory))})
	}
	return append(fs, report.Figure{
		Name: "start to first hit, 10,000 blobs cached", Unit: " ms", Target: 100,
		Value: median(k("start", startCase(10000), startToHit)),
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
