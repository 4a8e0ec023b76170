package lazy_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"cistern/test/lab"
)

// breaking is a body that ends after so many bytes, in the way of end.
type breaking struct {
	http.ResponseWriter
	left int64
	end  func(w http.ResponseWriter)
}

// Write implements io.Writer.
func (w *breaking) Write(p []byte) (int, error) {
	if int64(len(p)) < w.left {
		w.left -= int64(len(p))
		return w.ResponseWriter.Write(p)
	}
	_, _ = w.ResponseWriter.Write(p[:w.left])
	_ = http.NewResponseController(w.ResponseWriter).Flush()
	w.end(w.ResponseWriter)
	panic(http.ErrAbortHandler)
}

// afterTwoThirds is an honest answer that ends there.
func afterTwoThirds(end func(w http.ResponseWriter)) fault {
	return func(w http.ResponseWriter, req *http.Request, a *ask) {
		serve(&breaking{ResponseWriter: w, left: stop(a) - a.off, end: end}, req, a)
	}
}

// stop is where afterTwoThirds ends.
func stop(a *ask) int64 { return a.off + (a.end-a.off)*2/3 }

func fin(http.ResponseWriter) {}

func rst(w http.ResponseWriter) {
	c, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}

// stall sends nothing more until the other side has left.
func (r *rig) stall(req *http.Request) func(http.ResponseWriter) {
	return func(http.ResponseWriter) {
		select {
		case <-req.Context().Done():
		case <-r.ended:
		}
	}
}

// goesOn sees that upstream was asked for the pieces of s and for nothing else, and that what had come before the break was not
// sent again: what lay in buffers then, and the piece that was not complete, are allowed for.
func (r *rig) goesOn(b *blob, s span) {
	r.t.Helper()
	spans := []span{}
	for _, a := range r.asked(b) {
		spans = append(spans, a.span)
	}
	want := touched(s)
	if got, _ := merged(spans); len(got) != 1 || got[0] != want {
		r.t.Errorf("upstream was asked for %v instead of %v:%s", got, want, r.list(b))
	}
	if sent := r.sent(b); sent > want.end-want.off+2*piece {
		r.t.Errorf("%d bytes were sent for %d:%s", sent, want.end-want.off, r.list(b))
	}
}

// TestRangeBreaksOff is FAULTS rows 11 and 12 for ranges: the answer to one ends in the middle, by a FIN, a reset, or a standstill.
// It goes on where it stood, and the client sees nothing of it.
func TestRangeBreaksOff(t *testing.T) {
	for name, s := range map[string]span{
		"one piece": {20*mib + 100, 21*mib - 100}, "eight pieces": {24 * mib, 32 * mib},
	} {
		t.Run("fin, "+name, func(t *testing.T) {
			t.Parallel()
			r := start(t, 1<<30)
			b := r.blob(40 * mib)
			r.fail(b, afterTwoThirds(fin))
			r.must(r.closed(b, s))
			r.goesOn(b, s)
			r.silently(b, func() { r.must(r.closed(b, s)) })
		})
		t.Run("rst, "+name, func(t *testing.T) {
			t.Parallel()
			r := start(t, 1<<30)
			b := r.blob(40 * mib)
			r.fail(b, afterTwoThirds(rst), afterTwoThirds(rst))
			r.must(r.closed(b, s)) // a reset may take with it what had come and was not read
			r.silently(b, func() { r.must(r.closed(b, s)) })
			if sent := r.sent(b); sent > 3*(s.end-s.off)+3*piece {
				t.Errorf("%d bytes were sent for %d:%s", sent, s.end-s.off, r.list(b))
			}
		})
		t.Run("stall, "+name, func(t *testing.T) {
			t.Parallel()
			r := start(t, 1<<30)
			b := r.blob(40 * mib)
			r.fail(b, func(w http.ResponseWriter, req *http.Request, a *ask) {
				afterTwoThirds(r.stall(req))(w, req, a)
			})
			r.must(r.closed(b, s))
			r.goesOn(b, s)
		})
	}
}

