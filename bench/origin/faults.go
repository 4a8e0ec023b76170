package origin

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"cistern/bench/shape"
)

// The ways in which a request can go wrong.
const (
	FaultStatus = "status" // answered with Status, and Retry-After when set
	FaultReset  = "reset"  // the connection is reset before the answer
	FaultCut    = "cut"    // the body ends at byte At, by FIN
	FaultStall  = "stall"  // no byte after At, until the client goes
	FaultWrong  = "wrong"  // byte At of the body is another one
)

// Fault is something that goes wrong for the requests it matches.
type Fault struct {
	// Kind is "manifest", "blob" (the CDN's as well), "token", "ping", "tags" or
	// "referrers"; empty = any.
	Kind string `json:"kind,omitempty"`
	// Match is a part of the path; empty = any.
	Match string `json:"match,omitempty"`
	// Times is how many requests meet it; 0 = all.
	Times int `json:"times,omitempty"`
	// Action is one of the Fault constants.
	Action string `json:"action"`
	// At is the offset in the body that is sent (not in the blob) for cut, stall and wrong.
	At int64 `json:"at,omitempty"`
	// Status is the HTTP status for FaultStatus.
	Status int `json:"status,omitempty"`
	// RetryAfter is the value of that header in seconds; 0 = none.
	RetryAfter int `json:"retry_after,omitempty"`
}

// faultKey is where a request's context holds its Fault (zero: none).
type faultKey struct{}

// faultList is the faults that wait for requests. Safe for concurrent use.
type faultList struct {
	met atomic.Int64

	mu     sync.Mutex
	faults []Fault // guarded by mu
}

func (l *faultList) set(fs []Fault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.faults = fs
}

// take returns the first fault that matches, and uses it up by one. What is
// wrong with a body waits for a request that has one.
func (l *faultList) take(method, kind, path string) (Fault, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.faults {
		f := &l.faults[i]
		if f.Times < 0 || f.Kind != "" && f.Kind != kind || !strings.Contains(path, f.Match) {
			continue
		}
		if method == http.MethodHead && f.Action != FaultStatus && f.Action != FaultReset {
			continue
		}
		if f.Times > 0 {
			if f.Times--; f.Times == 0 {
				f.Times = -1 // used up
			}
		}
		l.met.Add(1)
		return *f, true
	}
	return Fault{}, false
}

// before carries out what happens in place of an answer; false: go on.
func (f Fault) before(w http.ResponseWriter, conn *shape.Conn) bool {
	switch f.Action {
	case FaultStatus:
		if f.RetryAfter > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(f.RetryAfter))
		}
		fail(w, f.Status, "UNKNOWN", "fault on demand")
		return true
	case FaultReset:
		if conn != nil {
			// The client sees the reset; nobody is left to tell if it failed.
			_ = conn.Abort()
		}
		panic(http.ErrAbortHandler)
	}
	return false
}

var errCut = errors.New("cut on demand")

// faulty is a body with something wrong at an offset counted from where the
// response begins. It keeps the seeks of http.ServeContent in the right place by
// counting only what is read.
type faulty struct {
	io.ReadSeeker
	fault Fault
	ctx   context.Context
	read  int64
}

// body wraps content according to the request's fault.
func body(ctx context.Context, content io.ReadSeeker) io.ReadSeeker {
	f, _ := ctx.Value(faultKey{}).(Fault)
	switch f.Action {
	case FaultCut, FaultStall, FaultWrong:
		return &faulty{ReadSeeker: content, fault: f, ctx: ctx}
	}
	return content
}

func (b *faulty) Read(p []byte) (int, error) {
	left := b.fault.At - b.read
	switch {
	case left == 0 && b.fault.Action == FaultCut:
		return 0, errCut
	case left == 0 && b.fault.Action == FaultStall:
		<-b.ctx.Done()
		return 0, b.ctx.Err()
	case left > 0 && int64(len(p)) > left:
		p = p[:left]
	}
	n, err := b.ReadSeeker.Read(p)
	if b.fault.Action == FaultWrong && left == 0 && n > 0 {
		p[0] ^= 0xff
	}
	b.read += int64(n)
	return n, err
}
