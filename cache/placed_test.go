package cache

import (
	"context"
	"sync/atomic"
	"testing"

	"cistern/internal/oci"
)

// TestPlaced: all streams of a fill but the first ask where its bytes came from; a fill
// that begins anew after wrong bytes knows no such place, nor does one that did not get
// an answer there.
func TestPlaced(t *testing.T) {
	t.Parallel()
	for kind, want := range map[string][2]int{"good": {1, 2}, "wrong": {2, 0}, "silent": {3, 2}} {
		o, c := newOrigin(), open(t, Options{})
		data := noise(20*mib, 260)
		d := o.put(data)
		var again atomic.Int64
		var send func(off, end int64, of []byte) (*Body, error)
		send = func(off, end int64, of []byte) (*Body, error) {
			if end < 0 {
				end = int64(len(of))
			}
			b, err := body(int64(len(of)), off, step{data: of[off:end]})
			b.Again = func(_ context.Context, off, end int64) (*Body, error) {
				again.Add(1)
				if kind == "silent" {
					return nil, errSlow
				}
				return send(off, end, data)
			}
			return b, err
		}
		o.blob = func(n int, _ oci.Digest, off, end int64) (*Body, error) {
			if kind == "wrong" && n == 1 {
				return send(off, end, make([]byte, len(data)))
			}
			return send(off, end, data)
		}
		if kind == "wrong" {
			if _, _, err := c.get(o.repo("a"), d); err == nil {
				t.Error("wrong bytes were read")
			}
			c.idle()
			c.want(o.repo("a"), d, OutcomeHit)
		} else {
			for i := range int64(3) {
				c.part(o.repo("a"), d, data, Range{Off: 3 * i * mib, End: 3*i*mib + 10})
			}
		}
		if got := [2]int{o.count("blob"), int(again.Load())}; got != want {
			t.Errorf("%s: asked %v times, want %v", kind, got, want)
		}
	}
}