// TestRangesIgnored is FAULTS row 22, 200 to a range: an upstream that has no ranges sends the whole, and the client's ranges are
// 206 all the same (P 2.17, 4.23). That costs the whole once, or, if the first answer is given up, twice; never once a range.
func TestRangesIgnored(t *testing.T) {
	t.Parallel()
	r := start(t, 1<<30)
	b := r.blob(24*mib + 11)
	r.keep(b, func(w http.ResponseWriter, req *http.Request, a *ask) {
		req.Header.Del("Range")
		serve(w, req, a)
	})
	r.must(r.closed(b, span{16*mib + 1, 16*mib + 5000}))
	for _, one := range r.every(b) {
		r.must(one())
	}
	_, err := r.whole(b)
	r.must(err)
	r.hit(b)
	r.about(b, b.size())
}

// TestRangesEnd is row 22, 200 to a range, of an upstream that has had ranges before, and has them again later: one stream takes what comes, the others
// are not asked for again and again meanwhile, and after that ranges cost their pieces.
func TestRangesEnd(t *testing.T) {
	t.Parallel()
	r := start(t, 1<<30, "max_streams: 8")
	b, other := r.gaps(7, 4), r.blob(9*mib)
	h := r.hold(b, func(*ask) int64 { return mib })
	before := len(r.asked(b))
	r.keep(b, func(w http.ResponseWriter, req *http.Request, a *ask) {
		req.Header.Del("Range")
		if a.off == 0 {
			h.serve(w, req, a)
			return
		}
		serve(w, req, a)
	})
	whole := make(chan error)
	go func() { _, err := r.whole(b); whole <- err }()
	h.stand(1)
	_, err := r.whole(other) // whoever asks again and again has this long for it
	r.must(err)
	if n := len(r.asked(b)) - before; n > 8 {
		t.Errorf("upstream was asked %d times for ranges that it answers with all of it:%s", n, r.list(b))
	}
	h.open()
	r.must(<-whole)
	r.hit(b)
	r.keep(b, nil)
	next := r.blob(10 * mib)
	r.must(r.closed(next, pieces(3, 1)))
	r.fetched(next, pieces(3, 1))
}

// A lie is an answer to a range that is not of this range.
type lie struct {
	name  string
	known bool // it is one only where the size is known
	tell  fault
}

// partial is a 206 of these bytes with this Content-Range.
func partial(w http.ResponseWriter, a *ask, contentRange string, data []byte) {
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	if contentRange != "" {
		w.Header().Set("Content-Range", contentRange)
	}
	w.WriteHeader(http.StatusPartialContent)
	a.sent.Add(int64(len(data)))
	_, _ = w.Write(data)
}

func lies() []lie {
	moved := func(by int64, of func(a *ask) []byte) fault {
		return func(w http.ResponseWriter, _ *http.Request, a *ask) {
			partial(w, a, fmt.Sprintf("bytes %d-%d/%d", a.off+by, a.end+by-1, a.blob.size()), of(a))
		}
	}
	asked := func(a *ask) []byte { return a.blob.data[a.off:a.end] }
	said := func(form string) fault {
		return func(w http.ResponseWriter, _ *http.Request, a *ask) {
			contentRange := ""
			if form != "" {
				contentRange = fmt.Sprintf(form, a.off, a.end-1)
			}
			partial(w, a, contentRange, asked(a))
		}
	}
	return []lie{
		{"an earlier range", false, moved(-piece, func(a *ask) []byte { return a.blob.data[a.off-piece : a.end-piece] })},
		{"said to be an earlier range", false, moved(-piece, asked)},
		{"said to be a later range", false, moved(1, asked)},
		{"more than was asked for", false, func(w http.ResponseWriter, _ *http.Request, a *ask) {
			partial(w, a, fmt.Sprintf("bytes %d-%d/%d", a.off, a.end+999, a.blob.size()), a.blob.data[a.off:a.end+1000])
		}},
		{"another total", true, said("bytes %d-%d/99999999")},
		{"a total below the range", false, said("bytes %d-%d/5")},
		{"no total", false, said("bytes %d-%d/*")},
		{"no Content-Range", false, said("")},
		{"no range", false, said("lines %d-%d")},
		{"several parts", false, func(w http.ResponseWriter, _ *http.Request, a *ask) {
			body := fmt.Sprintf("--x\r\nContent-Range: bytes %d-%d/%d\r\n\r\n%s\r\n--x--\r\n", a.off, a.end-1, a.blob.size(), asked(a))
			w.Header().Set("Content-Type", "multipart/byteranges; boundary=x")
			w.WriteHeader(http.StatusPartialContent)
			_, _ = io.WriteString(w, body)
		}},
		{"a page", true, func(w http.ResponseWriter, _ *http.Request, _ *ask) {
			w.Header().Set("Content-Type", "text/html")
			_, _ = io.WriteString(w, "<html>Please log in</html>")
		}},
	}
}

