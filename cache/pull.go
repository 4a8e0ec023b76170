package cache

import (
	"errors"
	"fmt"
	"io"
)

// What a stream's goroutine does for its fill.

const (
	// span is how much a fast stream reads at a time: a quarter of the system calls,
	// and of the handing over, are a seventh of what a large cold blob costs.
	span = 1 << 20
	// wide is how many full chunks make a stream a fast one.
	wide = 8
)

// pull does one job.
func (p *fetch) pull(j *job) error {
	small := p.c.chunks.Get().(*[chunk]byte)
	defer p.c.chunks.Put(small)
	buf := small[:]
	if j.s.body == nil {
		if err := j.s.reopen(); err != nil {
			return err
		}
		p.mu.Lock()
		p.meet(j.s)
		p.mu.Unlock()
		p.poke() // others may be waiting for that
	}
	for full, from := 0, j.s.body; ; {
		most := p.left(j)
		if j.at+most >= j.s.last() { // to its end, to see that nothing follows
			most = span
		}
		if most == 0 {
			return nil
		}
		n, err := j.s.Read(buf[:min(int64(len(buf)), most)])
		if j.s.body != from && j.s.body != nil { // it was opened again
			from = j.s.body
			p.f.supply.from(from.Host)
		}
		if n == len(buf) {
			full++
		}
		if full == wide && len(buf) == chunk {
			large := p.c.spans.Get().(*[span]byte)
			defer p.c.spans.Put(large)
			buf = append(large[:0], buf[:n]...)[:span]
		}
		if n > 0 {
			if err := p.write(j, buf[:n]); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return p.ends(j)
		case err != nil:
			return err
		}
	}
}

// ends judges the end of a stream: all that it was to bring, or, of a blob whose
// size was not known, all there is.
func (p *fetch) ends(j *job) error {
	if j.s.size < 0 {
		j.s.size = j.s.off
	}
	if left := p.left(j); j.s.off < j.s.size && left > 0 {
		return fmt.Errorf("a stream ended %d bytes early: %w", left, io.ErrUnexpectedEOF)
	}
	return nil
}

// left is how much of a job is to be fetched.
func (p *fetch) left(j *job) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(0, j.end-j.at)
}

// write takes what a stream brought, as far as it is still its to bring.
func (p *fetch) write(j *job, b []byte) error {
	p.c.got(p.f, len(b))
	p.mu.Lock()
	off := j.at
	b = b[:min(int64(len(b)), max(0, j.end-off))]
	j.at += int64(len(b))
	p.failures = 0
	pace := p.pace
	p.mu.Unlock()
	if len(b) == 0 {
		return nil
	}
	if pace != nil {
		pace.got(len(b))
	}
	err := p.c.onDisk(p.leave, func() error {
		_, err := p.in.WriteAt(b, off)
		return err
	})
	switch {
	case errors.Is(err, errStalled):
		p.c.diskFailed("writing a blob", err)
		return errUnbacked
	case err != nil:
		return p.unback(err)
	}
	p.sum.add(b, off)
	p.f.Add(off, off+int64(len(b)))
	if p.f.Bytes() >= p.saved.due.Load() {
		p.poke()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	j.there = off + int64(len(b))
	return nil
}

// meet learns who sends; mu is held.
func (p *fetch) meet(s *stream) {
	if s.body == nil {
		return
	}
	p.f.supply.from(s.body.Host)
	if p.pace == nil {
		p.pace = p.c.paces.of(p.f.repo.Upstream, s.body.Host)
		p.pace.joins()
		for _, j := range p.plan.jobs {
			p.counted(j)
		}
	}
	switch {
	case s.all:
		p.pace.refuses()
	case s.part:
		p.pace.gives()
	}
}

// unback has the readers go on without a disk that does not take it.
func (p *fetch) unback(err error) error {
	if err == nil {
		return nil
	}
	p.c.diskFailed("writing a blob", err)
	p.leave()
	return errUnbacked
}

// leave lets the readers go on without the disk.
func (p *fetch) leave() {
	h, at := p.sum.clone()
	p.c.unback(p.f, nil, h, at)
}
