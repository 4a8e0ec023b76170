package upstream

import (
	"bytes"
	"errors"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"
)

var errSurplus = errors.New("upstream sent bytes behind the end of its answer")

// socket is a TCP connection that is counted, and that tells when its reader
// is about to wait for bytes.
type socket struct {
	net.Conn
	once    sync.Once
	counts  *counters
	waiting func()
}

func (s *socket) Read(p []byte) (int, error) {
	if s.waiting != nil {
		s.waiting()
	}
	return s.Conn.Read(p)
}

func (s *socket) Close() error {
	s.once.Do(func() { s.counts.active.Add(-1) })
	return s.Conn.Close()
}

// pending tells whether bytes lie in the socket unread.
func (s *socket) pending() bool {
	sc, ok := s.Conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	n := 0
	// Control, not Read: a reader that waits holds the read lock.
	if err := raw.Control(func(fd uintptr) {
		n, _, _ = syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	}); err != nil {
		return false
	}
	return n > 0
}

// framedConn hands net/http no byte behind the end of a response, and starts
// no request before it is sure that there was none: surplus ends the
// connection. A request that finds it so has not been sent, and net/http
// sends it on another one.
type framedConn struct {
	net.Conn // the socket, or TLS over it
	low      *socket

	mu      sync.Mutex // guards what follows
	framer  framer
	started bool
	opaque  bool          // carries TLS or a tunnel that net/http made: nothing to follow
	bad     bool          // there was surplus
	clean   chan struct{} // closed when the reader waits and nothing was left over
	closed  chan struct{}
}

func newFramedConn(c net.Conn, low *socket) *framedConn {
	f := &framedConn{Conn: c, low: low, clean: make(chan struct{}), closed: make(chan struct{})}
	low.waiting = f.waiting
	return f
}

// waiting runs before the reader blocks on the socket: all that had arrived is
// taken by now, from TLS's buffers as well.
func (c *framedConn) waiting() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.opaque || !c.started || !c.framer.done() || isClosed(c.clean) || c.low.pending() {
		return // what is pending is surplus, or a TLS record without content: Read will see
	}
	close(c.clean)
}

// Read implements net.Conn.
func (c *framedConn) Read(p []byte) (int, error) {
	if c.spoilt() {
		return 0, errSurplus
	}
	n, err := c.Conn.Read(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.opaque || n == 0 {
		return n, err
	}
	if used := c.framer.take(p[:n]); used < n {
		c.bad = true
		if used == 0 {
			return 0, errSurplus
		}
		return used, nil
	}
	return n, err
}

func (c *framedConn) spoilt() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bad
}

// settleTime is how long a request waits for the reader of the response before
// it to be done with the connection; it takes microseconds.
const settleTime = time.Second

// Write implements net.Conn.
func (c *framedConn) Write(p []byte) (int, error) {
	if err := c.request(p); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// request notes the start of a request in p, if it is one.
func (c *framedConn) request(p []byte) error {
	method := requestMethod(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.opaque, c.started && (method == "" || !c.framer.done()):
		return nil
	case !c.started:
		c.started, c.opaque = true, method == ""
		c.framer.begin(method)
		return nil
	}
	clean := c.clean
	c.mu.Unlock()
	waitFor(clean, c.closed, settleTime)
	c.mu.Lock()
	if c.bad || !isClosed(clean) {
		return errSurplus
	}
	c.clean = make(chan struct{})
	c.framer.begin(method)
	return nil
}

// waitFor waits for either channel, for a limited time.
func waitFor(a, b <-chan struct{}, limit time.Duration) {
	if isClosed(a) {
		return
	}
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-a:
	case <-b:
	case <-t.C:
	}
}

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// requestMethod is the method that p starts with, of those that we send to
// registries; "" for anything else, CONNECT and TLS included.
func requestMethod(p []byte) string {
	for _, m := range []string{http.MethodGet, http.MethodHead, http.MethodPost} {
		if bytes.HasPrefix(p, []byte(m+" ")) {
			return m
		}
	}
	return ""
}

// Close implements net.Conn.
func (c *framedConn) Close() error {
	c.mu.Lock()
	if !isClosed(c.closed) {
		close(c.closed)
	}
	c.mu.Unlock()
	return c.Conn.Close()
}
