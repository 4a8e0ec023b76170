// Package origin is a synthetic container registry on loopback: images of any
// shape, computed from a seed as they are asked for and kept nowhere, behind a
// link of chosen latency and bandwidth, with token authentication, redirected
// blobs, faults on demand and counters. Benchmarks and the demo have it as
// upstream. It is no store (nothing can be pushed), no test double for the odd
// ways of particular registries, and it listens on loopback only.
package origin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"

	"cistern/bench/shape"
)

// Options say what registry to be. The zero value is an open, unlimited one.
type Options struct {
	// Seed selects the content: the same seed gives the same digests.
	Seed uint64
	// DigestCache is a file that keeps the digests of computed layers between
	// runs; empty = they are computed anew.
	DigestCache string
	// Auth asks for bearer tokens, from a token service on the same address.
	Auth bool
	// Username and Password are what the token service wants; empty = anonymous.
	Username, Password string
	// Redirect answers blobs with 307 to a second address, the CDN.
	Redirect bool
	// RateLimit, when not zero, is announced as ratelimit-limit on manifests and
	// counted down by GETs; it is never enforced (that is what faults are for).
	RateLimit int
	// Link is how the network begins; it can be changed while running.
	Link shape.Spec
}

// Server is a running synthetic registry.
type Server struct {
	lib    *library
	link   *shape.Link
	count  *counting
	faults faultList
	auth   *tokens // nil: open
	opts   Options
	pulls  atomic.Int64 // manifest GETs, for the announced rate limit; never reset

	registry, cdn, control string // base URLs
	servers                []*http.Server
	wg                     sync.WaitGroup
}

// connKey is where a request's context holds its *shape.Conn.
type connKey struct{}

// Start listens on three free loopback ports and serves until Close.
func Start(o Options) (*Server, error) {
	known, err := openDigests(o.DigestCache)
	if err != nil {
		return nil, err
	}
	s := &Server{lib: newLibrary(newGenerator(o.Seed, known)), link: &shape.Link{}, count: newCounting(), opts: o}
	s.link.Set(o.Link)
	if o.Auth {
		s.auth = newTokens(o.Username, o.Password)
	}
	var lns []net.Listener
	for range 3 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			for _, l := range lns {
				err = errors.Join(err, l.Close())
			}
			return nil, fmt.Errorf("listening: %w", err)
		}
		lns = append(lns, ln)
	}
	s.registry, s.cdn, s.control = "http://"+lns[0].Addr().String(), "http://"+lns[1].Addr().String(), "http://"+lns[2].Addr().String()
	s.serve(s.link.Listen(lns[0]), s.far(http.HandlerFunc(s.serveRegistry)))
	s.serve(s.link.Listen(lns[1]), s.far(http.HandlerFunc(s.serveCDN)))
	s.serve(lns[2], s.controlHandler())
	return s, nil
}

// Registry is the base URL of the registry, CDN that of redirected blobs, and
// Control that of the control interface, which is neither shaped nor counted.
func (s *Server) Registry() string { return s.registry }

// CDN is the base URL that blobs are redirected to.
func (s *Server) CDN() string { return s.cdn }

// Control is the base URL for [Control].
func (s *Server) Control() string { return s.control }

// Close cuts all connections and waits for the listeners' goroutines.
func (s *Server) Close() error {
	var errs []error
	for _, srv := range s.servers {
		errs = append(errs, srv.Close())
	}
	s.wg.Wait()
	return errors.Join(errs...)
}

func (s *Server) serve(ln net.Listener, h http.Handler) {
	srv := &http.Server{Handler: h, ConnContext: func(ctx context.Context, c net.Conn) context.Context {
		if sc, ok := c.(*shape.Conn); ok {
			return context.WithValue(ctx, connKey{}, sc)
		}
		return ctx
	}}
	s.servers = append(s.servers, srv)
	s.wg.Go(func() {
		// Serve always ends with an error; Close is the only way to end it here.
		_ = srv.Serve(ln)
	})
}

// far is what a request meets before the registry does: it is counted, it takes
// a round trip, and a fault may be waiting for it.
func (s *Server) far(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		req := parse(r.URL.Path)
		s.count.request(r, req)
		s.count.active.Add(1)
		defer s.count.active.Add(-1)
		conn, ok := r.Context().Value(connKey{}).(*shape.Conn)
		if ok {
			s.link.RoundTrip(r.Context(), conn)
		}
		f, hit := s.faults.take(r.Method, req.kind, r.URL.Path)
		if hit && f.before(w, conn) {
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), faultKey{}, f)))
	})
}