// TestWrongRange is FAULTS row 22 for ranges: upstream sends another range than was asked for, or says so, once. The client gets the
// right bytes or an error, never others, and the right ones when it asks again; and they are the blob in the end (P 4.23, 2.18).
func TestWrongRange(t *testing.T) {
	t.Parallel()
	r := start(t, 1<<30)
	for i, l := range lies() {
		for _, known := range []bool{true, false} {
			if l.known && !known {
				continue
			}
			b := r.blob(6*mib + i)
			if known {
				r.must(r.closed(b, span{0, 1000}))
			}
			var told atomic.Bool
			r.keep(b, func(w http.ResponseWriter, req *http.Request, a *ask) {
				if a.header == "" || told.Swap(true) {
					serve(w, req, a)
					return
				}
				l.tell(w, req, a)
			})
			ask := func() error { return r.closed(b, span{3*mib + 5, 4*mib - 5}) }
			err := ask()
			t.Logf("%s (size known: %v): %v", l.name, known, err)
			if !told.Load() {
				t.Fatalf("upstream was not asked for the range that it was to lie about:%s", r.list(b))
			}
			if errors.Is(err, errWrong) {
				t.Errorf("%s (size known: %v): %v", l.name, known, err)
			}
			r.finally(ask)
			r.hit(b)
		}
	}
}

// finally tries until it goes well. What is wrong does not wait.
func (r *rig) finally(do func() error) {
	r.t.Helper()
	lab.Eventually(r.t, 20*time.Second, r.daemon.Process, func() error {
		err := do()
		if errors.Is(err, errWrong) {
			r.t.Fatal(err)
		}
		return err
	})
}

// wholeOrCut is a plain GET of a blob of which upstream has sent wrong bytes. They may be in what is cut short, never in what is
// whole.
func (r *rig) wholeOrCut(b *blob) error {
	a, err := r.ask(b, "", span{0, b.size()})
	if err != nil {
		return err
	}
	defer a.close()
	got, err := io.ReadAll(a.Body)
	if err == nil && !bytes.Equal(got, b.data) {
		return fmt.Errorf("%w: a whole body of %d bytes that is not the blob", errWrong, len(got))
	}
	return err
}

// TestChangedObject is FAULTS rows 21 and 23 for ranges: a piece comes of another object, or with a wrong byte that no client has
// seen. No digest covers a piece; but no whole answer is made of it, and one clean refetch makes good, not a loop of them.
func TestChangedObject(t *testing.T) {
	const size = 12*mib + 77
	for name, c := range map[string]struct {
		wrong int64        // the number of the piece
		at    func() int64 // its wrong byte; nil: all of them
		all   bool         // whether all pieces are asked for, or three
	}{
		"another object, some pieces":        {wrong: 7},
		"another object, all pieces":         {wrong: 7, all: true},
		"last byte of a piece":               {wrong: 7, at: func() int64 { return 8*piece - 1 }},
		"last byte of a piece, all pieces":   {wrong: 7, at: func() int64 { return 8*piece - 1 }, all: true},
		"first byte of the blob, all pieces": {wrong: 0, at: func() int64 { return 0 }, all: true},
		"last byte of the blob, some pieces": {wrong: 12, at: func() int64 { return size - 1 }},
		"last byte of the blob, all pieces":  {wrong: 12, at: func() int64 { return size - 1 }, all: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t, 1<<30)
			b, bad := r.blob(size), r.blob(size).data
			if c.at != nil {
				bad = bytes.Clone(b.data)
				bad[c.at()] ^= 1
			}
			for i := range int64(13) {
				if !c.all && i != 3 && i != c.wrong && i != 9 {
					continue
				}
				s := span{i*piece + 1, min((i+1)*piece, size) - 1}
				seen := b
				if i == c.wrong {
					r.fail(b, func(w http.ResponseWriter, req *http.Request, a *ask) { serveBytes(w, req, a, bad) })
					seen = &blob{digest: b.digest, data: bad} // what nobody can know to be wrong yet
				}
				err := r.closed(seen, s)
				if c.all && i == 12 && !errors.Is(err, errWrong) {
					err = nil // with it the whole is there and known to be wrong: it may be cut
				}
				r.must(err)
				r.failed(b)
			}
			r.finally(func() error { return r.wholeOrCut(b) })
			r.hit(b)
			for _, one := range r.every(b) {
				r.must(one())
			}
			// The blob, the blob once more, and what lay in the buffers of the streams that were given up.
			r.about(b, b.size()+b.size()/3)
		})
	}
}

