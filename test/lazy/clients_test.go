package lazy_test

import (
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"cistern/test/lab"
)

// TestStargz replays the snapshotter (P 5.1): a probe, HEAD, the footer and the table of contents at the end, then chunks of
// 50 kB as files are read, many ranges in a header, the prefetched beginning, and the probe again. It costs the pieces that it
// touches.
func TestStargz(t *testing.T) {
	t.Parallel()
	r := start(t, 1<<30)
	b := r.blob(64*mib + 100_000)
	chunks := func(first, n int64) span {
		const chunk = 50_000
		return span{first * chunk, min((first+n)*chunk, b.size())}
	}
	last := (b.size() - 1) / 50_000
	r.must(r.get(b, "0-1", span{0, 2}))
	r.must(r.head(b))
	r.must(r.closed(b, chunks(last, 1)))
	r.must(r.closed(b, chunks(last-8, 8)))
	want := []span{pieces(0, 1), touched(chunks(last-8, 9))}
	for _, read := range [][]span{
		{chunks(600, 1), chunks(880, 3), chunks(210, 1)},
		{chunks(1000, 1), chunks(1060, 1), chunks(605, 1)},
		{chunks(215, 2), chunks(450, 4), chunks(604, 3)}, // overlaps what is there
	} {
		r.must(r.several(b, read))
		for _, s := range read {
			want = append(want, touched(s))
		}
	}
	r.must(r.closed(b, chunks(0, 60)))
	want = append(want, touched(chunks(0, 60)))
	r.must(r.get(b, "0-1", span{0, 2}))
	r.fetched(b, want...)
	if heads := r.headsOf(b); heads > 1 {
		t.Errorf("upstream had %d HEADs", heads)
	}
}

// touched are the pieces that a range lies in.
func touched(s span) span { return span{s.off / piece * piece, (s.end + piece - 1) / piece * piece} }

// TestSOCI replays spans of 4 MiB, closed and in parallel (P 5.2), until all are there: each byte once, and then it is the blob.
func TestSOCI(t *testing.T) {
	t.Parallel()
	r := start(t, 1<<30)
	b := r.blob(42*mib + 999)
	r.must(r.head(b))
	r.parallel(11, 5, func(i int) error {
		s := pieces(int64(4*i), 4)
		return r.closed(b, span{s.off, min(s.end, b.size())})
	})
	r.silently(b, func() { r.hit(b) })
	// Spans come in sequence: who fetches ahead of them may give up, with what lies in its buffers, what others fetch.
	r.about(b, 4*mib)
}

// TestNydus replays closed ranges of about 1 MiB by eight threads (P 5.3), here of every second MiB: each costs its piece, and
// twice over it costs the same.
func TestNydus(t *testing.T) {
	t.Parallel()
	r := start(t, 1<<30)
	b := r.blob(64 * mib)
	r.must(r.head(b))
	var want []span
	for i := range int64(32) {
		want = append(want, pieces(2*i, 1))
	}
	for range 2 {
		r.parallel(len(want), 8, func(i int) error { return r.closed(b, want[(i*13)%len(want)]) })
	}
	r.fetched(b, want...)
}

// TestZstdChunked replays a partial pull: 1,024 ranges in one header (P 2.55). The answer has 1,024 parts, in their order, and
// each piece is fetched once.
func TestZstdChunked(t *testing.T) {
	t.Parallel()
	for name, step := range map[string]int{"ascending": 1, "as they come": 389} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t, 1<<30)
			b := r.blob(64 * mib)
			// 64 files in each of 16 pieces that do not touch.
			ranges, want := make([]span, 1024), []span{}
			for i := range ranges {
				at := i * step % len(ranges)
				off := int64(at/64*4*mib + at%64*16*kib)
				ranges[i] = span{off, off + 100 + int64(at%7)*1000}
			}
			for i := range int64(16) {
				want = append(want, pieces(4*i, 1))
			}
			r.must(r.several(b, ranges))
			r.fetched(b, want...)
			r.must(r.several(b, ranges))
			r.fetched(b, want...)
		})
	}
}

// TestContainerdChunks replays parallel chunks (P 2.16): the first request is for all from 0, the others for all from their
// chunk; each is read for 8 MiB and left. All are 206, the blob is fetched once, and none of it is an error.
func TestContainerdChunks(t *testing.T) {
	t.Parallel()
	r := start(t, 1<<30)
	b := r.blob(64*mib + 4321)
	const chunk = 8 * mib
	first, err := r.ask(b, "0-", span{0, b.size()})
	r.must(err)
	r.parallel(9, 4, func(i int) error {
		if i == 0 {
			defer first.close()
			return first.read(chunk)
		}
		return r.from(b, int64(i)*chunk, chunk)
	})
	_, err = r.whole(b)
	r.must(err)
	r.silently(b, func() { r.hit(b) })
	// Eight times a stream runs into what others have fetched, or a reader leaves: a window of a few MiB, or what lies in the
	// buffers of a stream that is given up, which is less than one. A quarter of the blob is room for that, and not for two fetches.
	r.about(b, b.size()/4)
	r.metric(0, "cistern_requests_total", `outcome="error"`)
	r.healthy()
}

// healthy sees that nothing is held against upstream: what is not known yet is fetched.
func (r *rig) healthy() {
	r.t.Helper()
	_, err := r.whole(r.blob(300_000))
	r.must(err)
}

