package crash_test

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

// An ask is one request of a client.
type ask struct {
	x        *thing
	head     bool
	from, to int64 // a range if to > 0, both ends included
	leave    int64 // if above 0, go away after so many bytes
}

// String says it in a line.
func (a ask) String() string {
	s := a.x.path()
	if a.to > 0 {
		s += fmt.Sprintf(" bytes %d-%d", a.from, a.to)
	}
	return fmt.Sprintf("%s of %d", s, a.x.size())
}

// An answer is what came of it.
type answer struct {
	status int
	hit    bool
	n      int64 // right bytes
	err    error // wraps errWrong, or says what is missing
}

// A client asks and compares every byte that it gets with the truth.
type client struct {
	base string
	http *http.Client
}

func newClient(base string) *client {
	return &client{base, &http.Client{Transport: &http.Transport{
		MaxIdleConnsPerHost: 64, DisableCompression: true, ResponseHeaderTimeout: 30 * time.Second,
	}}}
}

func (c *client) close() { c.http.CloseIdleConnections() }

// do sends the request and reads what it answers, up to where the client leaves.
func (c *client) do(ctx context.Context, a ask) answer {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	method := http.MethodGet
	if a.head {
		method = http.MethodHead
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+a.x.path(), nil)
	if err != nil {
		return answer{err: err}
	}
	want, status := a.x.data, http.StatusOK
	if a.to > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", a.from, a.to))
		want, status = a.x.data[a.from:a.to+1], http.StatusPartialContent
	}
	req.Header.Set("Accept", manifestType)
	resp, err := c.http.Do(req)
	if err != nil {
		return answer{err: err}
	}
	defer resp.Body.Close()
	r := answer{status: resp.StatusCode, hit: strings.Contains(resp.Header.Get("Cache-Status"), "hit")}
	if resp.StatusCode != status {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 300))
		r.err = fmt.Errorf("%s: %s: %s", a, resp.Status, text)
		return r
	}
	if d := resp.Header.Get("Docker-Content-Digest"); d != "" && d != a.x.digest {
		r.err = fmt.Errorf("%w: %s has the digest %s instead of %s", errWrong, a, d, a.x.digest)
		return r
	}
	if n := resp.ContentLength; n >= 0 && n != int64(len(want)) {
		r.err = fmt.Errorf("%w: %s is said to have %d bytes instead of %d", errWrong, a, n, len(want))
		return r
	}
	if !a.head {
		r.n, r.err = compare(resp.Body, want, a.leave)
		if r.err != nil {
			r.err = fmt.Errorf("%s, %s: %w", a, resp.Header.Get("Cache-Status"), r.err)
		}
	}
	return r
}

// compare reads until the end, or for leave bytes if that is above 0, and gives how many bytes were right.
func compare(body io.Reader, want []byte, leave int64) (n int64, err error) {
	buf := make([]byte, 64*kib)
	for {
		m, err := body.Read(buf)
		if n+int64(m) > int64(len(want)) {
			return n, fmt.Errorf("%w: more than %d bytes", errWrong, len(want))
		}
		if got := buf[:m]; !bytes.Equal(got, want[n:n+int64(m)]) {
			return n, fmt.Errorf("%w: %s", errWrong, describe(got, want[n:n+int64(m)], n))
		}
		n += int64(m)
		switch {
		case err == io.EOF && n == int64(len(want)):
			return n, nil
		case err == io.EOF:
			return n, fmt.Errorf("%w: a clean end after %d bytes of %d", errWrong, n, len(want))
		case err != nil:
			return n, fmt.Errorf("after %d bytes of %d: %w", n, len(want), err)
		case leave > 0 && n >= leave:
			return n, nil
		}
	}
}

// describe says where the first wrong byte is, and whether from there on all are zero.
func describe(got, want []byte, at int64) string {
	i := 0
	for got[i] == want[i] {
		i++
	}
	what := "other bytes"
	if len(bytes.TrimLeft(got[i:], "\x00")) == 0 {
		what = "zeros"
	}
	return fmt.Sprintf("%s at %d", what, at+int64(i))
}
