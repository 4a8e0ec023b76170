package lazy_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"syscall"
	"testing"
)

// TestColdRange: a small closed range of a blob of which nothing is known costs upstream one closed range, that of the pieces
// which it touches, and the same bytes cost nothing again (P 5.5, 4.22).
func TestColdRange(t *testing.T) {
	t.Parallel()
	r := start(t, 1<<30)
	b := r.blob(64*mib + 4321)
	r.must(r.closed(b, span{10_000_000, 10_100_000}))
	if asks := r.asked(b); len(asks) != 1 || asks[0].header != "bytes=9437184-10485759" {
		t.Fatalf("not one closed range of one piece:%s", r.list(b))
	}
	r.silently(b, func() {
		r.must(r.closed(b, span{10_000_000, 10_100_000}))
		r.must(r.closed(b, span{9*mib + 7, 10 * mib}))
	})
	// Across the edge of two pieces: still one request.
	r.must(r.closed(b, span{40*mib - 10, 40*mib + 10}))
	if asks := r.asked(b); len(asks) != 2 || asks[1].header != "bytes=40894464-42991615" {
		t.Fatalf("not one closed range of two pieces:%s", r.list(b))
	}
	// Around what is there already.
	r.must(r.closed(b, span{38*mib + 1, 42*mib - 1}))
	r.fetched(b, pieces(9, 1), pieces(38, 4))
}

// TestProbe: the first two bytes of a blob cost its first piece, and its size is exact (P 5.6); after that HEAD costs no body.
func TestProbe(t *testing.T) {
	t.Parallel()
	r := start(t, 1<<30)
	b := r.blob(5*mib + 1)
	r.must(r.get(b, "0-1", span{0, 2}))
	r.must(r.head(b))
	r.must(r.get(b, "0-1", span{0, 2}))
	r.fetched(b, pieces(0, 1))
}

// TestProbesOfManyBlobs: what looks at 200 blobs does not fetch them (P 5.5).
func TestProbesOfManyBlobs(t *testing.T) {
	t.Parallel()
	r := start(t, 1<<30)
	var all []*blob
	for range 200 {
		all = append(all, r.blob(2*mib+500))
	}
	r.parallel(len(all), 16, func(i int) error { return r.get(all[i], "0-1", span{0, 2}) })
	for _, b := range all {
		r.fetched(b, pieces(0, 1))
	}
}

// TestSuffix: the last bytes of a blob whose size nobody knows cost a HEAD and the pieces at its end.
func TestSuffix(t *testing.T) {
	t.Parallel()
	r := start(t, 1<<30)
	b := r.blob(20*mib + 300_000)
	r.must(r.get(b, "-51", span{b.size() - 51, b.size()}))
	r.fetched(b, pieces(20, 1))
	r.must(r.get(b, "-300001", span{b.size() - 300_001, b.size()}))
	r.fetched(b, pieces(19, 2))
	if heads := r.headsOf(b); heads > 1 {
		t.Errorf("it cost %d HEADs", heads)
	}
	// More than there is means all of it.
	small := r.blob(3*mib + 5)
	r.must(r.get(small, "-9999999", span{0, small.size()}))
	r.fetched(small, pieces(0, 4))
}

// TestSmallBlob: what fits in the first answer is fetched whole with it, and is a hit.
func TestSmallBlob(t *testing.T) {
	t.Parallel()
	r := start(t, 1<<30)
	b := r.blob(200_000)
	r.must(r.closed(b, span{150_000, 150_100}))
	r.fetched(b, span{0, b.size()})
	r.silently(b, func() { r.hit(b) })
}

// TestEnd: a range that ends behind the blob is cut to what there is, and one that begins there is refused with the size, also
// where nothing was known before. Neither costs more than the last piece, and neither is held against upstream.
func TestEnd(t *testing.T) {
	t.Parallel()
	r := start(t, 1<<30)
	for _, spec := range []string{"%d-", "%d-99999999", "%[1]d-%[1]d"} {
		b := r.blob(20*mib + 9)
		spec = fmt.Sprintf(spec, b.size())
		ctx, stop := r.ctx()
		a, err := r.open(ctx, b, spec, nil)
		r.must(err)
		if got := a.Header.Get("Content-Range"); a.StatusCode != http.StatusRequestedRangeNotSatisfiable || got != fmt.Sprint("bytes */", b.size()) {
			t.Errorf("range %s of %d bytes: %s, Content-Range %q", spec, b.size(), a.Status, got)
		}
		_, err = io.Copy(io.Discard, a.Body)
		r.must(err)
		_ = a.Body.Close()
		stop()
		if sent := r.sent(b); sent > piece {
			t.Errorf("range %s of %d bytes: %d bytes were sent for it:%s", spec, b.size(), sent, r.list(b))
		}
		r.must(r.get(b, fmt.Sprintf("%d-%d", b.size()-100, b.size()+1_000_000), span{b.size() - 100, b.size()}))
		r.must(r.closed(b, span{5 * mib, 5*mib + 10}))
		if sent := r.sent(b); sent > 4*piece {
			t.Errorf("%d bytes of %d were sent:%s", sent, b.size(), r.list(b))
		}
	}
}

