package listener

import (
	"container/list"
	"errors"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// userTimeout ends a connection whose peer has taken nothing of what was sent
// for so long: a reader that never reads. It costs no goroutine, and leaves
// sendfile alone (FAULTS 0.9).
const userTimeout = 5 * time.Minute

// MaxConnections is the most that any machine gets: at 16 KiB each, half-open
// ones included, about 70 MB (FAULTS 0.10).
const MaxConnections = 4096

// maxConnections derives a cap from the limit of open files: a response needs
// its connection and a file, and a rest is for upstream and the index.
func maxConnections() int {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return MaxConnections / 4
	}
	return connectionsFor(lim.Cur)
}

func connectionsFor(files uint64) int {
	files = min(files, 4*MaxConnections)
	rest := min(256, files/2)
	return int(max(1, min(MaxConnections, (files-rest)/2)))
}

// table bounds the connections of a listener. Those that wait for a request,
// the first or the next, are kept in the order in which they began to: over
// the cap the longest waiting one makes room, so that neither parked clients
// nor half-open ones keep anybody out. If all are busy, the newcomer is refused.
type table struct {
	net.Listener
	limit int

	mu      sync.Mutex // guards what follows
	conns   map[*net.TCPConn]*entry
	waiting *list.List // of *entry, longest waiting first
	refused uint64
	evicted uint64
}

type entry struct {
	conn  *net.TCPConn
	fresh bool          // has not asked for anything yet
	place *list.Element // in waiting; nil while busy
}

func newTable(ln net.Listener, limit int) *table {
	return &table{Listener: ln, limit: limit, conns: map[*net.TCPConn]*entry{}, waiting: list.New()}
}

// Accept gives the next connection that there is room for.
func (t *table) Accept() (net.Conn, error) {
	for {
		c, err := t.Listener.Accept()
		if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
			// net/http tries again in a moment; there may be a file by then.
			t.mu.Lock()
			t.evictLocked()
			t.mu.Unlock()
		}
		if err != nil {
			return nil, err
		}
		conn, ok := c.(*net.TCPConn)
		if !ok { // a unix socket: local, and guarded by its mode
			return c, nil
		}
		if t.admit(conn) {
			setUserTimeout(conn)
			return conn, nil
		}
		// RST at once: the client goes on to its next mirror, where a stall
		// or an accept queue would keep it (P 2.12).
		_ = conn.SetLinger(0)
		_ = conn.Close()
	}
}

func (t *table) admit(conn *net.TCPConn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.conns) >= t.limit && !t.evictLocked() {
		t.refused++
		return false
	}
	e := &entry{conn: conn, fresh: true}
	e.place = t.waiting.PushBack(e)
	t.conns[conn] = e
	return true
}

// evictLocked closes the connection that waits longest, if any waits.
func (t *table) evictLocked() bool {
	front := t.waiting.Front()
	if front == nil {
		return false
	}
	e := t.waiting.Remove(front).(*entry)
	delete(t.conns, e.conn)
	t.evicted++
	_ = e.conn.Close()
	return true
}

// state follows a connection; it is net/http's ConnState hook.
func (t *table) state(c net.Conn, s http.ConnState) {
	conn := tcp(c)
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.conns[conn]
	if e == nil { // made room already, or a unix socket
		return
	}
	switch s {
	case http.StateActive:
		e.fresh = false
		if e.place != nil {
			t.waiting.Remove(e.place)
			e.place = nil
		}
	case http.StateIdle:
		if e.place == nil {
			e.place = t.waiting.PushBack(e)
		}
	case http.StateClosed, http.StateHijacked:
		if e.place != nil {
			t.waiting.Remove(e.place)
		}
		delete(t.conns, conn)
	}
}

// hurryFresh gives connections that have not asked for anything yet until
// then to do so. net/http would wait five seconds for them when it shuts down,
// and clients open connections ahead of need.
func (t *table) hurryFresh(until time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range t.conns {
		if e.fresh {
			_ = e.conn.SetReadDeadline(until)
		}
	}
}

// tcp finds the TCP connection under c, or nil.
func tcp(c net.Conn) *net.TCPConn {
	if under, ok := c.(interface{ NetConn() net.Conn }); ok { // *tls.Conn
		c = under.NetConn()
	}
	conn, _ := c.(*net.TCPConn)
	return conn
}

func setUserTimeout(conn *net.TCPConn) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	// Without it the connection is as good as any other; nothing to report.
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout.Milliseconds()))
	})
}
