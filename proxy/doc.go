// Package proxy is the HTTP face of the cache: it parses a request of the
// registry API, resolves which upstream it is for, has the cache answer, and
// turns whatever went wrong into the reply that makes the client do the right
// thing (P section 7). There is one way out: one place that writes errors,
// counts and logs.
//
// It keeps nothing itself and fetches nothing itself; it adapts an upstream to
// the cache's Source. Listening, TLS and the admin API are elsewhere.
package proxy
