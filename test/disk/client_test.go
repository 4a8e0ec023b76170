package disk_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// errWrong is what no fault excuses: bytes that are not the truth in an answer.
var errWrong = errors.New("WRONG BYTES")

// An answer is what came of a request.
type answer struct {
	status  int
	outcome string // the Cache-Status header
	n       int64  // right bytes
	err     error  // nil for a whole body; wraps errWrong, or says what is missing
}

// hit tells whether this is the whole body from the cache.
func (a answer) hit() bool { return a.err == nil && strings.Contains(a.outcome, "hit") }

// newClient is a client whose connections are closed with it.
func newClient() *http.Client {
	return &http.Client{Transport: &http.Transport{
		MaxIdleConnsPerHost: 64, DisableCompression: true, ResponseHeaderTimeout: 20 * time.Second,
	}}
}

// A body is an answer that is being read.
type body struct {
	answer
	resp *http.Response
	want []byte
	buf  []byte
}

// ask sends a GET of the blob and returns with the header of its answer. Bytes are compared with the truth as they are read.
func ask(ctx context.Context, c *http.Client, base string, b *blob) *body {
	r := &body{want: b.data}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+b.path(), nil)
	if err == nil {
		req.Header.Set("Accept", imageType)
		r.resp, err = c.Do(req)
	}
	if err != nil {
		r.err = err
		return r
	}
	r.status, r.outcome = r.resp.StatusCode, r.resp.Header.Get("Cache-Status")
	if r.status != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(r.resp.Body, 300))
		r.err = fmt.Errorf("%s: %s", r.resp.Status, text)
	} else if n := r.resp.ContentLength; n >= 0 && n != int64(len(r.want)) {
		r.err = fmt.Errorf("%w: it is said to have %d bytes instead of %d", errWrong, n, len(r.want))
	}
	return r
}

// read reads up to n bytes further on, or, if n is negative, to the end, which is to come where the truth ends.
func (r *body) read(n int64) answer {
	if r.buf == nil {
		r.buf = make([]byte, 64*kib)
	}
	for r.err == nil && n != 0 {
		part := r.buf
		if n > 0 {
			part = part[:min(int64(len(part)), n)]
		}
		m, err := r.resp.Body.Read(part)
		rest := r.want[r.n:]
		switch {
		case m > len(rest) || !bytes.Equal(part[:m], rest[:m]):
			r.err = fmt.Errorf("%w after %d", errWrong, r.n)
			return r.answer
		case err == io.EOF && m == len(rest):
			r.n += int64(m)
			return r.answer
		case err == io.EOF:
			r.err = fmt.Errorf("%w: a clean end after %d bytes of %d", errWrong, r.n+int64(m), len(r.want))
			return r.answer
		case err != nil:
			r.err = fmt.Errorf("after %d bytes of %d: %w", r.n+int64(m), len(r.want), err)
		}
		r.n += int64(m)
		if n > 0 {
			n -= int64(m)
		}
	}
	return r.answer
}

// close ends the reading, and the connection with it unless all was read.
func (r *body) close() {
	if r.resp != nil {
		_ = r.resp.Body.Close()
	}
}
