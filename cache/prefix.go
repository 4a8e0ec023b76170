package cache

import (
	"hash"
	"io"
	"sync"

	"cistern/internal/oci"
)

// prefix is the hash of a blob's beginning, as far as it is there: whoever brings
// its next bytes has them hashed at once, and what was brought out of order is
// read again when its turn comes. Safe for concurrent use.
type prefix struct {
	d    oci.Digest
	mu   sync.Mutex
	hash hash.Hash
	at   int64
}

// add hashes bytes if they are the next ones.
func (p *prefix) add(b []byte, off int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if off == p.at {
		p.hash.Write(b)
		p.at += int64(len(b))
	}
}

// catchUp hashes bytes up to front, some of them at a time, and tells whether
// there are more. The lock is not held while the disk is waited for.
func (p *prefix) catchUp(r io.ReaderAt, front int64, buf []byte) (more bool, err error) {
	for range 16 {
		at := p.upto()
		if at >= front {
			return false, nil
		}
		n, err := r.ReadAt(buf[:min(int64(len(buf)), front-at)], at)
		p.add(buf[:n], at)
		if n == 0 {
			return false, err
		}
	}
	return true, nil
}

func (p *prefix) upto() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.at
}

func (p *prefix) matches() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.d.Matches(p.hash)
}

// clone gives a copy of the hash, nil if it cannot be copied, and up to where it
// goes.
func (p *prefix) clone() (hash.Hash, int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return cloneHash(p.hash), p.at
}
