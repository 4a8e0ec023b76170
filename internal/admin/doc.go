// Package admin is the operator's side of the daemon over HTTP: metrics, health,
// profiles and the API under /api/v1, and the client of that API, which the
// command line's verbs use.
//
// It decides who may ask, and nothing else: what it shows and changes is done
// by packages proxy, cache and upstream. It binds no address, and it is not
// for registry clients.
package admin
