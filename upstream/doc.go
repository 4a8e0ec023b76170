// Package upstream is a registry client: it asks one named upstream, through
// its endpoints in order, for manifests, blobs, tags and referrers, and knows
// what real registries do (PROTOCOL.md section 4): bearer and basic
// authentication, redirects to signed URLs, closed ranges, rate limits, and
// the faults that pass by themselves.
//
// It keeps no content and decides nothing about freshness, grants or what a
// client is answered: package cache and package proxy do that. It never sees
// a client's request, so nothing of one can travel upstream. Blob bodies are
// not verified here: who stores them hashes them.
package upstream
