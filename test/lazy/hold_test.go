package lazy_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cistern/test/lab"
)

// A hold has answers with a blob's bytes stand still on their way, until it is opened or the test is over.
type hold struct {
	r      *rig
	at     func(a *ask) int64
	gate   chan struct{}
	open   func()
	there  atomic.Int64 // answers that have come to where they stand still
	leaves atomic.Int64 // of these, those whose other side left meanwhile
}

// Where an answer stands still, beside before a byte of it.
const (
	beforeHeader = -1
	nowhere      = -2
)

// within is where an answer stands still that is to stop before a byte of the blob.
func within(a *ask, off int64) int64 {
	if off < a.off || off >= a.end {
		return nowhere
	}
	return off - a.off
}

// hold has all answers with the blob's bytes stand still: each before the byte that at says, counted from where it begins.
func (r *rig) hold(b *blob, at func(a *ask) int64) *hold {
	h := &hold{r: r, at: at, gate: make(chan struct{})}
	h.open = sync.OnceFunc(func() { close(h.gate) })
	r.keep(b, h.serve)
	return h
}

// serve is an honest answer, held.
func (h *hold) serve(w http.ResponseWriter, req *http.Request, a *ask) {
	switch at := h.at(a); {
	case at >= 0:
		w = &held{ResponseWriter: w, hold: h, req: req, left: at}
	case at == beforeHeader:
		h.wait(req)
	}
	serve(w, req, a)
}

// wait stands still.
func (h *hold) wait(req *http.Request) {
	h.there.Add(1)
	select {
	case <-h.gate:
	case <-req.Context().Done():
		h.leaves.Add(1)
	case <-h.r.ended:
	}
}

// held is an answer that stands still before a byte of its body.
type held struct {
	http.ResponseWriter
	*hold
	req  *http.Request
	left int64 // below 0: it has stood there
}

// Write implements io.Writer.
func (h *held) Write(p []byte) (n int, err error) {
	if h.left >= int64(len(p)) {
		h.left -= int64(len(p))
	} else if h.left >= 0 {
		n, err = h.ResponseWriter.Write(p[:h.left])
		h.left = -1
		_ = http.NewResponseController(h.ResponseWriter).Flush()
		h.wait(h.req)
	}
	if err == nil {
		var m int
		m, err = h.ResponseWriter.Write(p[n:])
		n += m
	}
	return n, err
}

// stand waits until so many answers stand still at once.
func (h *hold) stand(n int64) {
	h.r.t.Helper()
	h.r.until(func() error {
		if got := h.there.Load(); got < n {
			return fmt.Errorf("%d answers of upstream stand still, not %d", got, n)
		}
		return nil
	})
}

// until waits for something.
func (r *rig) until(ok func() error) {
	r.t.Helper()
	lab.Eventually(r.t, 30*time.Second, r.daemon.Process, ok)
}

// logged waits until the daemon's log says something so many times, or more.
func (r *rig) logged(what string, times int) {
	r.t.Helper()
	r.until(func() error {
		if n := strings.Count(r.daemon.Output(), what); n < times {
			return fmt.Errorf("the log says %s %d times, not %d", what, n, times)
		}
		return nil
	})
}

// gaps makes a blob of which n+1 parts are missing, of so many pieces each; between them lies a piece that is here. Whoever asks for all of
// it has upstream asked for the parts by as many streams as it may have.
func (r *rig) gaps(n, parts int64) *blob {
	r.t.Helper()
	b := r.blob(int((n+1)*(parts+1)*piece - piece))
	for i := range n {
		r.must(r.closed(b, pieces(i*(parts+1)+parts, 1)))
	}
	return b
}
