package load

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"sync/atomic"
	"syscall"
	"time"
)

// Sink says what becomes of a body.
type Sink struct {
	// Truncate drops the bytes in the kernel (recv with MSG_TRUNC), so that the
	// reader costs next to nothing; the bytes cannot be checked then. Otherwise
	// they are copied to a buffer of 256 KiB, as every real client does.
	Truncate bool
	// CRC and SHA256 compute those of the body.
	CRC, SHA256 bool
	// Rate is how fast to read, in bytes a second; 0 = as fast as it goes.
	Rate int64
	// Stop ends reading after so many bytes; 0 = at the end.
	Stop int64
	// To, when set, gets a copy of the body.
	To io.Writer
	// First, when set, is called when the first byte is there.
	First func()
	// Progress, when set, is increased as bytes arrive.
	Progress *atomic.Int64
}

// Got is what came of a body.
type Got struct {
	Bytes int64
	// First is when the first byte of the body was read; zero when there was none.
	First time.Time
	// Last is when reading ended.
	Last   time.Time
	CRC    uint32
	SHA256 string // "sha256:<hex>"
}

const (
	readBuffer = 256 << 10
	// slowRead is the piece that a reader with a rate takes at a time.
	slowRead = 16 << 10
	// truncateRead is how much one recv may drop.
	truncateRead = 4 << 20
)

// Drain reads a body to its end, or as far as the sink says. A body shorter than
// its announced length is [io.ErrUnexpectedEOF]. After an error, or a stop before
// the end, the connection is closed.
func (c *Client) Drain(ctx context.Context, r *Response, s Sink) (Got, error) {
	stop := r.conn.watch(ctx)
	defer stop()
	d := drain{Sink: s, r: r, want: r.Length}
	if s.Stop > 0 && (r.Length < 0 || s.Stop < r.Length) {
		d.want, r.closes = s.Stop, true
	}
	err := d.run(ctx)
	d.got.Last = time.Now()
	if d.sum != nil {
		d.got.SHA256 = "sha256:" + hex.EncodeToString(d.sum.Sum(nil))
	}
	if err == nil {
		err = c.finish(r)
	}
	if err != nil {
		r.closes = true
		return d.got, errors.Join(err, ctx.Err(), c.finish(r))
	}
	return d.got, nil
}

type drain struct {
	Sink
	r    *Response
	want int64 // -1: to the end
	got  Got
	sum  hash.Hash
}

func (d *drain) run(ctx context.Context) error {
	if d.want == 0 || d.r.none {
		return nil
	}
	if d.SHA256 {
		d.sum = sha256.New()
	}
	if d.Truncate && d.r.body == nil {
		return d.truncate()
	}
	src := d.r.body
	if src == nil {
		src = &buffered{d.r.conn}
	}
	size := readBuffer
	if d.Rate > 0 {
		size = slowRead
	}
	buf, start := make([]byte, size), time.Now()
	for d.want < 0 || d.got.Bytes < d.want {
		p := buf
		if d.want >= 0 {
			p = buf[:min(int64(size), d.want-d.got.Bytes)]
		}
		n, err := src.Read(p)
		if err := d.took(p[:n]); err != nil {
			return err
		}
		if errors.Is(err, io.EOF) {
			if d.want < 0 {
				return nil
			}
			return io.ErrUnexpectedEOF
		}
		if err != nil {
			return fmt.Errorf("reading the body: %w", err)
		}
		if err := d.pace(ctx, start); err != nil {
			return err
		}
	}
	return nil
}

func (d *drain) took(p []byte) error {
	d.count(len(p))
	if d.CRC {
		d.got.CRC = crc32.Update(d.got.CRC, castagnoli(), p)
	}
	if d.sum != nil {
		d.sum.Write(p)
	}
	if d.To == nil {
		return nil
	}
	if _, err := d.To.Write(p); err != nil {
		return fmt.Errorf("storing the body: %w", err)
	}
	return nil
}

// castagnoli returns the table that crc32 computes in hardware; MakeTable knows it.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

func (d *drain) count(n int) {
	if n > 0 && d.got.First.IsZero() {
		d.got.First = time.Now()
		if d.Sink.First != nil {
			d.Sink.First()
		}
	}
	d.got.Bytes += int64(n)
	if d.Progress != nil {
		d.Progress.Add(int64(n))
	}
}

func (d *drain) pace(ctx context.Context, start time.Time) error {
	if d.Rate <= 0 {
		return nil
	}
	due := start.Add(time.Duration(float64(d.got.Bytes) / float64(d.Rate) * float64(time.Second)))
	t := time.NewTimer(time.Until(due))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// truncate has the kernel drop the body.
func (d *drain) truncate() error {
	ahead := int(min(int64(d.r.conn.br.Buffered()), d.want))
	if _, err := d.r.conn.br.Discard(ahead); err != nil {
		return fmt.Errorf("reading the body: %w", err)
	}
	d.count(ahead)
	raw, err := d.r.conn.tcp.SyscallConn()
	if err != nil {
		return fmt.Errorf("reading the body: %w", err)
	}
	for d.got.Bytes < d.want {
		var n int
		var rerr error
		err := raw.Read(func(fd uintptr) bool {
			n, rerr = recvTruncate(int(fd), int(min(d.want-d.got.Bytes, truncateRead)))
			return rerr != syscall.EAGAIN
		})
		if err := errors.Join(err, rerr); err != nil {
			return fmt.Errorf("reading the body: %w", err)
		}
		if n == 0 {
			return io.ErrUnexpectedEOF
		}
		d.count(n)
	}
	return nil
}

// buffered reads what was read ahead, then straight from the socket: a
// bufio.Reader does so for large buffers, but only when it is empty.
type buffered struct{ c *conn }

func (b *buffered) Read(p []byte) (int, error) {
	if b.c.br.Buffered() > 0 {
		return b.c.br.Read(p)
	}
	return b.c.tcp.Read(p)
}

// Skip drops a body of known length without looking at it or allocating: for
// small answers at high rates. Other bodies are drained.
func (c *Client) Skip(ctx context.Context, r *Response) error {
	if r.body != nil {
		_, err := c.Drain(ctx, r, Sink{})
		return err
	}
	stop := r.conn.watch(ctx)
	defer stop()
	if _, err := r.conn.br.Discard(int(r.Length)); err != nil {
		return errors.Join(fmt.Errorf("reading the body: %w", err), ctx.Err())
	}
	return c.finish(r)
}
