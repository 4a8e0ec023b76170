package scenario

import (
	"cistern/bench/peer"
	"cistern/bench/report"
)

// storeFigures are the promises about the store: how it grows, what a hit waits for,
// what eviction costs, what it takes on the disk.
func storeFigures(k keyOf) []report.Figure {
	many := manyCase(peer.Plain, 0)
	fs := []report.Figure{
		{Name: "2,000 cold 64 KiB blobs, 0 ms: blobs/s / nginx-cache", Target: 0.6, Reach: 1, AtLeast: true, Value: ratio(k("many-small", many, blobRate), peer.NginxCache)},
		{Name: "the same: CPU a blob", Unit: " µs", Target: 400, Value: median(k("many-small", many, cpuBlob))},
	}
	fs = append(fs, scaleFigures(k)...)
	fs = append(fs, stormFigures(k)...)
	fs = append(fs, besideFigures(k)...)
	for _, cas := range []string{full64K, full1M} {
		fs = append(fs, report.Figure{Name: "fills of " + cas + ": blobs/s / into one that is not full", Target: 0.9, AtLeast: true, Value: ratio(k("evict", cas, blobRate), emptyPeer)})
	}
	return append(fs,
		report.Figure{Name: "1.6 GiB of " + throughCap + ": blobs/s / nginx-cache", Target: 0.8, AtLeast: true, Value: ratio(k("evict", throughCap, blobRate), peer.NginxCache)},
		report.Figure{Name: "the same: highest use of its file system / cap", Target: 1, Exact: true, Format: "%.4f", Value: exceeding(k("evict", throughCap, overCap))},
		report.Figure{Name: "the same: highest use of its file system / cap, ext4 nodelalloc", Target: 1, Exact: true, Format: "%.4f", Value: exceeding(k("evict", throughOnceCounted, overCap))},
		report.Figure{Name: "allocated / blob bytes, 100,000 blobs of 4 KiB, index included", Target: 1.2, Reach: 1.15, Value: median(k("disk", diskCase(100_000), allocatedRatio))},
	)
}

func scaleFigures(k keyOf) []report.Figure {
	of := func(what, metric string) report.Key {
		key := k("scale", scaleCase(million), metric)
		key.Peer = what
		return key
	}
	var fs []report.Figure
	for _, what := range []string{startClean, startKilled, startUncached} {
		fs = append(fs, report.Figure{Name: "start to first hit, 1,000,000 blobs, " + what, Unit: " ms", Target: 1000, Value: median(of(what, startToHit))})
	}
	fs = append(fs, report.Figure{Name: "1,000,000 blobs: RssAnon after 100,000 random hits", Unit: " MiB", Target: 64, Value: median(k("scale", scaleCase(million), anonAfterHits))})
	for _, what := range []string{askList, askImage, askBlob} {
		fs = append(fs, report.Figure{Name: "1,000,000 blobs: " + what, Unit: " ms", Target: 100, Value: median(of(what, p50))})
	}
	for _, m := range []struct {
		metric string
		target float64
	}{{p50, 1.2}, {p99, 2}} {
		few := of(hitProbe, m.metric)
		few.Case = scaleCase(fewBlobs)
		fs = append(fs, report.Figure{Name: "hit latency, 1,000,000 blobs / 1,000: " + m.metric, Target: m.target, Value: against(of(hitProbe, m.metric), few)})
	}
	return fs
}

func stormFigures(k keyOf) []report.Figure {
	var fs []report.Figure
	for _, c := range []struct{ loaded, base string }{
		{stormSame, stormIdle}, {stormSame, stormOther}, {floodSame, floodOther}, {slowSecond, slowIdle}, {slowSecond, slowNot},
	} {
		for _, m := range []string{p50, p99} {
			fs = append(fs, report.Figure{Name: "hit latency, " + c.loaded + " / " + c.base + ": " + m, Target: 1.5, Value: against(k("storm", c.loaded, m), k("storm", c.base, m))})
		}
	}
	return fs
}

func besideFigures(k keyOf) []report.Figure {
	var fs []report.Figure
	for _, c := range []struct{ loaded, base string }{
		{besideVerify, besideIdle}, {besideEvict, besideIdle}, {besideExport, besideIdle}, {besideAll, besideIdle}, {besideStorm, besideIdle}, {besideStorm, besideOther},
	} {
		for _, m := range []string{p50, p99} {
			fs = append(fs, report.Figure{Name: "hit latency in a full cache, " + c.loaded + " / " + c.base + ": " + m, Target: 1.5, Value: against(k("beside", c.loaded, m), k("beside", c.base, m))})
		}
	}
	return fs
}

// against is the median over rounds of one key's value by another's.
func against(k, base report.Key) func(*report.Samples) float64 {
	return func(s *report.Samples) float64 { return s.Against(k, base) }
}

// exceeding is the largest of all samples: a cap that was passed once was passed.
func exceeding(k report.Key) func(*report.Samples) float64 {
	return func(s *report.Samples) float64 { return s.Max(k) }
}
