package upstream

import (
	"bufio"
	"net"
	"strings"
	"sync"
	"testing"
)

// step is one act of a scripted origin on a connection.
type step func(c net.Conn, r *bufio.Reader) bool

// expect reads one request and hands over its text.
func expect(seen func(request string)) step {
	return func(_ net.Conn, r *bufio.Reader) bool {
		var b strings.Builder
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return false
			}
			b.WriteString(line)
			if line == "\r\n" {
				if seen != nil {
					seen(b.String())
				}
				return true
			}
		}
	}
}

func send(text string) step {
	return func(c net.Conn, _ *bufio.Reader) bool {
		_, err := c.Write([]byte(text))
		return err == nil
	}
}

// wait holds the connection until the channel is closed.
func wait(until <-chan struct{}) step {
	return func(net.Conn, *bufio.Reader) bool {
		<-until
		return true
	}
}

// fin ends the sending direction; rst resets the connection.
func fin() step {
	return func(c net.Conn, _ *bufio.Reader) bool { return c.(*net.TCPConn).CloseWrite() == nil }
}

func rst() step {
	return func(c net.Conn, _ *bufio.Reader) bool {
		_ = c.(*net.TCPConn).SetLinger(0)
		_ = c.Close()
		return false
	}
}

// script is a raw TCP origin. The n-th connection plays the n-th script, those
// after the last one play the last. A connection stays open at the end of its
// script until the client closes it or the test ends.
func script(t *testing.T, scripts ...[]step) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	wg.Go(func() {
		for n := 0; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			steps := scripts[min(n, len(scripts)-1)]
			wg.Go(func() { play(c, steps) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for _, c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return "http://" + l.Addr().String()
}

func play(c net.Conn, steps []step) {
	defer func() { _ = c.Close() }()
	r := bufio.NewReader(c)
	for _, s := range steps {
		if !s(c, r) {
			return
		}
	}
	_, _ = r.WriteTo(discard{}) // until the client goes
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
