package lazy_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
)

// disagreements are what an endpoint has instead of a blob of so many bytes.
var disagreements = map[string]func(r *rig, size int) []byte{
	"other bytes": func(r *rig, size int) []byte { return r.blob(size).data },
	"a shorter":   func(r *rig, size int) []byte { return r.blob(size).data[:size-5*mib] },
	"a longer":    func(r *rig, size int) []byte { return r.blob(size + 5*mib).data },
	"nothing":     func(*rig, int) []byte { return nil },
}

// TestEndpointsDisagree is FAULTS row 28 for parts and for parallel streams: of two endpoints one has something else under the digest, and parts come from
// both since the first fails now and then. No whole answer is made of a mix: it is fetched again, from each of them once at most, and is right.
// What only one of them has comes from that, and nobody sees that the other one lacks it.
func TestEndpointsDisagree(t *testing.T) {
	const size = 39 * mib
	for what, other := range disagreements {
		for _, wrong := range []string{"first", "second"} {
			for _, mode := range []string{"parts", "streams"} {
				t.Run(fmt.Sprintf("the %s has %s, %s", wrong, what, mode), func(t *testing.T) {
					t.Parallel()
					r := startTwo(t, 1<<30, "max_streams: 8")
					b := r.blob(size)
					r.second.put(b)
					liar := r.second
					if wrong == "first" {
						liar = r.origin
					}
					bad := &blob{digest: b.digest, data: other(r, size)}
					liar.put(bad)
					if bad.data == nil {
						liar.drop(bad)
					}
					r.stumbles(b, bad)
					r.agree(b, mode == "parts", bad.data == nil)
					most := 3*max(b.size(), bad.size()) + 4*mib // and what lay in buffers
					if bad.data == nil {
						most = b.size() + 4*mib
					}
					if n := r.origin.sent(b) + r.second.sent(b) + r.origin.sent(bad) + r.second.sent(bad); n > most {
						t.Errorf("%d bytes were sent of a blob of %d", n, b.size())
					}
				})
			}
		}
	}
}

// drop has the origin lack a blob.
func (o *origin) drop(b *blob) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.blobs, b.digest)
}

// stumbles has the first endpoint refuse the second, the fifth and the eighth request.
func (r *rig) stumbles(blobs ...*blob) {
	var asked atomic.Int64
	for _, b := range blobs {
		r.keep(b, func(w http.ResponseWriter, req *http.Request, a *ask) {
			if n := asked.Add(1); n < 9 && n%3 == 2 {
				refuses(http.StatusServiceUnavailable)(w, req, a)
				return
			}
			serve(w, req, a)
		})
	}
}

// agree gets parts of the blob, all or some, and then all of it, until that is right.
func (r *rig) agree(b *blob, all, lacks bool) {
	r.t.Helper()
	for i := range b.size() / piece {
		if all || i%5 == 4 {
			if err := r.closed(b, pieces(i, 1)); lacks {
				r.must(err)
			} // else no digest covers it
		}
	}
	most := 3
	if lacks {
		most = 1
	}
	for i := 1; ; i++ {
		err := r.provenOrCut(b)
		if err == nil {
			break
		}
		if errors.Is(err, errWrong) || i == most {
			r.t.Fatalf("the whole, %d times: %v", i, err)
		}
	}
	r.hit(b)
}

// provenOrCut is a plain GET of a blob whose size may be said wrongly, too: a whole answer must be that of the digest.
func (r *rig) provenOrCut(b *blob) error {
	ctx, stop := r.ctx()
	defer stop()
	a, err := r.open(ctx, b, "", nil)
	if err != nil {
		return err
	}
	defer a.Body.Close()
	if a.StatusCode != http.StatusOK {
		return errors.New(a.Status)
	}
	got := sha256.New()
	n, err := io.Copy(got, a.Body)
	if err == nil && fmt.Sprintf("sha256:%x", got.Sum(nil)) != b.digest {
		return fmt.Errorf("%w: a whole body of %d bytes that is not the blob", errWrong, n)
	}
	return err
}
