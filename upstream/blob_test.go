package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cistern/internal/oci"
)

const digits = "0123456789"

// partial is a 206 with its headers.
func partial(contentRange, length, body string) string {
	return "HTTP/1.1 206 Partial Content\r\nContent-Range: " + contentRange + "\r\nContent-Length: " + length + "\r\n\r\n" + body
}

func whole(length, body string) string {
	return "HTTP/1.1 200 OK\r\nContent-Length: " + length + "\r\n\r\n" + body
}

// TestBlobAnswers: what an upstream may say to a range, and what becomes of it.
func TestBlobAnswers(t *testing.T) {
	t.Parallel()
	chunked := "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\n" + digits + "\r\n0\r\n\r\n"
	page := "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n"
	for _, tc := range []struct {
		name     string
		off, end int64
		sent     string // Range that must be asked
		answer   string
		got      string
		at, size int64
		openErr  string // error of Blob
		readErr  error  // of reading
	}{
		{"plain", 0, -1, "", whole("10", digits), digits, 0, 10, "", nil},
		{"chunked", 0, -1, "", chunked, digits, 0, -1, "", nil},
		{"until close", 0, -1, "", "HTTP/1.0 200 OK\r\n\r\n" + digits, digits, 0, -1, "", nil},
		{"closed range", 2, 6, "bytes=2-5", partial("bytes 2-5/10", "4", "2345"), "2345", 2, 10, "", nil},
		{"from 0", 0, 4, "bytes=0-3", partial("bytes 0-3/10", "4", "0123"), "0123", 0, 10, "", nil},
		{"open range", 6, -1, "bytes=6-", partial("bytes 6-9/10", "4", "6789"), "6789", 6, 10, "", nil},
		{"unknown total", 6, 10, "bytes=6-9", partial("bytes 6-9/*", "4", "6789"), "6789", 6, -1, "", nil},
		{"end beyond the blob", 6, 99, "bytes=6-98", partial("bytes 6-9/10", "4", "6789"), "6789", 6, 10, "", nil},
		{"200 to a range", 6, 10, "bytes=6-9", whole("10", digits), digits, 0, 10, "", nil},
		{"short body", 0, -1, "", whole("10", digits[:4]), digits[:4], 0, 10, "", io.ErrUnexpectedEOF},
		{"short chunked", 0, -1, "", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\n0123", digits[:4], 0, -1, "", io.ErrUnexpectedEOF},
		{"short range body", 2, 6, "bytes=2-5", partial("bytes 2-5/10", "4", "23"), "23", 2, 10, "", io.ErrUnexpectedEOF},
		{"range ends early", 2, 8, "bytes=2-7", partial("bytes 2-4/10", "3", "234"), "234", 2, 10, "", io.ErrUnexpectedEOF},
		{"open range ends early", 2, -1, "bytes=2-", partial("bytes 2-4/10", "3", "234"), "234", 2, 10, "", io.ErrUnexpectedEOF},
		{"long body", 0, -1, "", whole("10", digits+"surplus"), digits, 0, 10, "", nil},
		{"long chunked range", 2, 6, "bytes=2-5", "HTTP/1.1 206 x\r\nContent-Range: bytes 2-5/10\r\nTransfer-Encoding: chunked\r\n\r\n6\r\n234567\r\n0\r\n\r\n", "2345", 2, 10, "", oci.ErrCorrupt},
		{"wrong start", 2, 6, "bytes=2-5", partial("bytes 3-6/10", "4", "3456"), "", 0, 0, "Content-Range", nil},
		{"more than asked", 2, 6, "bytes=2-5", partial("bytes 2-9/10", "8", "23456789"), "", 0, 0, "Content-Range", nil},
		{"length and range differ", 2, 6, "bytes=2-5", partial("bytes 2-5/10", "5", "23456"), "", 0, 0, "5 bytes", nil},
		{"no Content-Range", 2, 6, "bytes=2-5", partial("", "4", "2345"), "", 0, 0, "Content-Range", nil},
		{"206 to none", 0, -1, "", partial("bytes 0-9/10", "10", digits), "", 0, 0, "without a range", nil},
		{"gzip", 0, -1, "", "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc", "", 0, 0, `Content-Encoding "gzip"`, nil},
		{"a page to a range", 2, 6, "bytes=2-5", page + "Content-Length: 10\r\n\r\n" + digits, "", 0, 0, "web page", nil},
		{"a page of no length", 0, -1, "", page + "\r\n" + digits, "", 0, 0, "web page", nil},
		{"a blob that may be a page", 0, -1, "", page + "Content-Length: 10\r\n\r\n" + digits, digits, 0, 10, "", nil},
		{"identity", 0, -1, "", "HTTP/1.1 200 OK\r\nContent-Encoding: identity\r\nContent-Length: 3\r\n\r\nabc", "abc", 0, 3, "", nil},
		{"empty", 0, -1, "", whole("0", ""), "", 0, 0, "empty body", nil},
		{"beyond the end", 10, -1, "bytes=10-", "HTTP/1.1 416 x\r\nContent-Range: bytes */10\r\nContent-Length: 0\r\n\r\n", "", 0, 0, "10 bytes", nil},
		{"416 to a closed range", 2, 6, "bytes=2-5", "HTTP/1.1 416 x\r\nContent-Length: 0\r\n\r\n", "", 0, 0, "416", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var mu sync.Mutex
			var request string
			u := open(t, Options{Endpoints: []string{script(t, []step{expect(func(r string) { mu.Lock(); defer mu.Unlock(); request = r }), send(tc.answer), fin()})}})
			b, err := u.Blob(t.Context(), "a/b", oci.FromBytes([]byte(digits)), tc.off, tc.end)
			mu.Lock()
			checkRequest(t, request, tc.sent)
			mu.Unlock()
			if tc.openErr != "" {
				contains(t, err, tc.openErr)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(b)
			if string(got) != tc.got || b.Offset != tc.at || b.Size != tc.size || !errors.Is(err, tc.readErr) {
				t.Errorf("got %q at %d of %d, %v", got, b.Offset, b.Size, err)
			}
			if errors.Is(tc.readErr, io.ErrUnexpectedEOF) && !errors.Is(err, oci.ErrUnavailable) {
				t.Errorf("a cut is no unavailability: %v", err)
			}
			if n, again := b.Read(make([]byte, 1)); n != 0 || again == nil {
				t.Errorf("after the end: %d %v", n, again)
			}
			_ = b.Close()
		})
	}
}

// checkRequest: one range at most, no coding, nothing of anybody else.
func checkRequest(t *testing.T, request, span string) {
	t.Helper()
	want := ""
	if span != "" {
		want = "Range: " + span + "\r\n"
	}
	if span != "" && !strings.Contains(request, want) || span == "" && strings.Contains(request, "Range:") {
		t.Errorf("want range %q in %q", span, request)
	}
	if !strings.Contains(request, "Accept-Encoding: identity\r\n") || !strings.Contains(request, "User-Agent: cistern\r\n") || !strings.Contains(request, " HTTP/1.1\r\n") {
		t.Errorf("request %q", request)
	}
	if n := strings.Count(request, "\r\n"); n > 7 {
		t.Errorf("%d lines in %q", n, request)
	}
}

// TestOpenRangeRefused: a registry that answers 416 to an open range is asked
// for the whole.
func TestOpenRangeRefused(t *testing.T) {
	t.Parallel()
	u := open(t, Options{Endpoints: []string{serve(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.Header.Get("Range"), "-") {
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return
		}
		http.ServeContent(w, r, "", zeroTime, strings.NewReader(digits))
	})}})
	b, err := u.Blob(t.Context(), "a/b", oci.FromBytes([]byte(digits)), 4, -1)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(b)
	if string(got) != digits || b.Offset != 0 || err != nil {
		t.Errorf("%q at %d, %v", got, b.Offset, err)
	}
}

