package crash_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cistern/test/lab"
)

// An origin is the upstream: it serves a world, counts the body bytes that it sends, and can be switched off, slowed
// down and made to fail.
type origin struct {
	addr string

	world atomic.Pointer[world]
	asked atomic.Int64 // requests
	off   atomic.Bool  // cuts every connection that asks
	slow  atomic.Bool  // large bodies at some 60 MB/s, so that the end of a process meets them

	mu     sync.Mutex // guards what follows
	faults *rand.Rand // nil: none; else every twentieth request fails
	failed int64
	wanted []string                 // what was asked for while it was off
	sent   map[*thing]int64         // body bytes since sentSince
	pieces map[*thing][]int64       // the same by pieces, since piecesSince
	pacers map[*thing]func() *pacer // of an answer with that thing; else as slow says
	open   map[*thing]int           // answers under way
	most   map[*thing]int           // answers that were under way at once
	held   map[*thing]*held
}

// held is a thing whose first answer stands still at a byte of its body, or before its header, until it is released.
type held struct {
	at    int64         // -1: before the header
	there chan struct{} // closed when it has come to that
	gate  chan struct{}
}

// startOrigin serves on loopback until the test is over.
func startOrigin(t *testing.T) *origin {
	t.Helper()
	o := &origin{addr: lab.Addr(), sent: map[*thing]int64{}, pieces: map[*thing][]int64{},
		pacers: map[*thing]func() *pacer{}, open: map[*thing]int{}, most: map[*thing]int{}, held: map[*thing]*held{}}
	l, err := net.Listen("tcp", o.addr)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: o}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = s.Shutdown(ctx)
		_ = s.Close()
		<-done
	})
	return o
}

// ServeHTTP answers as a registry does.
func (o *origin) ServeHTTP(rw http.ResponseWriter, req *http.Request) {
	o.asked.Add(1)
	if o.off.Load() {
		o.mu.Lock()
		o.wanted = append(o.wanted, req.Method+" "+req.URL.Path+" "+req.Header.Get("Range"))
		o.mu.Unlock()
		panic(http.ErrAbortHandler)
	}
	if req.URL.Path == "/v2/" {
		return
	}
	x := o.world.Load().find(path.Base(req.URL.Path))
	if x == nil {
		http.NotFound(rw, req)
		return
	}
	if strings.Contains(req.URL.Path, "/manifests/") {
		rw.Header().Set("Content-Type", manifestType)
	} else {
		rw.Header().Set("Content-Type", "application/octet-stream")
	}
	rw.Header().Set("Docker-Content-Digest", x.digest)
	h := o.takeHeld(x)
	if h != nil && h.at < 0 && !h.wait(req.Context()) {
		panic(http.ErrAbortHandler)
	}
	most := int64(-1)
	switch o.fault() {
	case 1:
		rw.WriteHeader(http.StatusServiceUnavailable)
		return
	case 2:
		most = x.size() / 2
	}
	w := &pacedWriter{ResponseWriter: rw, o: o, x: x, ctx: req.Context(), most: most, held: h}
	if req.Method == http.MethodGet {
		w.pacer = o.begins(x)
		defer o.ends(x)
	}
	http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(x.data))
}

// hold has the next answer with this thing stand still before the given byte, or before its header (-1); close gate to let
// it go on.
func (o *origin) hold(x *thing, at int64) *held {
	h := &held{at: at, there: make(chan struct{}), gate: make(chan struct{})}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.held[x] = h
	return h
}

func (o *origin) takeHeld(x *thing) *held {
	o.mu.Lock()
	defer o.mu.Unlock()
	h := o.held[x]
	delete(o.held, x)
	return h
}

// wait stands still; false if the other side has left.
func (h *held) wait(ctx context.Context) bool {
	close(h.there)
	select {
	case <-h.gate:
		return true
	case <-ctx.Done():
		return false
	}
}