// TestOllama replays a pull of a model (P 2.92): HEAD, a GET that is left at its header, and sixteen closed ranges in parallel.
func TestOllama(t *testing.T) {
	t.Parallel()
	r := start(t, 1<<30)
	b := r.blob(64 * mib)
	r.must(r.head(b))
	a, err := r.ask(b, "", span{0, b.size()})
	r.must(err)
	a.close()
	r.parallel(16, 16, func(i int) error { return r.closed(b, pieces(int64(4*i), 4)) })
	_, err = r.whole(b)
	r.must(err)
	r.silently(b, func() { r.hit(b) })
	// As for containerd, with sixteen who run into each other; each gives up less than a MiB.
	r.about(b, 16*mib)
	r.metric(0, "cistern_requests_total", `outcome="error"`)
}

// TestResumedPull replays what containers/image and Docker's model runner do after a cut: all from byte N, of a blob that is cold
// here (P 2.54, 2.91). It costs what it reads.
func TestResumedPull(t *testing.T) {
	t.Parallel()
	r := start(t, 1<<30)
	b := r.blob(64*mib + 17)
	const n = 40*mib + 12_345
	r.must(r.from(b, n, b.size()))
	r.fetched(b, span{40 * mib, b.size()})
	r.silently(b, func() { r.must(r.from(b, n, b.size())) })
}

// TestOneBlobOneAnswer is P 2.17: a range gets 206 with exact numbers in every state that its blob can be in.
func TestOneBlobOneAnswer(t *testing.T) {
	t.Parallel()
	r := start(t, 1<<30)
	for i := range 6 {
		cold := r.blob(24*mib + 333)
		r.must(r.every(cold)[i]())
	}
	b := r.blob(64*mib + 333)
	all := func() {
		for _, one := range r.every(b) {
			r.must(one())
		}
	}
	h := r.hold(b, func(a *ask) int64 { return within(a, 2*mib) })
	filling, err := r.ask(b, "", span{0, b.size()})
	r.must(err)
	defer filling.close()
	r.must(filling.read(mib))
	all()
	r.ahead(b, 4*mib)
	h.open()
	r.must(filling.read(b.size() - mib))
	all()
	r.hit(b)
	all()
	r.restart(syscall.SIGTERM)
	all()
	half := r.blob(24*mib + 1)
	r.must(r.every(half)[1]())
	r.restart(syscall.SIGKILL)
	all()
	for _, one := range r.every(half) {
		r.must(one())
	}
}

// ahead sees that upstream was asked for what lies behind off without what lies before it: who has asked for it did not wait.
func (r *rig) ahead(b *blob, off int64) {
	r.t.Helper()
	if !slices.ContainsFunc(r.asked(b), func(a *ask) bool { return a.off > off }) {
		r.t.Errorf("ranges far ahead of a fill that stands still have waited for it:%s", r.list(b))
	}
}

// every is one request of each kind; the last one starts the fetch of the whole.
func (r *rig) every(b *blob) []func() error {
	far := b.size() * 3 / 4 / mib * mib
	two := []span{{far + 100, far + 200}, {far - 100, far}}
	return []func() error{
		func() error { return r.get(b, "0-1", span{0, 2}) },
		func() error { return r.closed(b, span{far - 500, far + 70_000}) },
		func() error { return r.get(b, "-51", span{b.size() - 51, b.size()}) },
		func() error { return r.get(b, fmt.Sprintf("%d-99999999", far), span{far, b.size()}) },
		func() error { return r.from(b, far-mib, b.size()) },
		func() error {
			if err := r.several(b, two); err != nil {
				return err
			}
			return r.from(b, 0, 100_000)
		},
	}
}

// TestRangeMiss has an upstream's ranges miss in the two other ways: "fill" fetches the whole blob for them, "pass" keeps nothing.
func TestRangeMiss(t *testing.T) {
	t.Run("fill", func(t *testing.T) {
		t.Parallel()
		r := start(t, 1<<30, "range_miss: fill")
		b := r.blob(8*mib + 3)
		r.must(r.closed(b, span{5 * mib, 5*mib + 10}))
		// Nobody asks for the whole before it is there.
		lab.Eventually(t, 20*time.Second, r.daemon.Process, func() error {
			if sent := r.sent(b); sent < b.size() {
				return fmt.Errorf("%d of %d bytes were sent", sent, b.size())
			}
			return nil
		})
		r.silently(b, func() { r.hit(b) })
	})
	t.Run("pass", func(t *testing.T) {
		t.Parallel()
		r := start(t, 1<<30, "range_miss: pass")
		b := r.blob(8*mib + 4)
		r.must(r.closed(b, span{5 * mib, 5*mib + 10}))
		r.must(r.closed(b, span{5 * mib, 5*mib + 10}))
		if asks := r.asked(b); len(asks) != 2 || r.sent(b) > 2*piece {
			t.Errorf("two ranges were not passed on:%s", r.list(b))
		}
		_, err := r.whole(b)
		r.must(err)
		r.hit(b)
		r.silently(b, func() { r.must(r.closed(b, span{5 * mib, 5*mib + 10})) })
	})
}

// TestEvictedInBetween is P 5.8: a blob, or what there is of one, may go between two of its ranges, and its client does not see it.
func TestEvictedInBetween(t *testing.T) {
	t.Parallel()
	r := start(t, 64*mib)
	whole, part := r.blob(12*mib+5), r.blob(12*mib+6)
	_, err := r.whole(whole)
	r.must(err)
	r.hit(whole)
	for i := range r.every(whole) {
		r.must(r.every(whole)[i]())
	}
	r.must(r.every(part)[1]())
	before := len(r.asked(whole))
	for range 6 {
		_, err := r.whole(r.blob(12 * mib))
		r.must(err)
	}
	for _, b := range []*blob{whole, part} {
		for _, one := range r.every(b) {
			r.must(one())
		}
	}
	if len(r.asked(whole)) == before {
		t.Error("nothing was evicted")
	}
}