// TestStall: no byte for the stall time ends the body, and a reader that takes
// longer than that between its own calls does not.
func TestStall(t *testing.T) {
	t.Parallel()
	more := make(chan struct{})
	u := open(t, Options{StallTimeout: 150 * time.Millisecond, Endpoints: []string{script(t,
		[]step{expect(nil), send(whole("10", "01")), wait(more), send("23")})}})
	b, err := u.Blob(t.Context(), "a/b", oci.FromBytes([]byte(digits)), 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 2)
	if _, err := io.ReadFull(b, p); err != nil {
		t.Fatal(err)
	}
	<-time.After(300 * time.Millisecond) // our own slowness
	close(more)
	if _, err := io.ReadFull(b, p); err != nil || string(p) != "23" {
		t.Fatalf("%q %v", p, err)
	}
	start := time.Now()
	_, err = b.Read(p)
	if d := time.Since(start); !errors.Is(err, oci.ErrUnavailable) || d > time.Second {
		t.Errorf("%v after %s", err, d)
	}
	contains(t, err, "no byte for 150ms", "get blob a/b@sha256:")
	if !u.Healthy() {
		t.Error("not healthy")
	}
	until(t, func() bool { return u.Stats().ConnectionsActive == 0 })
	_ = b.Close()
}

// TestSurplus: bytes behind the announced length are not read as the next
// answer, however often it is tried.
func TestSurplus(t *testing.T) {
	t.Parallel()
	forged := "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 8\r\n\r\n{\"x\":66}"
	var conns [][]step
	for range 20 {
		conns = append(conns, []step{expect(nil), send(whole("10", digits+forged)), expect(nil), send(okTags), expect(nil)})
		conns = append(conns, []step{expect(nil), send(okTags), fin()})
	}
	u := open(t, Options{Endpoints: []string{script(t, conns...)}})
	for range 20 {
		b, err := u.Blob(t.Context(), "a/b", oci.FromBytes([]byte(digits)), 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(b); string(got) != digits || err != nil {
			t.Fatalf("%q %v", got, err)
		}
		d, err := u.Tags(t.Context(), "a/b", -1, "")
		if err != nil || string(d.Bytes) != "{}" {
			t.Fatalf("the forged answer was taken: %+v %v", d, err)
		}
		u.wire.close() // the next round starts on a new connection
	}
}

// TestCutConnections: a reset or an end at every byte of the answer gives an
// error and no wrong byte, or is retried before the header is complete.
func TestCutConnections(t *testing.T) {
	t.Parallel()
	answer := whole("10", digits)
	for k := range len(answer) {
		end := []step{rst(), fin()}[k%2]
		u := open(t, Options{Endpoints: []string{script(t, []step{expect(nil), send(answer[:k]), end}, []step{expect(nil), send(answer)})}})
		b, err := u.Blob(t.Context(), "a/b", oci.FromBytes([]byte(digits)), 0, -1)
		if err != nil {
			t.Fatalf("cut at %d: %v", k, err)
		}
		got, err := io.ReadAll(b)
		if !strings.HasPrefix(digits, string(got)) || (err == nil) != (len(got) == len(digits)) {
			t.Errorf("cut at %d: %q %v", k, got, err)
		}
		if err != nil && !errors.Is(err, oci.ErrUnavailable) {
			t.Errorf("cut at %d: %v", k, err)
		}
		_ = b.Close()
	}
}

// TestResume: a body that is cut at many places is read on from there.
func TestResume(t *testing.T) {
	t.Parallel()
	data := strings.Repeat("cistern-", 4<<10)
	var n atomic.Int64
	u := open(t, Options{Endpoints: []string{serve(t, func(w http.ResponseWriter, r *http.Request) {
		cut := &cutter{ResponseWriter: w, left: 1000 + 997*n.Add(1)}
		http.ServeContent(cut, r, "", zeroTime, strings.NewReader(data))
	})}})
	var got []byte
	for tries := 0; len(got) < len(data); tries++ {
		end := int64(-1)
		if len(got) > 0 {
			end = int64(len(data))
		}
		b, err := u.Blob(t.Context(), "a/b", oci.FromBytes([]byte(data)), int64(len(got)), end)
		if err != nil || tries > 50 {
			t.Fatal(err)
		}
		if b.Offset != int64(len(got)) || b.Size != int64(len(data)) {
			t.Fatalf("at %d of %d, want %d", b.Offset, b.Size, len(got))
		}
		part, _ := io.ReadAll(b)
		got = append(got, part...)
		_ = b.Close()
	}
	if string(got) != data {
		t.Error("wrong bytes")
	}
	if r := u.Stats().Received; r != uint64(len(data)) {
		t.Errorf("received %d bytes for %d", r, len(data))
	}
}

// cutter ends the connection after some bytes.
type cutter struct {
	http.ResponseWriter
	left int64
}

func (c *cutter) Write(p []byte) (int, error) {
	if int64(len(p)) > c.left {
		_, _ = c.ResponseWriter.Write(p[:c.left])
		c.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	c.left -= int64(len(p))
	return c.ResponseWriter.Write(p)
}

// TestManySmallBlobs: sixteen workers use about sixteen connections to each of
// the two hosts that a redirect makes.
func TestManySmallBlobs(t *testing.T) {
	t.Parallel()
	data := strings.Repeat("x", 4<<10)
	d := oci.FromBytes([]byte(data))
	cdn := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, data) })
	u := open(t, Options{Endpoints: []string{serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, cdn+"/x?sig=1", http.StatusTemporaryRedirect)
	})}})
	var next atomic.Int64
	failed := herd(16, func() error {
		for next.Add(1) <= 2000 {
			b, err := u.Blob(context.Background(), "a/b", d, 0, -1)
			if err != nil {
				return err
			}
			n, err := io.Copy(io.Discard, b)
			_ = b.Close()
			if err != nil || n != int64(len(data)) {
				return fmt.Errorf("%d bytes: %w", n, err)
			}
		}
		return nil
	})
	s := u.Stats()
	if failed != 0 || s.ConnectionsOpened > 36 || s.Requests[RequestKey{oci.KindBlob, 200}] != 2000 || s.Requests[RequestKey{oci.KindBlob, 307}] != 2000 {
		t.Errorf("%d failed, %d connections, %v", failed, s.ConnectionsOpened, s.Requests)
	}
	if got := s.Seconds[oci.KindBlob].Count; got != 4000 {
		t.Errorf("%d in the histogram", got)
	}
}

