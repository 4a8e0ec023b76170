package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"cistern/internal/oci"
)

// act is one thing that happens in a history of a blob that is read in parts.
type act struct {
	kind string
	asks []Range
	take int64         // bytes after which a reader leaves; 0: it reads all
	at   int64         // of the blob: where a body is cut, or a byte is wrong
	wait time.Duration // before the next one
}

// TestLazyHistories: random readers of a blob and of its parts, together and one
// after the other, who leave when they like, over an upstream that cuts bodies,
// sends wrong bytes, ignores ranges, claims another size, or does not answer, and
// restarts between them. Each byte that is delivered is the blob's, unless upstream
// has lied, and then no whole answer is; in the end it is whole and a hit.
func TestLazyHistories(t *testing.T) {
	t.Parallel()
	data := noise(6*mib+7, 90)
	rapid.Check(t, func(rt *rapid.T) {
		acts := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) act { return drawAct(t, int64(len(data))) }), 1, 15).Draw(rt, "acts")
		streams := rapid.IntRange(1, 4).Draw(rt, "streams")
		var err error
		dir, derr := os.MkdirTemp("", "lazy")
		if derr != nil {
			rt.Fatal(derr)
		}
		defer os.RemoveAll(dir)
		synctest.Test(t, func(t *testing.T) { err = lived(t, dir, data, streams, acts) })
		if err != nil {
			rt.Fatal(err)
		}
	})
}

func drawAct(t *rapid.T, size int64) act {
	d := act{
		kind: rapid.SampledFrom([]string{"part", "part", "part", "open", "whole", "cut", "wrong", "ignores", "resized", "sick", "well", "restart"}).Draw(t, "kind"),
		at:   rapid.Int64Range(0, size-1).Draw(t, "at"),
		wait: rapid.SampledFrom([]time.Duration{0, 0, time.Millisecond, time.Second, 15 * time.Second}).Draw(t, "wait"),
	}
	if rapid.Bool().Draw(t, "leaves") {
		d.take = rapid.Int64Range(1, size).Draw(t, "take")
	}
	switch d.kind {
	case "part":
		for range rapid.IntRange(1, 3).Draw(t, "ranges") {
			off := rapid.Int64Range(0, size-1).Draw(t, "off")
			d.asks = append(d.asks, Range{Off: off, End: off + rapid.Int64Range(1, 2*mib).Draw(t, "n")})
		}
	case "open":
		d.asks = []Range{{Off: rapid.Int64Range(-size, size-1).Draw(t, "off"), End: -1}}
	}
	return d
}

// life is a cache over restarts, and what upstream is about to do.
type life struct {
	*rig
	from *origin
	d    oci.Digest
	data []byte

	mu    sync.Mutex // guards what follows
	next  *act       // what upstream does with the next body; nil: nothing
	lied  bool
	wrong error
	all   sync.WaitGroup
}

func lived(t *testing.T, dir string, data []byte, streams int, acts []act) error {
	l := &life{from: newOrigin(), data: data, rig: open(t, Options{Dir: dir})}
	l.d = l.from.put(data)
	l.from.blob = l.body
	repo := l.from.repo("a")
	repo.Policy = &Policy{MaxStreams: streams}
	for i := range acts {
		l.do(repo, &acts[i])
		<-time.After(acts[i].wait)
	}
	l.all.Wait()
	l.mu.Lock()
	l.next = nil
	l.mu.Unlock()
	l.from.mu.Lock()
	l.from.sick = false
	l.from.mu.Unlock()
	for tries := 0; ; tries++ { // a lie may lie on disk, and is found out when all is there
		got, _, err := l.get(repo, l.d)
		if err == nil && bytes.Equal(got, data) {
			break
		}
		if err == nil || tries == 3 {
			return errors.Join(l.wrong, fmt.Errorf("in the end: %d bytes, %w", len(got), err))
		}
		<-time.After(time.Minute) // what was refused is remembered for a while
	}
	l.idle()
	l.want(repo, l.d, OutcomeHit)
	l.account()
	l.close()
	return l.wrong
}

func (l *life) do(repo *Repository, d *act) {
	switch d.kind {
	case "part", "open", "whole":
		l.all.Go(func() { l.read(repo, d) })
	case "sick", "well":
		sick := d.kind == "sick"
		l.from.mu.Lock()
		l.from.sick = sick
		l.from.mu.Unlock()
		l.mu.Lock()
		l.next = nil
		if sick {
			l.next = d
		}
		l.mu.Unlock()
	case "restart":
		l.all.Wait()
		l.close()
		l.rig = open(l.t, Options{Dir: l.rig.o.Dir})
	default:
		l.mu.Lock()
		l.next = d
		l.mu.Unlock()
	}
}

// body is what upstream answers with.
func (l *life) body(_ int, _ oci.Digest, off, end int64) (*Body, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	size := int64(len(l.data))
	whole := off == 0 && end < 0
	if end < 0 || end > size {
		end = size
	}
	if off >= size {
		return nil, fmt.Errorf("416: %w", oci.ErrCorrupt)
	}
	b := &Body{Size: size, Offset: off, Whole: whole, Host: "h"}
	bytes, cut := l.data[off:end], step{}
	if d := l.next; d != nil {
		switch d.kind {
		case "sick":
			return nil, oci.ErrUnavailable
		case "ignores":
			b.Offset, b.Whole, bytes = 0, true, l.data
		case "resized":
			b.Size++
		case "cut":
			bytes, cut.err = bytes[:min(d.at, int64(len(bytes)))], errReset
		case "wrong":
			l.lied = true
			bytes = append([]byte(nil), bytes...)
			bytes[d.at%int64(len(bytes))] ^= 1
		}
		l.next = nil
	}
	b.ReadCloser = &script{steps: []step{{data: bytes}, cut}}
	return b, nil
}

// read reads what is asked for, or a part of it, and compares.
func (l *life) read(repo *Repository, d *act) {
	ctx, leave := context.WithCancel(context.Background())
	defer leave()
	c, err := l.Blob(ctx, repo, l.d, d.asks...)
	if err != nil {
		return
	}
	defer c.Close()
	asks := d.asks
	if asks == nil {
		asks = []Range{{Off: 0, End: -1}}
	}
	for _, a := range asks {
		off, end := a.Off, a.End
		if off < 0 {
			off += c.Size
		}
		if end < 0 || end > c.Size {
			end = c.Size
		}
		if off >= end {
			return
		}
		if err := l.compare(c, off, end, d.take); err != nil {
			return
		}
	}
}

// compare reads bytes [off, end) and notes if they are not the blob's.
func (l *life) compare(c *Content, off, end, take int64) error {
	var from io.ReadSeeker = bytes.NewReader(c.Bytes)
	if c.Reader != nil {
		from = c.Reader
	}
	if _, err := from.Seek(off, io.SeekStart); err != nil {
		return err
	}
	stop := end
	if take > 0 {
		stop = min(end, off+take)
	}
	got := make([]byte, min(stop, int64(len(l.data)))-off)
	n, err := io.ReadFull(from, got)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch right := bytes.Equal(got[:n], l.data[off:off+int64(n)]); {
	case right:
	case !l.lied:
		l.wrong = fmt.Errorf("wrong bytes in [%d, %d)", off, off+int64(n))
	case err == nil && off == 0 && stop == int64(len(l.data)):
		l.wrong = errors.New("a whole answer of wrong bytes")
	}
	return err
}