// TestPiecesBecomeTheBlob: pieces that come one by one, in whatever order, are the blob in the end: verified, a hit, and no byte
// was asked for twice. Before that a plain GET fetches what is missing and no more.
func TestPiecesBecomeTheBlob(t *testing.T) {
	t.Parallel()
	r := start(t, 1<<30)
	b := r.blob(11*mib + 77)
	for _, i := range []int64{10, 8, 6, 4, 2, 0, 11, 9, 7, 5, 3, 1} {
		s := pieces(i, 1)
		r.must(r.closed(b, span{s.off + 5, min(s.end, b.size())}))
	}
	r.silently(b, func() {
		_, err := r.whole(b)
		r.must(err)
		r.hit(b)
	})
	r.fetched(b, pieces(0, 12))

	gaps := r.blob(11*mib + 78)
	for _, i := range []int64{9, 6, 3} {
		r.must(r.closed(gaps, pieces(i, 1)))
	}
	_, err := r.whole(gaps)
	r.must(err)
	r.silently(gaps, func() { r.hit(gaps) })
	// Whoever runs into a piece that is there gives a stream up with what lies in its buffers.
	r.about(gaps, 3*mib)
}

// TestOpenRangeFollowsItsReader: an open range from the middle is fetched as its client reads, and no further once it has left.
func TestOpenRangeFollowsItsReader(t *testing.T) {
	t.Parallel()
	r := start(t, 1<<30)
	b, other := r.blob(64*mib), r.blob(63*mib)
	r.must(r.from(b, 8*mib+100, mib))
	// Who goes on regardless has this long for it.
	_, err := r.whole(other)
	r.must(err)
	// One MiB was read, another may lie in buffers; the rest of the bound are windows.
	if sent := r.sent(b); sent > 24*mib {
		t.Errorf("%d bytes were sent for one MiB:%s", sent, r.list(b))
	}
	for _, a := range r.asked(b) {
		if a.off < 8*mib {
			t.Errorf("upstream was asked for what lies before the range:%s", r.list(b))
		}
	}
	r.must(r.closed(b, span{8*mib + 100, 9 * mib}))
}

// TestRestart: pieces are there after an end in order, and after a kill -9: then all but those that were just being written down.
func TestRestart(t *testing.T) {
	for name, how := range map[string]syscall.Signal{"term": syscall.SIGTERM, "kill": syscall.SIGKILL} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t, 1<<30)
			b := r.blob(64*mib + 5)
			read := func() {
				for i := int64(0); i < 64; i += 4 {
					r.must(r.closed(b, pieces(i, 1)))
				}
			}
			read()
			before := len(r.asked(b))
			r.restart(how)
			read()
			again := len(r.asked(b)) - before
			if again > 0 && how == syscall.SIGTERM || again > 2 {
				t.Errorf("%d of 16 pieces were fetched again:%s", again, r.list(b))
			}
			// And they are pieces of the blob.
			_, err := r.whole(b)
			r.must(err)
			r.hit(b)
		})
	}
}

// TestSingleFlight: fifty who ask for bytes of the same piece at once cost one request.
func TestSingleFlight(t *testing.T) {
	t.Parallel()
	r := start(t, 1<<30)
	b := r.blob(48 * mib)
	sent := make(chan struct{})
	r.fail(b, func(w http.ResponseWriter, req *http.Request, a *ask) {
		select {
		case <-sent: // all have asked, or are about to
		case <-r.ended:
		}
		serve(w, req, a)
	})
	// As many at once as there are, so that the last to start lets all of them go on.
	started := make(chan struct{}, 50)
	go func() {
		defer close(sent)
		for range 50 {
			<-started
		}
	}()
	r.parallel(50, 50, func(i int) error {
		started <- struct{}{}
		off := int64(20*mib + i*20_000)
		return r.closed(b, span{off, off + 30_000})
	})
	r.fetched(b, pieces(20, 1))
}

// TestLeaver is FAULTS rows 1 and 6 for ranges: who leaves before a piece has come takes nothing from who asks for it next (P 2.16).
func TestLeaver(t *testing.T) {
	t.Parallel()
	r := start(t, 1<<30)
	b, other := r.blob(48*mib), r.blob(47*mib)
	asked, gate := make(chan struct{}), make(chan struct{})
	r.fail(b, func(w http.ResponseWriter, req *http.Request, a *ask) {
		close(asked)
		select {
		case <-gate:
		case <-req.Context().Done():
			t.Error("the fetch of a piece ended with the client that had asked for it")
		case <-r.ended:
		}
		serve(w, req, a)
	})
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan struct{})
	go func() {
		defer close(left)
		if a, err := r.open(ctx, b, closedSpec(pieces(20, 1)), nil); err == nil {
			_ = a.Body.Close()
		}
	}()
	<-asked
	leave()
	<-left
	// Whoever gives up has this long for it.
	_, err := r.whole(other)
	r.must(err)
	close(gate)
	r.must(r.closed(b, pieces(20, 1)))
	r.fetched(b, pieces(20, 1))
}
