package metric

import "github.com/prometheus/client_golang/prometheus"

// descs are the names, DESIGN section 7 first.
type descs struct {
	requests, requestSeconds, sent       *prometheus.Desc
	lastPull, clients                    *prometheus.Desc
	upRequests, upReceived, upSeconds    *prometheus.Desc
	up, rateLimit, rateRemaining         *prometheus.Desc
	upConnections                        *prometheus.Desc
	bytes, reserved, limit, blobs        *prometheus.Desc
	evictedBytes, evictedBlobs, evictAge *prometheus.Desc
	fills, readers, resumed, unverified  *prometheus.Desc
	unbacked, checkpoints, degraded      *prometheus.Desc
	mended, damaged, stalled, panics     *prometheus.Desc
	syncs, commits, evictedOpen          *prometheus.Desc
	rebuilding, rebuildFiles             *prometheus.Desc
	rebuildHashed, rebuildDamaged        *prometheus.Desc
	scrubbed, scrubEnded                 *prometheus.Desc
	verify, stale                        *prometheus.Desc
	rangeAsked, rangeFetched, held       *prometheus.Desc
	connections, connLimit               *prometheus.Desc
	connRefused, connEvicted             *prometheus.Desc
	build                                *prometheus.Desc
}

func newDescs() descs {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("cistern_"+name, help, labels, nil)
	}
	return descs{
		requests:       d("requests_total", "Requests of registry clients.", "kind", "upstream", "outcome", "code"),
		requestSeconds: d("request_seconds", "Time from a request to the first byte of its answer.", "kind", "outcome"),
		sent:           d("sent_bytes_total", "Body bytes sent to registry clients.", "kind", "upstream", "outcome"),
		lastPull:       d("last_pull_timestamp_seconds", "When a manifest or blob was last asked for; 0: not since the start."),
		clients:        d("clients_seen", "Clients in the table of those seen since the start."),

		upRequests:    d("upstream_requests_total", "Requests sent upstream, redirects and tokens included; code 0: no answer.", "upstream", "kind", "code"),
		upReceived:    d("upstream_received_bytes_total", "Body bytes received from upstream.", "upstream"),
		upSeconds:     d("upstream_seconds", "Time from a request sent upstream to the header of its answer.", "upstream", "kind"),
		up:            d("upstream_up", "Whether an endpoint of the upstream is used; 0: all failed lately.", "upstream"),
		upConnections: d("upstream_connections", "Connections to the upstream that are open, idle ones included.", "upstream"),
		rateLimit:     d("ratelimit_limit", "Pulls that upstream allows in its window, as it said last.", "upstream"),
		rateRemaining: d("ratelimit_remaining", "Pulls left in upstream's window, as it said last.", "upstream"),

		bytes:          d("cache_bytes", "Bytes allocated in the cache directory."),
		reserved:       d("cache_reserved_bytes", "Bytes promised to fills and not written yet."),
		limit:          d("cache_limit_bytes", "Most bytes that the cache directory may take; 0: no cap."),
		blobs:          d("cache_blobs", "Whole blobs in the cache, manifests included."),
		degraded:       d("cache_degraded", "1 if nothing new is kept, because the disk is full or broken; pulls are streamed."),
		evictedBytes:   d("evicted_bytes_total", "Bytes evicted."),
		evictedBlobs:   d("evicted_blobs_total", "Blobs evicted."),
		evictAge:       d("evicted_age_seconds", "Time since the last use of the blob evicted last: how far back the cache remembers."),
		fills:          d("fills_in_flight", "Blobs on their way from upstream to the disk."),
		readers:        d("flight_readers", "Clients that read blobs on their way."),
		resumed:        d("fill_resumed_bytes_total", "Bytes not fetched again because a broken fill had left them on disk."),
		rangeAsked:     d("range_asked_bytes_total", "Bytes of ranges that clients asked for and took, of blobs that were neither here nor wanted whole by anybody.", "upstream"),
		rangeFetched:   d("range_fetched_bytes_total", "Bytes fetched for these blobs as long as nobody wanted them whole; over range_asked_bytes_total: what ranges cost upstream.", "upstream"),
		held:           d("rate_wait_seconds_total", "Seconds that downloads waited for their share of a rate that is set, summed over their streams.", "upstream"),
		unverified:     d("unverified_sent_bytes_total", "Range bytes sent before the digest of their blob was known to match."),
		unbacked:       d("fills_unbacked_total", "Fills that went past the disk: full, broken, or no room in time."),
		checkpoints:    d("checkpoints_total", "Times that finished blobs were made durable."),
		mended:         d("hits_mended_total", "Hits whose file broke in the middle and that went on from upstream."),
		damaged:        d("blobs_damaged_total", "Cached blobs whose file was not what its record says; each is fetched again."),
		stalled:        d("disk_stalls_total", "Operations of fills that the disk did not come back from within 5 seconds."),
		syncs:          d("disk_syncs_total", "Calls of fsync for blobs and their folders."),
		commits:        d("index_commits_total", "Transactions of the index."),
		evictedOpen:    d("evicted_open_bytes", "Bytes of blobs that are evicted and held by a reader still; part of cache_bytes."),
		panics:         d("cache_panics_total", "Panics in fills, checkpoints, evictions and other work of the cache; each ended that one piece of work."),
		rebuilding:     d("rebuild_running", "1 while files without a record are hashed and recorded."),
		rebuildFiles:   d("rebuild_files", "Files without a record that the last or running rebuild has found."),
		rebuildHashed:  d("rebuild_hashed_files", "Of these, those that were hashed."),
		rebuildDamaged: d("rebuild_damaged_files", "Of these, those that were not what their name says."),
		scrubbed:       d("scrubbed_bytes_total", "Bytes of cached blobs that were hashed again, to find damage."),
		scrubEnded:     d("scrub_ended_timestamp_seconds", "When all cached blobs had been hashed again the last time; 0: never."),
		verify:         d("verify_failures_total", "Blobs and manifests whose bytes did not match their digest.", "upstream"),
		stale:          d("stale_served_total", "Answers from the cache without upstream's word, because it was down.", "upstream"),

		connections: d("connections", "Open connections of registry clients."),
		connLimit:   d("connections_limit", "Most connections of registry clients at once."),
		connRefused: d("connections_refused_total", "Connections refused over the limit, all others being busy."),
		connEvicted: d("connections_evicted_total", "Waiting connections closed to make room for others."),
		build:       d("build_info", "Always 1; which program this is.", "version", "revision", "goversion"),
	}
}
