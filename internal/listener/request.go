package listener

import (
	"io"
	"log"
	"net/http"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
)

// Bounds of bodies that come with requests. Nothing that Cistern serves takes
// one, but some clients send one with a GET.
const (
	maxBody     = 64 << 10
	bodyTimeout = 10 * time.Second
)

// withoutBody takes the body off a request before h sees it. net/http would
// wait for the rest of an unread body before it sends the answer, and without
// a bound. A connection whose body was not read to its end is not used again,
// nor is one that had a body at all: where it ends is what request smuggling
// is about.
func withoutBody(h http.Handler, patience time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			w.Header().Set("Connection", "close")
			if !dropBody(w, r, patience) {
				w.WriteHeader(http.StatusRequestTimeout)
				return
			}
		}
		h.ServeHTTP(w, r)
	})
}

// exceptUploads lets h have PUT requests with their bodies, and bare all others. Whoever
// reads such a body gives itself more time than patience, and what it leaves is not waited
// for: the connection is not used again.
func exceptUploads(h, bare http.Handler, patience time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPut {
			bare.ServeHTTP(w, r)
			return
		}
		rc := http.NewResponseController(w)
		if rc.SetReadDeadline(time.Now().Add(patience)) != nil {
			panic(http.ErrAbortHandler) // the connection is gone
		}
		defer func() { _ = rc.SetReadDeadline(time.Now()) }()
		w.Header().Set("Connection", "close")
		h.ServeHTTP(w, r)
	})
}

// dropBody reads the body and throws it away, as far as its bounds go. It
// reports whether the connection is still good for an answer.
func dropBody(w http.ResponseWriter, r *http.Request, patience time.Duration) bool {
	body := r.Body
	r.Body = http.NoBody
	rc := http.NewResponseController(w)
	if err := rc.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return false
	}
	if r.Header.Get("Expect") == "" { // else reading would ask for it
		switch _, err := io.CopyN(io.Discard, body, maxBody+1); err {
		case nil: // more than the bound
		case io.EOF:
			// Whole: the deadline must not end a long response.
			return rc.SetReadDeadline(time.Time{}) == nil
		default:
			return false
		}
	}
	// What is left would be waited for when the response ends.
	return rc.SetReadDeadline(time.Now()) == nil
}

// handlers counts the handlers that run: http.Server's Close cuts their
// connections, and does not wait for them to notice.
type handlers struct {
	mu      sync.Mutex // guards what follows
	running int
	closed  bool
	idle    chan struct{} // closed when closed and none runs
}

// counted runs h unless the end has come.
func (s *handlers) counted(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		closed := s.closed
		if !closed {
			s.running++
		}
		s.mu.Unlock()
		if closed {
			panic(http.ErrAbortHandler) // its connection is about to be cut
		}
		defer s.done()
		h.ServeHTTP(w, r)
	})
}

func (s *handlers) done() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running--
	if s.closed && s.running == 0 {
		close(s.idle)
	}
}

// wait returns when none runs; no more start.
func (s *handlers) wait() {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		if s.running == 0 {
			close(s.idle)
		}
	}
	s.mu.Unlock()
	<-s.idle
}

// errorLog passes on what net/http says in lines of text: a panic is an error
// of ours, a failing accept a warning, and the rest is what clients do.
func errorLog(to *zap.Logger) *log.Logger {
	return log.New(lineWriter{to.WithOptions(zap.WithCaller(false))}, "", 0)
}

type lineWriter struct{ log *zap.Logger }

func (w lineWriter) Write(p []byte) (int, error) {
	text := strings.TrimRight(string(p), "\n")
	switch {
	case strings.HasPrefix(text, "http: panic serving"):
		line, stack, _ := strings.Cut(text, "\n")
		w.log.Error(line, zap.String("stack", stack))
	case strings.HasPrefix(text, "http: Accept error"):
		w.log.Warn(text)
	default:
		w.log.Debug(text)
	}
	return len(p), nil
}
