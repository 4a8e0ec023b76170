package scenario

import (
	"fmt"

	"cistern/bench/peer"
	"cistern/bench/report"
)

// fillFigures are the promises about a blob on its way from upstream: that it takes no
// longer than it must, costs no byte twice, and is read before it is whole.
func fillFigures(v string, k keyOf) []report.Figure {
	tag := func(format string, a ...any) string { return v + ": " + fmt.Sprintf(format, a...) }
	direct := func(scenario, name string) func(*report.Samples) float64 {
		return ratio(k(scenario, variantCase(v, name), coldSeconds), peer.Direct)
	}
	many, few := rangesCase(v, manyCount, manySize), rangesCase(v, fewCount, fewSize)
	onFill, onHit := k("head", headCase(v, headReaders, false), cpuGB), k("head", headCase(v, headReaders, true), cpuGB)
	fs := []report.Figure{
		{Name: tag("cold layer of 400 MiB, 5 MB/s a connection: seconds / direct"), Target: 1.0 / 3, Value: direct("layer", layerCase(layerCapped, linkEach))},
		{Name: tag("cold layer of 100 MiB, 20 MB/s: seconds / direct"), Target: 1.03, Value: direct("layer", layerCase(layerWhole, linkTotal))},
		{Name: tag("cold image, 5 MB/s a connection, the first pull: seconds / direct"), Target: 0.5, Value: direct("image", linkEachFirst)},
		{Name: tag("cold image, 5 MB/s a connection, a later pull: seconds / direct"), Target: 0.45, Value: direct("image", linkEachLater)},
		{Name: tag("kill -9 at 60 %% of 256 MiB: upstream bytes after / size"), Target: 0.42, Value: exceeding(k("resume", resumeCase(v, resumeSize), bytesAfter))},
		// A kill that came late flatters the one before, not this one.
		{Name: tag("the same: upstream bytes before and after / size"), Target: 1.02, Value: exceeding(k("resume", resumeCase(v, resumeSize), bytesBoth))},
		{Name: tag("2,000 ranges of 64 KiB of a cold GiB: upstream bytes / bytes of the pieces"), Target: 1, Format: "%.3f", Value: exceeding(k("ranges", many, bytesPieces))},
		{Name: tag("the same: p50 where the piece is new / direct"), Target: 1.2, Value: ratio(k("ranges", many, pieceNewP50), peer.Direct)},
		{Name: tag("20 ranges of 64 KiB of cold 256 MiB: first byte, round trips, median"), Target: 2, Value: median(k("ranges", few, firstTripsP50))},
		// Where the whole blob is fetched at once, the first range alone tells.
		{Name: tag("20 ranges of 64 KiB of cold 256 MiB: first byte, round trips, of the first range"), Told: "about 2", Value: median(k("ranges", few, firstTripsVery))},
		{Name: tag("20 ranges of 64 KiB of cold 256 MiB: upstream bytes / size"), Target: 0.08, Format: "%.3f", Value: exceeding(k("ranges", few, upstreamBytes))},
		{Name: tag("500 readers at the head of 4 MB/s: CPU s/GB / warm"), Target: 1.5, Value: against(onFill, onHit)},
		{Name: tag("500 readers at the head of 4 MB/s: writing calls/reader/s"), Target: 100, Value: median(k("head", headCase(v, headReaders, false), readerWrites))},
		{Name: tag("cold 512 MiB, one reader: CPU s/GB"), Target: 1.8, Reach: 1.3, Value: median(k("cold", coldCase(v, coldSize, false), cpuGB))},
	}
	for _, warm := range []bool{false, true} {
		name := "cold 512 MiB, one reader"
		if warm {
			name = "warm 512 MiB, one reader"
		}
		fs = append(fs,
			report.Figure{Name: tag("%s: allocations/MiB", name), Told: "near 0", Value: median(k("cold", coldCase(v, coldSize, warm), mallocsMiB))},
			report.Figure{Name: tag("%s: allocated bytes/MiB", name), Told: "near 0", Value: median(k("cold", coldCase(v, coldSize, warm), mallocBytesMiB))},
		)
	}
	return fs
}
