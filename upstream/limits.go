package upstream

import (
	"errors"
	"net/http"
	"sync"
	"time"

	"cistern/internal/oci"
)

// limits remember the 429s: until the time that upstream named, the answer is
// repeated here, so that one try a window goes out (P 2.9, 4.13). Kinds are
// apart, and HEAD from GET: Docker Hub's pull limit is on GETs of manifests
// alone, and must stop neither revalidation nor a fill (P 4.12).
type limits struct {
	now func() time.Time

	mu    sync.Mutex // guards until
	until map[limitKey]time.Time
}

type limitKey struct {
	kind oci.Kind
	head bool
}

func newLimits() *limits { return &limits{now: time.Now, until: map[limitKey]time.Time{}} }

func keyOf(q *query) limitKey { return limitKey{q.Kind, q.method == http.MethodHead} }

var errRemembered = errors.New("not asked again before the limit's window ends")

// check gives the remembered answer, nil if there is none.
func (l *limits) check(q *query) *Error {
	l.mu.Lock()
	defer l.mu.Unlock()
	left := l.until[keyOf(q)].Sub(l.now())
	if left <= 0 {
		return nil
	}
	return &Error{Status: http.StatusTooManyRequests, Class: oci.ErrLimited, RetryAfter: left, Err: errRemembered}
}

func (l *limits) remember(q *query, e *Error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.until[keyOf(q)] = l.now().Add(e.RetryAfter)
}