// TestPartialForWhole is FAULTS row 22, 206 to none: nothing is whole because somebody calls a part an answer.
func TestPartialForWhole(t *testing.T) {
	t.Parallel()
	r := start(t, 1<<30)
	b := r.blob(4 * mib)
	r.fail(b, func(w http.ResponseWriter, _ *http.Request, a *ask) {
		partial(w, a, fmt.Sprintf("bytes 0-%d/%d", mib-1, a.blob.size()), a.blob.data[:mib])
	})
	if err := r.wholeOrCut(b); errors.Is(err, errWrong) {
		t.Error(err)
	}
	r.finally(func() error { return r.wholeOrCut(b) })
	r.hit(b)
}

// TestSignedURLExpires is FAULTS row 25: blobs lie behind signed URLs, and one expires between two pieces, or in the middle of a
// range or of the whole. The registry is asked for a new one, and the bytes go on where they stood (P 4.24).
func TestSignedURLExpires(t *testing.T) {
	refusals := map[string]fault{
		"403": func(w http.ResponseWriter, _ *http.Request, _ *ask) { http.Error(w, "Forbidden", http.StatusForbidden) },
		"401": func(w http.ResponseWriter, _ *http.Request, _ *ask) {
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
		},
		"400": func(w http.ResponseWriter, _ *http.Request, _ *ask) {
			w.Header().Set("Content-Type", "application/xml")
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `<?xml version="1.0" encoding="UTF-8"?>`+"\n<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>")
		},
	}
	for name, refuse := range refusals {
		t.Run(name+" between two pieces", func(t *testing.T) {
			t.Parallel()
			r := start(t, 1<<30)
			r.sign()
			b := r.blob(40 * mib)
			r.must(r.closed(b, span{3*mib + 10, 3*mib + 20}))
			r.expire(refuse)
			r.must(r.closed(b, span{10*mib - 20, 10*mib + 20}))
			r.fetched(b, pieces(3, 1), pieces(9, 2))
			r.resigned(2)
		})
		t.Run(name+" in a range", func(t *testing.T) {
			t.Parallel()
			r := start(t, 1<<30)
			r.sign()
			b, s := r.blob(40*mib), pieces(24, 8)
			r.fail(b, afterTwoThirds(func(http.ResponseWriter) { r.expire(refuse) }))
			r.must(r.closed(b, s))
			r.goesOn(b, s)
			r.resigned(6) // two for each stream, of which there may be some
		})
		t.Run(name+" in the whole", func(t *testing.T) {
			t.Parallel()
			r := start(t, 1<<30)
			r.sign()
			b := r.blob(40 * mib)
			r.fail(b, afterTwoThirds(func(http.ResponseWriter) { r.expire(refuse) }))
			_, err := r.whole(b)
			r.must(err)
			r.hit(b)
			r.about(b, 4*mib) // less than one for each stream that is given up
		})
	}
}

// TestPlaceIsKept: a registry that redirects is asked once for a blob of which many ranges are read, and as long as that URL is
// good; also for one that comes whole, in parts.
func TestPlaceIsKept(t *testing.T) {
	t.Parallel()
	r := start(t, 1<<30)
	r.sign()
	b := r.blob(60 * mib)
	for i := range int64(20) {
		r.must(r.closed(b, span{i * 2 * mib, i*2*mib + 100}))
	}
	_, err := r.whole(b)
	r.must(err)
	r.resigned(1)
	if got, _ := merged(spansOf(r.asked(b))); len(got) != 1 || len(r.asked(b)) < 30 {
		t.Errorf("%d requests for %v", len(r.asked(b)), got)
	}
}

// spansOf is what was asked for.
func spansOf(asks []*ask) (all []span) {
	for _, a := range asks {
		all = append(all, a.span)
	}
	return all
}

// resigned sees that the registry gave out so many URLs at most, and that none was tried long after it had expired.
func (r *rig) resigned(most int) {
	r.t.Helper()
	r.origin.mu.Lock()
	defer r.origin.mu.Unlock()
	if r.redirect > most || r.refused > most {
		r.t.Errorf("%d URLs were given out, and ones that had expired were tried %d times; %d are enough", r.redirect, r.refused, most)
	}
}