func TestBlobInfo(t *testing.T) {
	t.Parallel()
	d := oci.FromBytes([]byte(digits))
	for name, tc := range map[string]struct {
		head, get http.HandlerFunc
		size      int64
		class     error
		heads     int64 // of two questions
	}{
		"head":           {content(digits), nil, 10, nil, 2},
		"head 401":       {code(401), content(digits), 10, nil, 1},
		"head 403":       {code(403), content(digits), 10, nil, 1},
		"head 405":       {code(405), content(digits), 10, nil, 1},
		"head 501":       {code(501), content(digits), 10, nil, 1},
		"head 404":       {code(404), content(digits), 10, nil, 2},
		"both 404":       {code(404), code(404), -1, oci.ErrNotFound, 2},
		"head 401, 403":  {code(401), code(403), -1, oci.ErrDenied, 2},
		"no length":      {func(w http.ResponseWriter, _ *http.Request) { w.(http.Flusher).Flush() }, content(digits), 10, nil, 2},
		"range ignored":  {code(405), func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, digits) }, 10, nil, 1},
		"head a page":    {webPage, content(digits), 10, nil, 2},
		"both a page":    {webPage, webPage, -1, oci.ErrCorrupt, 2},
		"416, not empty": {code(405), code(416), -1, oci.ErrCorrupt, 2},
		"429":            {code(429), nil, -1, oci.ErrLimited, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var heads atomic.Int64
			u := open(t, Options{Endpoints: []string{serve(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodHead {
					heads.Add(1)
					tc.head(w, r)
					return
				}
				if got := r.Header.Get("Range"); got != "bytes=0-0" {
					t.Errorf("asked for %q", got)
				}
				tc.get(w, r)
			})}})
			for range 2 {
				r, err := u.BlobInfo(t.Context(), "a/b", d)
				if r.Size != tc.size || r.Digest != d || !errors.Is(err, tc.class) || (tc.class == nil && err != nil) {
					t.Errorf("%+v %v", r, err)
				}
			}
			if heads.Load() != tc.heads {
				t.Errorf("%d HEADs", heads.Load())
			}
		})
	}
	empty := oci.FromBytes(nil)
	u := open(t, Options{Endpoints: []string{serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodHead {
			w.WriteHeader(405)
			return
		}
		w.WriteHeader(416)
	})}})
	if r, err := u.BlobInfo(t.Context(), "a/b", empty); err != nil || r.Size != 0 {
		t.Errorf("the empty blob: %+v %v", r, err)
	}
}

