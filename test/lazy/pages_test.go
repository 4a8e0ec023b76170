package lazy_test

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
)

const page = "<!DOCTYPE html><html><body>Please log in</body></html>"

// A stranger is an answer to a range that is nothing of the blob.
type stranger struct {
	name   string
	named  string // what the log says of it, a pattern
	sized  bool   // it can be told from the blob only where the size is known
	answer fault
}

// strangers are those of FAULTS row 24.
func (r *rig) strangers() []stranger {
	const coding, size, web, empty = "sends Content-Encoding", "upstream (now says|sent wrong bytes)", "sends a web page", "sends an empty body"
	html := func(w http.ResponseWriter) { w.Header().Set("Content-Type", "text/html; charset=utf-8") }
	packed := func(w http.ResponseWriter, data []byte) {
		z := gzip.NewWriter(w)
		_, _ = z.Write(data)
		_ = z.Close()
	}
	return []stranger{
		{"gzip", coding, false, func(w http.ResponseWriter, _ *http.Request, a *ask) {
			w.Header().Set("Content-Encoding", "gzip")
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", a.off, a.end-1, a.blob.size()))
			w.WriteHeader(http.StatusPartialContent)
			packed(w, a.blob.data[a.off:a.end])
		}},
		{"all of it, gzip", coding, false, func(w http.ResponseWriter, _ *http.Request, a *ask) {
			w.Header().Set("Content-Encoding", "gzip")
			packed(w, a.blob.data)
		}},
		{"a page", web, false, func(w http.ResponseWriter, _ *http.Request, _ *ask) {
			html(w)
			_, _ = io.WriteString(w, page)
		}},
		{"a page without a length", web, false, func(w http.ResponseWriter, _ *http.Request, _ *ask) {
			html(w)
			_, _ = io.WriteString(w, page)
			_ = http.NewResponseController(w).Flush()
		}},
		{"a text", size, false, func(w http.ResponseWriter, _ *http.Request, _ *ask) {
			w.Header().Set("Content-Type", "text/plain")
			_, _ = io.WriteString(w, "proxy: no route to host")
		}},
		{"a text without a length", "body ends at byte 23", true, func(w http.ResponseWriter, _ *http.Request, _ *ask) {
			w.Header().Set("Content-Type", "text/plain")
			_, _ = io.WriteString(w, "proxy: no route to host")
			_ = http.NewResponseController(w).Flush()
		}},
		{"all of a page", web, false, func(w http.ResponseWriter, _ *http.Request, a *ask) {
			html(w)
			w.Header().Set("Content-Length", fmt.Sprint(a.blob.size()))
			_, _ = io.WriteString(w, strings.Repeat(page, int(a.blob.size())/len(page)+1)[:a.blob.size()])
		}},
		{"empty", empty, false, func(w http.ResponseWriter, _ *http.Request, _ *ask) { w.Header().Set("Content-Length", "0") }},
		{"a portal", web, false, func(w http.ResponseWriter, req *http.Request, _ *ask) {
			http.Redirect(w, req, "http://evil.test"+r.addr[strings.Index(r.addr, ":"):]+"/login", http.StatusFound)
		}},
	}
}

// TestStrangers is FAULTS row 24 for parts and parallel streams: what upstream, or somebody before it, sends for a range is packed, a page, empty, or
// the login of a captive portal; once, or until that is over. Who waits for the bytes has the right ones or is cut. The log names what came, none of it is kept,
// what was here is not fetched again, and upstream is not taken for one without ranges.
func TestStrangers(t *testing.T) {
	for _, kind := range []string{"a cold blob", "a piece", "the first piece", "a stream"} {
		for _, times := range []int64{1, -1} {
			t.Run(fmt.Sprint(kind, ", ", times), func(t *testing.T) {
				t.Parallel()
				r := start(t, 1<<30, "max_streams: 8")
				named := map[*blob]string{}
				for _, s := range r.strangers() {
					if s.sized && kind == "a cold blob" {
						continue
					}
					if b, err := r.meets(s, kind, times); err != nil || kind == "a stream" { // else it was asked for at once in another way
						named[b] = s.named
					}
				}
				for b, what := range named { // what is logged is written at intervals
					r.named(b, what)
				}
			})
		}
	}
}

// meets has upstream send a stranger for a range of a blob, and tells what became of who waited for it first.
func (r *rig) meets(s stranger, kind string, times int64) (b *blob, met error) {
	r.t.Helper()
	b = r.blob(24 * mib)
	bad := span{15*mib + 5, 16*mib - 5}
	get := func() error { return r.closed(b, bad) }
	want, spare := int64(2*piece), int64(0)
	switch kind {
	case "a cold blob":
		want = piece
	case "a piece":
		r.must(r.closed(b, pieces(20, 1)))
	case "the first piece":
		r.must(r.closed(b, pieces(20, 1)))
		bad = span{5, mib - 5}
	case "a stream":
		b = r.gaps(7, 4)
		get = func() error { _, err := r.whole(b); return err }
		want, spare = b.size(), 4*mib // if it is given up, others are cut with what lies in their buffers
	}
	had := r.spoil(b, bad.off, times, 1, s.answer)
	met = get()
	if errors.Is(met, errWrong) || met == nil && times < 0 || had.had.Load() > budget {
		r.t.Errorf("%s, %d times: %v; upstream was asked for it %d times:%s", s.name, times, met, had.had.Load(), r.list(b))
	}
	if times < 0 {
		r.keep(b, nil)
	}
	r.finally(get)
	r.silently(b, func() { r.must(get()) })
	if sent := r.sent(b); sent < want || sent > want+spare {
		r.t.Errorf("%s, %d times: %d bytes were sent of a blob, and %d are enough:%s", s.name, times, sent, want, r.list(b))
	}
	other := r.blob(10 * mib)
	r.must(r.closed(other, pieces(3, 1)))
	r.fetched(other, pieces(3, 1))
	_, err := r.whole(b)
	r.must(err)
	r.hit(b)
	return b, met
}

// named waits until a line of the log that is about the blob says something.
func (r *rig) named(b *blob, what string) {
	r.t.Helper()
	says := regexp.MustCompile(what)
	r.until(func() error {
		for line := range strings.Lines(r.daemon.Output()) {
			if strings.Contains(line, b.digest) && says.MatchString(line) {
				return nil
			}
		}
		return fmt.Errorf("the log does not say %s of %s", what, b.digest)
	})
}
