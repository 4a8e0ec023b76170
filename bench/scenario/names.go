package scenario

import (
	"fmt"
	"time"
)

// What is recorded and what the figures look up must be spelled alike: so both
// take the names from here.

// Metrics.
const (
	rateGB         = "GB/s"
	cpuGB          = "CPU s/GB"
	requestRate    = "requests/s"
	cpuRequest     = "CPU µs/request"
	firstSlowest   = "first byte, slowest, ms"
	firstMedian    = "first byte, median, ms"
	upstreamBytes  = "upstream bytes / size"
	upstreamCount  = "upstream bodies"
	lastDone       = "last done / ideal"
	peakMemory     = "peak MiB"
	followerFirst  = "follower's first byte, ms"
	followerDone   = "follower done, s"
	coldSeconds    = "cold s"
	warmSeconds    = "warm s"
	blobRate       = "blobs/s"
	connections    = "upstream connections"
	startToHit     = "start to first hit, ms"
	p50            = "p50 ms"
	p99            = "p99 ms"
	adoptRate      = "adopted, blobs/s"
	anonAfterHits  = "RssAnon after 100,000 random hits, MiB"
	syncsBlob      = "fsyncs/blob"
	overCap        = "highest use / cap"
	allocatedRatio = "allocated / blob bytes"
	cpuBlob        = "CPU µs/blob"
	bytesAfter     = "upstream bytes after the kill / size"
	bytesBefore    = "upstream bytes before the kill / size"
	bytesBoth      = "upstream bytes, both / size"
	bytesPieces    = "upstream bytes / bytes of the 1 MiB pieces asked of"
	bytesCompared  = "bytes compared, MiB"
	pieceNewP50    = "ranges of pieces not asked of before, p50 ms"
	pieceNewP99    = "ranges of pieces not asked of before, p99 ms"
	pieceOldP50    = "ranges of other pieces, p50 ms"
	firstTripsP50  = "first byte, round trips, median"
	firstTripsVery = "first byte, round trips, of the first range"
	firstTripsMax  = "first byte, round trips, slowest"
	readerWrites   = "writing calls/reader/s"
	readerSleeps   = "voluntary context switches/reader/s"
	mallocsMiB     = "allocations/MiB"
	mallocBytesMiB = "allocated bytes/MiB"
)

// What was done, where that is the column and not a peer.
const (
	startClean         = "after a clean stop"
	startKilled        = "after kill -9"
	startUncached      = "index not in the page cache"
	hitProbe           = "36 KiB, from the disk"
	askList            = "ls, first line"
	askImage           = "why IMAGE, first line"
	askBlob            = "why DIGEST, first line"
	hitAny             = "any blob"
	stormIdle          = "idle"
	stormSame          = "300 fills/s beside"
	stormOther         = "300 fills/s through another cistern"
	floodSame          = "fills of 8 clients beside"
	floodOther         = "fills of 8 clients through another cistern"
	besideIdle         = "idle"
	besideVerify       = "verify beside"
	besideEvict        = "10 evictions/s beside"
	besideExport       = "an export beside"
	besideAll          = "verify, an export and 10 evictions/s beside"
	besideStorm        = "10 fills/s of 1 MiB beside, which evict 40 blobs/s"
	besideOther        = "10 fills/s of 1 MiB through another cistern"
	slowIdle           = "traced, idle"
	slowNot            = "traced, 30 fills/s beside"
	slowSecond         = "traced, 30 fills/s beside, fsync of index.db takes a second"
	syncsFast          = "1,000 fills of 16 KiB, 16 clients"
	syncsPaced         = "1,000 fills of 16 KiB, 100/s"
	emptyPeer          = "cistern, not full"
	full64K            = "64 KiB blobs into a cache of 512 MiB"
	full1M             = "1 MiB blobs into a cache of 512 MiB"
	throughCap         = "1 MiB blobs through 256 MiB, 32 clients"
	throughOnceCounted = throughCap + ", ext4 nodelalloc"
	hitFirstTime       = "36 KiB, each for the first time, 8 clients"
)

// Names of cases that do not depend on anything.
const (
	leaderSlow   = "leader slow"
	leaderLeaves = "leader leaves"
	linkTotal    = "20 MB/s"
	linkEach     = "5 MB/s a connection"
	// The first pull ever of proxies that were just started, and another one.
	linkEachFirst = linkEach + ", first pull"
	linkEachLater = linkEach + ", later pull"
	fast32        = "32 fast readers"
	slow200       = "200 readers at 64 KiB/s"
	giant100      = "100 clients, cold 1 GiB"
	smallBlob     = "blob 4 KiB"
	byDigest      = "manifest by digest"
	byTag         = "manifest by tag"
)

// Sizes of a whole run, in MiB, and counts. A quick one has others: it measures none of
// the figures.
const (
	layerCapped = 400
	layerWhole  = 100
	resumeSize  = 256
	manyCount   = 2000
	manySize    = 1024
	fewCount    = 20
	fewSize     = 256
	headReaders = 500
	coldSize    = 512
)

func largeCase(clients int, truncate bool) string {
	if truncate {
		return fmt.Sprintf("C=%d truncate", clients)
	}
	return fmt.Sprintf("C=%d copy", clients)
}

func smallCase(kind string, clients int) string { return fmt.Sprintf("%s C=%d", kind, clients) }

func herdCaseName(variant string, size, clients int) string {
	return fmt.Sprintf("%s %d MiB N=%d", variant, size, clients)
}

func variantCase(variant, name string) string { return variant + " " + name }

func manyCase(variant string, rtt time.Duration) string {
	return fmt.Sprintf("%s rtt %d ms", variant, rtt.Milliseconds())
}

func startCase(blobs int) string { return fmt.Sprintf("%d blobs of 4 KiB", blobs) }

func scaleCase(blobs int) string { return fmt.Sprintf("%d blobs", blobs) }

func diskCase(blobs int) string { return fmt.Sprintf("%d blobs of 4 KiB", blobs) }

func layerCase(size int, link string) string { return fmt.Sprintf("%d MiB, %s", size, link) }

func resumeCase(variant string, size int) string { return fmt.Sprintf("%s %d MiB", variant, size) }

func rangesCase(variant string, count, size int) string {
	return fmt.Sprintf("%s %d of %d MiB", variant, count, size)
}

func headCase(variant string, readers int, warm bool) string {
	if warm {
		return fmt.Sprintf("%s %d readers, warm", variant, readers)
	}
	return fmt.Sprintf("%s %d readers at the head of 4 MB/s", variant, readers)
}

func coldCase(variant string, size int, warm bool) string {
	if warm {
		return fmt.Sprintf("%s %d MiB, warm", variant, size)
	}
	return fmt.Sprintf("%s %d MiB, cold", variant, size)
}
