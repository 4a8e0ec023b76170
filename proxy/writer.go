package proxy

import (
	"io"
	"net/http"
	"time"
)

// recorder is a ResponseWriter that remembers what went out. It forwards
// ReadFrom, without which net/http would not use sendfile.
type recorder struct {
	http.ResponseWriter
	status int  // 0: nothing written yet
	early  bool // the header does not wait for the first bytes
	bytes  int64
	first  time.Time // when the header went out
}

// WriteHeader implements http.ResponseWriter.
func (w *recorder) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.status, w.first = status, time.Now()
	}
	w.ResponseWriter.WriteHeader(status)
	if w.early {
		_ = http.NewResponseController(w.ResponseWriter).Flush() // whoever is gone is noticed by the body
	}
}

// Write implements io.Writer.
func (w *recorder) Write(p []byte) (int, error) {
	w.begin()
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	return n, err
}

func (w *recorder) begin() {
	if w.status == 0 {
		w.status, w.first = http.StatusOK, time.Now()
	}
}

// sender is content that knows how to send itself (cache.Reader): by sendfile
// where it lies in a file, also while that file still grows.
type sender interface {
	SendTo(w io.Writer, n int64) (int64, error)
}

// ReadFrom implements io.ReaderFrom. http.ServeContent copies a part of its
// content by way of an io.LimitedReader; content that is a sender then sends
// that part itself, into net/http's own ReadFrom.
func (w *recorder) ReadFrom(src io.Reader) (int64, error) {
	w.begin()
	if lr, ok := src.(*io.LimitedReader); ok {
		if s, ok := lr.R.(sender); ok {
			n, err := s.SendTo(w.ResponseWriter, lr.N)
			lr.N -= n
			w.bytes += n
			return n, err
		}
	}
	n, err := io.Copy(w.ResponseWriter, src)
	w.bytes += n
	return n, err
}

// Unwrap serves http.ResponseController.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }
