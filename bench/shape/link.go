package shape

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Spec is how a link behaves. The zero value is as fast as loopback goes.
type Spec struct {
	// RTT is waited before each answer, and once more on a connection's first.
	RTT time.Duration `json:"rtt"`
	// Total is the rate of all connections together, in bytes a second; 0 = no limit.
	Total int64 `json:"total"`
	// PerConnection is the rate of each connection, in bytes a second; 0 = no limit.
	PerConnection int64 `json:"per_connection"`
}

// Link is one network path that several listeners may share. Its Spec can change
// at any time and holds for connections that are already open. Safe for
// concurrent use; the zero value is unlimited.
type Link struct {
	total   Bucket
	spec    atomic.Pointer[Spec]
	used    atomic.Int64
	epoch   atomic.Int64 // counts Resets
	sent    atomic.Int64
	buffers sync.Pool // of *[]byte, maxPiece long
}

// Set replaces the link's behaviour.
func (l *Link) Set(s Spec) { l.spec.Store(&s) }

// Spec returns the present behaviour.
func (l *Link) Spec() Spec {
	if s := l.spec.Load(); s != nil {
		return *s
	}
	return Spec{}
}

// Used is the number of connections that carried a request since the start or the
// last Reset: those kept open from before count, those never used do not.
func (l *Link) Used() int64 { return l.used.Load() }

// Sent is the number of bytes written, headers included, since the start or Reset.
func (l *Link) Sent() int64 { return l.sent.Load() }

// Reset sets both counters to zero.
func (l *Link) Reset() {
	l.epoch.Add(1)
	l.used.Store(0)
	l.sent.Store(0)
}

// Listen wraps ln so that what it accepts goes over the link.
func (l *Link) Listen(ln net.Listener) net.Listener { return &listener{Listener: ln, link: l} }

// RoundTrip counts the connection and waits as long as a request on it takes to
// come and its answer to go. It returns early when ctx ends.
func (l *Link) RoundTrip(ctx context.Context, conn *Conn) {
	if now := l.epoch.Load(); conn.epoch.Swap(now) != now {
		l.used.Add(1)
	}
	d := l.Spec().RTT
	if conn.old.CompareAndSwap(false, true) {
		d *= 2
	}
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

type listener struct {
	net.Listener
	link *Link
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	sc := &Conn{Conn: c, link: l.link}
	sc.epoch.Store(-1)
	return sc, nil
}

// Conn is a connection of a Link. Writes wait for their slot; reads are not
// shaped, since requests are small.
type Conn struct {
	net.Conn
	link *Link
	own  Bucket
	// old is set by the first request; epoch is the link's when it was last used.
	old   atomic.Bool
	epoch atomic.Int64
}

// http.Server hands bodies to ReadFrom where the connection has one; without it
// it would copy through its own 32 KiB buffer.
var _ io.ReaderFrom = (*Conn)(nil)

// Write sends p in pieces that are small against the rates, so that connections
// that share the link take turns.
func (c *Conn) Write(p []byte) (int, error) {
	done := 0
	for {
		s := c.link.Spec()
		piece := p[done:min(len(p), done+pieceSize(s))]
		c.wait(len(piece), s)
		n, err := c.Conn.Write(piece)
		done += n
		c.link.sent.Add(int64(n))
		if err != nil || done == len(p) {
			return done, err
		}
	}
}

// ReadFrom sends all of r.
func (c *Conn) ReadFrom(r io.Reader) (int64, error) {
	buf, ok := c.link.buffers.Get().(*[]byte)
	if !ok {
		b := make([]byte, maxPiece)
		buf = &b
	}
	defer c.link.buffers.Put(buf)
	return io.CopyBuffer(struct{ io.Writer }{c}, struct{ io.Reader }{r}, *buf)
}

// Abort closes the connection with a reset instead of a FIN.
func (c *Conn) Abort() error {
	if t, ok := c.Conn.(*net.TCPConn); ok {
		if err := t.SetLinger(0); err != nil {
			return err
		}
	}
	return c.Conn.Close()
}

func (c *Conn) wait(n int, s Spec) {
	if d := max(c.own.Reserve(n, s.PerConnection), c.link.total.Reserve(n, s.Total)); d > 0 {
		time.Sleep(d)
	}
}

const maxPiece = 256 << 10

// pieceSize is about a millisecond of the slower rate: larger pieces come in
// bursts, smaller ones cost a timer each.
func pieceSize(s Spec) int {
	rate := s.Total
	if s.PerConnection > 0 && (rate <= 0 || s.PerConnection < rate) {
		rate = s.PerConnection
	}
	if rate <= 0 {
		return maxPiece
	}
	return int(min(max(rate/1000, 8<<10), maxPiece))
}