// fault is 0 for none, 1 for a 503, 2 for a body that ends in the middle.
func (o *origin) fault() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.faults == nil || o.faults.IntN(20) > 0 {
		return 0
	}
	o.failed++
	return 1 + o.faults.IntN(2)
}

// count notes body bytes that were sent, from an offset of the thing on.
func (o *origin) count(x *thing, off int64, n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.sent[x] += int64(n)
	ps := o.pieces[x]
	if ps == nil {
		ps = make([]int64, piecesOf(x))
		o.pieces[x] = ps
	}
	for end := off + int64(n); off < end; {
		next := min(end, (off/pieceSize+1)*pieceSize)
		ps[off/pieceSize] += next - off
		off = next
	}
}

// piecesSince takes the body bytes of a thing that were sent since the last time, by its pieces.
func (o *origin) piecesSince(x *thing) []int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	ps := o.pieces[x]
	delete(o.pieces, x)
	if ps == nil {
		ps = make([]int64, piecesOf(x))
	}
	return ps
}

// sentSince takes the body bytes that were sent since the last time, by what they are of.
func (o *origin) sentSince() map[*thing]int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	sent := o.sent
	o.sent = map[*thing]int64{}
	return sent
}

// setFaults begins or ends (nil) the failing.
func (o *origin) setFaults(rng *rand.Rand) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.faults = rng
}

// faulted is how many requests failed so far.
func (o *origin) faulted() int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.failed
}

// misses takes what was asked for while it was off.
func (o *origin) misses() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	m := o.wanted
	o.wanted = nil
	return m
}

func (o *origin) config(limit int64) string {
	return fmt.Sprintf("cache: { max_size: %dB, min_free: 0B }\nupstreams:\n  docker.io:\n    endpoints: [\"http://%s\"]\n"+
		"    tags: [{ match: \".*\", fresh: 1h }]\n", limit, o.addr)
}

// pacedWriter counts what is sent, at the pace that the origin has, up to a most.
type pacedWriter struct {
	http.ResponseWriter
	o     *origin
	x     *thing
	ctx   context.Context
	most  int64 // -1: no bound; else the connection is cut after so many bytes
	pacer *pacer
	held  *held // nil: not, or not any more
	from  int64 // the offset of its first byte in the thing
	sent  int64
}

// WriteHeader implements http.ResponseWriter.
func (w *pacedWriter) WriteHeader(status int) {
	if status == http.StatusPartialContent { // the daemon asks for one range only
		_, _ = fmt.Sscanf(w.Header().Get("Content-Range"), "bytes %d-", &w.from)
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements io.Writer.
func (w *pacedWriter) Write(p []byte) (int, error) {
	if w.most >= 0 && int64(len(p)) > w.most {
		n, _ := w.ResponseWriter.Write(p[:w.most])
		w.o.count(w.x, w.from+w.sent, n)
		panic(http.ErrAbortHandler)
	}
	if h := w.held; h != nil && h.at >= 0 && w.sent+int64(len(p)) > h.at {
		w.held = nil
		_ = http.NewResponseController(w.ResponseWriter).Flush()
		if !h.wait(w.ctx) {
			return 0, w.ctx.Err()
		}
	}
	n, err := w.ResponseWriter.Write(p)
	w.o.count(w.x, w.from+w.sent, n)
	w.sent += int64(n)
	if w.most >= 0 {
		w.most -= int64(n)
	}
	if err == nil {
		err = w.pacer.pass(w.ctx, len(p))
	}
	return n, err
}

// ReadFrom writes in pieces of 128 KiB, each at its time.
func (w *pacedWriter) ReadFrom(r io.Reader) (total int64, err error) {
	buf := make([]byte, 128*kib)
	for {
		n, rerr := io.ReadFull(r, buf)
		if n > 0 {
			m, err := w.Write(buf[:n])
			total += int64(m)
			if err != nil {
				return total, err
			}
		}
		if rerr == io.EOF || rerr == io.ErrUnexpectedEOF {
			return total, nil
		}
		if rerr != nil {
			return total, rerr
		}
	}
}
