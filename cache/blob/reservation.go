package blob

import "context"

// Reservation is space promised to one fill and to nobody else. It is ended by
// the Ingest it was given to, or by Release. Its methods may be called
// concurrently.
type Reservation struct {
	ledger *ledger

	// guarded by ledger.mu
	reserved int64 // bytes of the ledger's reserved that are ours
	content  int64 // bytes of content they are good for
	written  int64 // of content, already on disk
	ended    bool
}

// Reserve promises room for n bytes of content. It waits at most 200 ms for the
// evictor, in order of arrival, then, or at once if n could never fit, the
// error is ErrNoSpace. The end of ctx is an error of its own.
func (s *Store) Reserve(ctx context.Context, n int64) (*Reservation, error) {
	if err := s.ledger.reserve(ctx, need(n)+folderShare); err != nil {
		return nil, err
	}
	return &Reservation{ledger: s.ledger, reserved: need(n) + folderShare, content: max(n, 0)}, nil
}

// Grow promises room for n more bytes, as Reserve does.
func (r *Reservation) Grow(ctx context.Context, n int64) error {
	l, more := r.ledger, need(n)
	if err := l.reserve(ctx, more); err != nil {
		return err
	}
	l.mu.Lock()
	if r.ended { // released while it waited
		l.reserved -= more
		l.mu.Unlock()
		l.admit()
		return nil
	}
	r.reserved += more
	r.content += n
	l.mu.Unlock()
	return nil
}

// Release gives back what is promised. Further calls do nothing.
func (r *Reservation) Release() { r.end(0) }

// end turns the reservation into used bytes that lie on the disk.
func (r *Reservation) end(used int64) {
	l := r.ledger
	l.mu.Lock()
	if r.ended {
		l.mu.Unlock()
		return
	}
	r.ended = true
	l.reserved -= r.reserved
	l.written -= r.written
	l.used += used
	over := l.overLocked() > 0
	l.mu.Unlock()
	l.admit()
	if over {
		l.poke()
	}
}

// room tells how many bytes of content may still be written.
func (r *Reservation) room() int64 {
	r.ledger.mu.Lock()
	defer r.ledger.mu.Unlock()
	return r.content - r.written
}

// missing tells how much more is to be reserved for so many bytes of content.
func (r *Reservation) missing(bytes int64) int64 {
	r.ledger.mu.Lock()
	defer r.ledger.mu.Unlock()
	return bytes - r.content
}

// wrote notes n bytes of content as being on disk.
func (r *Reservation) wrote(n int64) {
	r.ledger.mu.Lock()
	r.written += n
	r.ledger.written += n
	r.ledger.consumed += n
	r.ledger.mu.Unlock()
}

// absorb takes over a file with size bytes of content that lies on the disk
// already, used of its allocated bytes having been counted so far.
func (r *Reservation) absorb(size, allocated, used int64) {
	l := r.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	r.reserved += allocated
	r.content += size
	r.written += size
	l.reserved += allocated
	l.written += size
	l.used -= used
}
