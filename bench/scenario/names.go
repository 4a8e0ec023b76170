package scenario

import (
	"fmt"
	"time"
)

// What is recorded and what the figures look up must be spelled alike: so both
// take the names from here.

// Metrics.
const (
	rateGB        = "GB/s"
	cpuGB         = "CPU s/GB"
	requestRate   = "requests/s"
	cpuRequest    = "CPU µs/request"
	firstSlowest  = "first byte, slowest, ms"
	firstMedian   = "first byte, median, ms"
	upstreamBytes = "upstream bytes / size"
	upstreamCount = "upstream bodies"
	lastDone      = "last done / ideal"
	peakMemory    = "peak MiB"
	followerFirst = "follower's first byte, ms"
	followerDone  = "follower done, s"
	coldSeconds   = "cold s"
	warmSeconds   = "warm s"
	blobRate      = "blobs/s"
	connections   = "upstream connections"
	startToHit    = "start to first hit, ms"
)

// Names of cases that do not depend on anything.
const (
	leaderSlow   = "leader slow"
	leaderLeaves = "leader leaves"
	linkTotal    = "20 MB/s"
	linkEach     = "5 MB/s a connection"
	fast32       = "32 fast readers"
	slow200      = "200 readers at 64 KiB/s"
	giant100     = "100 clients, cold 1 GiB"
	smallBlob    = "blob 4 KiB"
	byDigest     = "manifest by digest"
	byTag        = "manifest by tag"
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
