// Package index remembers what the cache holds: blobs and in which order they
// were used, tags, and grants (the knowledge that an upstream serves a digest
// under a repository). It lives in one bbolt file.
//
// It holds no bytes of blobs, decides no policy (who may read, what is fresh,
// how much to evict) and keeps nothing in memory that grows with the number of
// blobs.
//
//	meta     "version", "totals"
//	names    text -> id             upstream and repository, media type, origin: interned for ever
//	ids      id -> text
//	blobs    digest -> record       holds its own recency key's time
//	recency  lane time digest -> ""    a lane is a class, or large blobs that were used again
//	tags     repository tag -> what it last resolved to
//	grants   digest repository -> when
//	departed digest -> why it went, and when
//	departures number -> digest, in the order in which they went; no checksum, the digest is one
//
// Every value ends in a CRC32C over its key and itself: bbolt has no checksums
// on pages. A value that does not match is a miss, counted, and deleted by the
// next Apply.
//
// bbolt panics on damaged pages, or is killed by the fault of a page beyond the
// end of the file. So every call passes one guard; once that has caught
// anything the Index is broken for ever: each call returns ErrBroken at once,
// and the caller closes it, renames the file aside and opens a new one.
package index

import "errors"

// What Open and the calls fail with, beside errors of the file system.
var (
	// ErrLocked says that another process has the file.
	ErrLocked = errors.New("the index is in use by another process")
	// ErrVersion says that a newer program wrote the file.
	ErrVersion = errors.New("the index was written by a newer program")
	// ErrBroken says that the file is damaged, or that a write or fsync of it
	// failed, so that nobody knows what it holds. For ever.
	ErrBroken = errors.New("the index is broken")
	// ErrClosed says that Close was called.
	ErrClosed = errors.New("the index is closed")
)
