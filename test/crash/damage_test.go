package crash_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"testing"
	"time"

	"cistern/test/lab"
)

// TestDamagedPiece is FAULTS row 37 for the bytes of a piece that is noted as synced: one bit of it is turned while the daemon
// is down. In another boot each piece is read against its sum, and that one is fetched anew, alone; so is what was written and
// not synced. In the same boot nothing is read again: the digest finds it, nobody gets a whole answer of it, and it costs one
// clean refetch.
func TestDamagedPiece(t *testing.T) {
	t.Parallel()
	for _, ranges := range []bool{false, true} {
		for _, reboot := range []bool{false, true} {
			t.Run(fmt.Sprintf("ranges=%v,reboot=%v", ranges, reboot), func(t *testing.T) {
				t.Parallel()
				s := stage(t, ext4(""), large)
				x, left := s.half(ranges)
				synced := left.in(pieceSynced)
				bad := synced[s.rng.IntN(len(synced))]
				s.flip(left, bad)
				if reboot {
					s.boot = bootID(s.rng)
				}
				s.start()
				if reboot {
					s.fetchedAlone(x, left, bad)
				} else {
					s.fetchedOnceMore(x, left)
				}
				s.offline(x)
			})
		}
	}
}

// half has a blob fetched in part, all of it or a range being asked for, until some pieces are synced and some more are
// written, and kills the daemon.
func (s *scene) half(ranges bool) (*thing, *remnant) {
	s.t.Helper()
	x := s.blobs(1, 40*mib+1000)[0]
	a := ask{x: x}
	if ranges {
		a.from, a.to = 4*mib+1000, x.size()-1
	}
	s.origin.pace(x, 8*mib, false)
	ended := make(chan answer, 1)
	go func() { ended <- s.client.do(s.t.Context(), a) }()
	var left *remnant
	s.until(func() error {
		left = remains(s.t, s.dir, x)
		synced, landed := left.in(pieceSynced), left.in(pieceLanded)
		if len(synced) < 4 || len(landed) < 2 {
			return fmt.Errorf("%d pieces are synced and %d are written", len(synced), len(landed))
		}
		return nil
	})
	s.daemon.Kill()
	if r := <-ended; r.err == nil || errors.Is(r.err, errWrong) {
		s.t.Fatalf("void: it was not on its way: %v", r.err)
	}
	lab.Eventually(s.t, 10*time.Second, nil, s.origin.idle)
	s.origin.unpace(x)
	s.origin.piecesSince(x)
	left = remains(s.t, s.dir, x)
	if err := left.right(false); err != nil {
		s.t.Fatal(err)
	}
	return x, left
}

// flip turns a bit of a piece on disk.
func (s *scene) flip(left *remnant, piece int) {
	s.t.Helper()
	off, end := left.x.bounds(piece)
	off += s.rng.Int64N(end - off)
	f, err := os.OpenFile(left.file, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt([]byte{left.x.data[off] ^ 1<<s.rng.IntN(8)}, off)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// fetchedAlone sees that what is asked for is right at once, and that of the synced pieces the bad one alone is fetched.
func (s *scene) fetchedAlone(x *thing, left *remnant, bad int) {
	s.t.Helper()
	s.pull(x)
	for i, n := range s.origin.piecesSince(x) {
		off, end := x.bounds(i)
		want := end - off
		if left.marks[i].state == pieceSynced && i != bad {
			want = 0
		}
		if n != want {
			s.t.Errorf("%d bytes of piece %d were fetched, want %d; the bad one is %d", n, i, want, bad)
		}
	}
	if n := s.daemon.Metric(s.t, "cistern_verify_failures_total"); n != 0 {
		s.t.Errorf("upstream was blamed %v times", n)
	}
}

// fetchedOnceMore sees that no whole answer is wrong, that the next one is right, and that this has cost the blob once.
func (s *scene) fetchedOnceMore(x *thing, left *remnant) {
	s.t.Helper()
	resp, err := s.client.http.Get(s.client.base + x.path())
	if err != nil {
		s.t.Fatal(err)
	}
	got, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err == nil && (resp.StatusCode != http.StatusOK || !bytes.Equal(got, x.data)) {
		s.t.Fatalf("%v: a whole answer, %s, of %d bytes", errWrong, resp.Status, len(got))
	}
	if err == nil {
		s.t.Error("void: nobody has met the damage")
	}
	s.pull(x)
	missing := x.size() - left.bytes(false)
	if n := sum(s.origin.piecesSince(x)); n < missing+x.size() || float64(n) > 1.02*float64(missing+x.size()) {
		s.t.Errorf("%d bytes were fetched, where %d were missing of %d", n, missing, x.size())
	}
}
