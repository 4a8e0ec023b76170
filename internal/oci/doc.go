// Package oci is the vocabulary of the registry protocol: digests, repositories,
// references, the one parser and builder of /v2 URLs, errors with their one
// table of statuses, and media types.
//
// It holds no I/O, no HTTP server or client and no policy: which upstream a
// request is for, and whether it may be answered, is decided in package proxy.
package oci
