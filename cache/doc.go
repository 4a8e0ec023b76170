// Package cache decides what is kept and for how long: it answers from disk,
// joins or starts fills, holds tags and their freshness, and evicts.
//
// It knows neither HTTP nor any upstream: whatever it does not have comes
// through the Source that its caller hands in, and what goes to a client is a
// Reader or a few bytes. Bytes on disk are the business of cache/blob, records
// of cache/index, and followers of a growing file of cache/flight.
//
// Four sets say where a blob is, looked up in this order:
//
//	hot      small objects in memory, by digest
//	pending  verified, in fills/, not yet on stable storage
//	index    recorded: verified and on stable storage
//	flights  on its way
package cache
