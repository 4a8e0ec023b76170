package listener

import (
	"errors"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestOverTheCapTheLongestWaitingMakesRoom(t *testing.T) {
	t.Parallel()
	l := start(t, Options{MaxConnections: 2}, answer("ok"))
	first, second := dial(t, l), dial(t, l)
	until(t, "both accepted", func() bool {
		l.table.mu.Lock()
		defer l.table.mu.Unlock()
		return l.table.waiting.Len() == 2
	})
	for i, c := range []net.Conn{first, second} {
		send(t, c, get)
		response(t, c)
		until(t, "one more idle", func() bool {
			l.table.mu.Lock()
			defer l.table.mu.Unlock()
			back := l.table.waiting.Back()
			return l.table.waiting.Len() == 2 && !back.Value.(*entry).fresh && (i == 0 || !l.table.waiting.Front().Value.(*entry).fresh)
		})
	}
	third := dial(t, l)
	send(t, third, get)
	if resp, _ := response(t, third); resp.StatusCode != http.StatusOK {
		t.Errorf("third client: %s", resp.Status)
	}
	if _, err := first.Read(make([]byte, 1)); err == nil {
		t.Error("the first connection is still open")
	}
	send(t, second, get)
	if resp, _ := response(t, second); resp.StatusCode != http.StatusOK {
		t.Errorf("second client: %s", resp.Status)
	}
	if s := l.Stats(); s.Evicted != 1 || s.Refused != 0 {
		t.Errorf("stats %+v", s)
	}
}

func TestOverTheCapOfBusyOnesTheNewcomerIsReset(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	l := start(t, Options{MaxConnections: 2}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-release }))
	busy := []net.Conn{dial(t, l), dial(t, l)}
	for _, c := range busy {
		send(t, c, get)
	}
	until(t, "both busy", func() bool {
		l.table.mu.Lock()
		defer l.table.mu.Unlock()
		return len(l.table.conns) == 2 && l.table.waiting.Len() == 0
	})
	began := time.Now()
	c, err := net.Dial("tcp", l.Addr().String())
	if err == nil {
		_ = c.SetDeadline(began.Add(patience))
		_, err = c.Read(make([]byte, 1))
		c.Close()
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the newcomer got %v, want a reset", err)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("refused after %v", took)
	}
	close(release)
	for _, c := range busy {
		if resp, _ := response(t, c); resp.StatusCode != http.StatusOK {
			t.Errorf("busy client: %s", resp.Status)
		}
	}
	if s := l.Stats(); s.Refused != 1 {
		t.Errorf("stats %+v", s)
	}
}

func TestHalfOpenConnectionsKeepNobodyOut(t *testing.T) {
	t.Parallel()
	l := start(t, Options{MaxConnections: 8}, answer("ok"))
	for range 40 {
		c := dial(t, l)
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost:") // some are closed already
	}
	c := dial(t, l)
	send(t, c, get)
	if resp, _ := response(t, c); resp.StatusCode != http.StatusOK {
		t.Errorf("good client: %s", resp.Status)
	}
	if s := l.Stats(); s.Connections > 8 || s.Refused != 0 {
		t.Errorf("stats %+v", s)
	}
}

func TestConnectionsReachTheServerBareAndBounded(t *testing.T) {
	t.Parallel()
	l, err := Listen(Options{Address: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	seen := make(chan net.Conn, 1)
	state := l.http.ConnState
	l.http.ConnState = func(c net.Conn, s http.ConnState) {
		if state(c, s); s == http.StateActive {
			seen <- c
		}
	}
	type result struct{ bare, timeout, keepAlive int }
	got := make(chan result, 1)
	done := make(chan error, 1)
	go func() {
		done <- l.Serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			conn, ok := (<-seen).(*net.TCPConn)
			if !ok {
				got <- result{}
				return
			}
			raw, _ := conn.SyscallConn()
			_ = raw.Control(func(fd uintptr) {
				timeout, _ := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
				idle, _ := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPIDLE)
				got <- result{1, timeout, idle}
			})
		}))
	}()
	c := dial(t, l)
	send(t, c, get)
	if r, want := <-got, (result{1, 300_000, 15}); r != want {
		t.Errorf("connection: %+v, want %+v", r, want)
	}
	l.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestConnectionsFor(t *testing.T) {
	t.Parallel()
	for files, want := range map[uint64]int{0: 1, 2: 1, 3: 1, 64: 16, 256: 64, 1024: 384, 4096: 1920, 20_000: 4096, 1 << 30: 4096, 1<<64 - 1: 4096} {
		if got := connectionsFor(files); got != want {
			t.Errorf("connectionsFor(%d) = %d, want %d", files, got, want)
		}
	}
}