func code(n int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(n) }
}

func webPage(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html")
	w.Header().Set("Content-Length", "54")
	_, _ = io.WriteString(w, "<!DOCTYPE html><html><body>Please log in</body></html>")
}

func content(s string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", zeroTime, strings.NewReader(s))
	}
}

func TestBadArguments(t *testing.T) {
	t.Parallel()
	u := open(t, Options{Endpoints: []string{"http://127.0.0.1:1"}})
	d := oci.FromBytes(nil)
	for _, r := range [][2]int64{{-1, 5}, {5, 5}, {6, 5}, {0, 0}} {
		if _, err := u.Blob(t.Context(), "a/b", d, r[0], r[1]); err == nil {
			t.Errorf("range %v is accepted", r)
		}
	}
	for _, repo := range []string{"", "../x", "A/b", "a//b", "a/b?x=1", "a/../b", "a%2fb"} {
		if _, err := u.Blob(t.Context(), repo, d, 0, -1); err == nil || strings.Contains(err.Error(), "refused") {
			t.Errorf("repository %q: %v", repo, err)
		}
		if _, err := u.Tags(t.Context(), repo, -1, ""); err == nil || strings.Contains(err.Error(), "refused") {
			t.Errorf("repository %q: %v", repo, err)
		}
	}
	for _, ref := range []string{"", "a/b", "sha256:../../x", "sha256:ab", "-x", strings.Repeat("x", 129)} {
		if _, err := u.Manifest(t.Context(), "a/b", ref, ""); err == nil || strings.Contains(err.Error(), "connection") {
			t.Errorf("reference %q: %v", ref, err)
		}
	}
}
