package scenario

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"

	"cistern/bench/load"
	"cistern/bench/origin"
	"cistern/bench/peer"
)

const (
	// pieceSize is what a proxy should fetch for a small range.
	pieceSize = 1 << 20
	// rangeSize is what lazy readers ask for.
	rangeSize = 64 << 10
)

// span is a closed range of a blob.
type span struct{ off, length int64 }

func (s span) header() string { return fmt.Sprintf("bytes=%d-%d", s.off, s.off+s.length-1) }

// pieces are the first piece that it touches and the last.
func (s span) pieces() (first, last int64) {
	return s.off / pieceSize, (s.off + s.length - 1) / pieceSize
}

// spansAnywhere are ranges at random offsets; one in sixteen lies across two pieces.
func spansAnywhere(r *rand.Rand, size int64, n int) []span {
	spans := make([]span, n)
	for i := range spans {
		spans[i] = span{r.Int64N(size - rangeSize + 1), rangeSize}
	}
	return spans
}

// spansApart are ranges of pieces of which no two are the same, none across two.
func spansApart(r *rand.Rand, size int64, n int) []span {
	spans := make([]span, n)
	for i, piece := range r.Perm(int(size / pieceSize))[:n] {
		spans[i] = span{int64(piece)*pieceSize + r.Int64N(pieceSize-rangeSize+1), rangeSize}
	}
	return spans
}

// firstTouches tells of each range, asked for in this order, whether it is the first to touch
// any of its pieces; and how many bytes the pieces have that are touched at all.
func firstTouches(spans []span, size int64) (isNew []bool, touched int64) {
	seen := map[int64]bool{}
	for _, s := range spans {
		first, last := s.pieces()
		isFirst := false
		for p := first; p <= last; p++ {
			if !seen[p] {
				isFirst, seen[p] = true, true
				touched += min(pieceSize, size-p*pieceSize)
			}
		}
		isNew = append(isNew, isFirst)
	}
	return isNew, touched
}

// trueBytes reads the ranges past the link, the counters and the proxies.
func trueBytes(ctx context.Context, o *peer.Origin, path string, spans []span) ([][]byte, error) {
	c, err := load.New(load.Options{Base: o.Control.Base})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	out := make([][]byte, len(spans))
	for i, s := range spans {
		resp, err := c.Do(ctx, load.Request{Path: path, Range: s.header()})
		if err != nil {
			return nil, err
		}
		if out[i], err = c.ReadAll(ctx, resp, s.length); err != nil {
			return nil, err
		}
		if resp.Status != 206 || int64(len(out[i])) != s.length {
			return nil, fmt.Errorf("the registry answers %s with status %d and %d bytes", s.header(), resp.Status, len(out[i]))
		}
	}
	return out, nil
}

// comparing is a sink that takes nothing but the bytes it is made of.
type comparing struct {
	want []byte
	done int
}

// Write implements [io.Writer].
func (c *comparing) Write(p []byte) (int, error) {
	left := c.want[c.done:]
	if len(p) <= len(left) && bytes.Equal(p, left[:len(p)]) {
		c.done += len(p)
		return len(p), nil
	}
	same := 0
	for same < min(len(p), len(left)) && p[same] == left[same] {
		same++
	}
	return same, fmt.Errorf("byte %d of the range is wrong", c.done+same)
}

// getSpan reads a range of a blob and compares each byte as it comes.
func getSpan(ctx context.Context, c *load.Client, path string, l origin.Layer, s span, want []byte) (load.Got, error) {
	resp, err := c.Do(ctx, load.Request{Path: path, Range: s.header()})
	if err != nil {
		return load.Got{}, err
	}
	place := fmt.Sprintf("bytes %d-%d/%d", s.off, s.off+s.length-1, l.Size)
	if got := resp.Header("Content-Range"); resp.Status != 206 || got != place {
		return load.Got{}, fmt.Errorf("%s, %s: status %d with %q, want 206 with %q", path, s.header(), resp.Status, got, place)
	}
	sink := comparing{want: want}
	got, err := c.Drain(ctx, resp, load.Sink{To: &sink})
	if err == nil && got.Bytes != s.length {
		err = fmt.Errorf("%d bytes, want %d", got.Bytes, s.length)
	}
	if err != nil {
		return got, fmt.Errorf("%s, %s: %w", path, s.header(), err)
	}
	return got, nil
}
