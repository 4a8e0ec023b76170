package blob

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"cistern/internal/durable"
)

const (
	// roomPatience is how long a reservation waits for the evictor: longer and
	// a client would notice, shorter and a healthy evictor (a thousand unlinks
	// take some 20 ms) would not have had its chance.
	roomPatience = 200 * time.Millisecond
	// folderShare is reserved with each fill for the folders it may make or
	// grow by a block, one in fills/ and one in blobs/.
	folderShare = 2 * 4096
	// maxFolders bounds foldersFor.
	maxFolders = 2 << 20
	// maxMapped is how much of one file a kernel that writes it out on its own
	// allocates at a time: 2,048 blocks on ext4.
	maxMapped = 8 << 20
	mib       = 1 << 20
)

// foldersFor is kept free below the cap for folders that grow between two looks
// at them (Sync looks): they are the only bytes not reserved before they are
// written.
func foldersFor(limit int64) int64 { return min(maxFolders, limit/50) }

// highFor is the watermark above which the evictor is wanted, slack included.
func highFor(limit int64) int64 {
	return limit - min(max(limit/100, 64*mib), limit/20)
}

// sample is the file system's free space at a moment, with the ledger's count
// of bytes written up to then: what was written since is subtracted, so that a
// storm of reservations cannot spend the same free space twice.
type sample struct {
	size, free int64
	consumed   int64
}

// ledger is the account of space. At every moment, for a limit above 0,
//
//	used + reserved + slack <= limit
//
// holds after an admission, and used + reserved <= limit always: bytes enter
// by a reservation, and a commit turns at most what was reserved into used.
// What slack is for: slackLocked.
//
// Space is promised by this account alone, not by fallocate: that gained
// nothing measurable for 64 KiB or 256 MiB, synced or not, and would make an
// unfinished fill take its whole size on disk.
//
// The file system is asked at every admission, outside the lock (fstatfs takes
// 1.2 us, a fill some hundred): no cached answer, since other programs write too.
type ledger struct {
	limit    int64 // 0: none
	floor    func(size int64) int64
	statfs   func() (size, free int64, err error)
	pressure chan struct{} // capacity 1

	mu          sync.Mutex // guards what follows; no call leaves the ledger under it
	used        int64      // allocated bytes of all that is no reservation
	fixed       int64      // of used: what eviction cannot give back
	evictedOpen int64      // of used: unlinked, still open
	reserved    int64      // of open reservations, written or not
	written     int64      // of reserved: already on disk
	consumed    int64      // bytes ever written, for samples
	widest      int64      // largest file ever promised, at most maxMapped
	waiting     []*waiter  // in order of arrival
}

type waiter struct {
	need    int64
	granted chan struct{} // closed under mu once need is reserved
}

func newLedger(limit int64, floor func(int64) int64, statfs func() (int64, int64, error)) *ledger {
	if floor == nil {
		floor = func(int64) int64 { return 0 }
	}
	return &ledger{limit: limit, floor: floor, statfs: statfs, pressure: make(chan struct{}, 1)}
}

func (l *ledger) sample() (sample, error) {
	l.mu.Lock()
	consumed := l.consumed // before asking: what is written meanwhile counts twice, not never
	l.mu.Unlock()
	size, free, err := l.statfs()
	if err != nil {
		return sample{}, diskError("ask for free space", err)
	}
	return sample{size, free, consumed}, nil
}

// reserve admits need bytes, waiting for the evictor if it must.
func (l *ledger) reserve(ctx context.Context, need int64) error {
	s, err := l.sample()
	if err != nil {
		return err
	}
	l.mu.Lock()
	if most := l.limit - l.slackLocked(need) - l.fixed; l.limit > 0 && need > most {
		l.mu.Unlock()
		return fmt.Errorf("reserve %d bytes in a cache that can hold %d: %w", need, max(most, 0), ErrNoSpace)
	}
	if len(l.waiting) == 0 && l.fitsLocked(s, need) {
		l.promiseLocked(need)
		over := l.overLocked() > 0
		l.mu.Unlock()
		if over {
			l.poke()
		}
		return nil
	}
	w := &waiter{need, make(chan struct{})}
	l.waiting = append(l.waiting, w)
	l.mu.Unlock()
	l.poke()
	return l.await(ctx, w)
}

func (l *ledger) await(ctx context.Context, w *waiter) error {
	patience := time.NewTimer(roomPatience)
	defer patience.Stop()
	var err error
	select {
	case <-w.granted:
		return nil
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-patience.C:
		l.admit() // other programs free space too, and tell nobody
		err = fmt.Errorf("reserve %d bytes: %w within %v", w.need, ErrNoSpace, roomPatience)
	}
	l.mu.Lock()
	i := slices.Index(l.waiting, w)
	if i >= 0 {
		l.waiting = slices.Delete(l.waiting, i, i+1)
	}
	l.mu.Unlock()
	if i < 0 { // granted in the meantime: take it, the caller decides
		return nil
	}
	l.admit() // the next may be smaller
	return err
}

// admit grants waiters, in order, what there is room for. It is called, without
// the lock, whenever room may have appeared.
func (l *ledger) admit() {
	l.mu.Lock()
	idle := len(l.waiting) == 0
	l.mu.Unlock()
	if idle {
		return
	}
	s, err := l.sample()
	if err != nil {
		return // they time out, and say that there was no room
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.waiting) > 0 && l.fitsLocked(s, l.waiting[0].need) {
		l.promiseLocked(l.waiting[0].need)
		close(l.waiting[0].granted)
		l.waiting = slices.Delete(l.waiting, 0, 1)
	}
}

func (l *ledger) fitsLocked(s sample, need int64) bool {
	if l.limit > 0 && l.used+l.reserved+need+l.slackLocked(need) > l.limit {
		return false
	}
	return l.freeLocked(s)-need >= l.floor(s.size)
}

// freeLocked is what the file system has left once all that is promised is written.
func (l *ledger) freeLocked(s sample) int64 {
	return s.free - (l.consumed - s.consumed) - (l.reserved - l.written)
}

// overLocked is by how much the cap's side of the account wants eviction: down
// to the high watermark by what is not already on its way out, and below the
// limit by everything.
func (l *ledger) overLocked() int64 {
	if l.limit == 0 {
		return 0
	}
	need, largest := l.waitingLocked()
	total := l.used + l.reserved + need + l.slackLocked(largest)
	return max(0, total-l.evictedOpen-highFor(l.limit), total-l.limit)
}

// slackLocked is what stays free below the cap, once need bytes more are
// promised, for bytes that the file system counts and nobody has reserved:
// folders, and blocks that ext4 counts twice while it allocates what it had
// delayed (decision 13). Sync has one thread at a time do that, durable.Step
// bytes of a file at most; the kernel's flusher may do it beside it, with
// maxMapped. Neither has more to do than the largest file is long: a small cache
// of small blobs gives little away.
func (l *ledger) slackLocked(need int64) int64 {
	widest := min(max(l.widest, need), maxMapped)
	return foldersFor(l.limit) + min(widest, durable.Step) + widest
}

// promiseLocked reserves need bytes.
func (l *ledger) promiseLocked(need int64) {
	l.reserved += need
	l.widest = min(max(l.widest, need), maxMapped)
}

// found notes a file of an earlier process, which may not be written out yet.
func (l *ledger) found(n int64) {
	l.mu.Lock()
	l.widest = min(max(l.widest, n), maxMapped)
	l.mu.Unlock()
}

func (l *ledger) waitingLocked() (need, largest int64) {
	for _, w := range l.waiting {
		need += w.need
		largest = max(largest, w.need)
	}
	return need, largest
}

func (l *ledger) wanted() int64 {
	s, err := l.sample()
	l.mu.Lock()
	defer l.mu.Unlock()
	over := l.overLocked()
	if err != nil {
		return over
	}
	need, _ := l.waitingLocked()
	return max(over, l.floor(s.size)+need-l.freeLocked(s)-l.evictedOpen)
}

func (l *ledger) poke() {
	select {
	case l.pressure <- struct{}{}:
	default:
	}
}

// addUsed changes the account of what is no reservation; fixed if eviction
// cannot give it back.
func (l *ledger) addUsed(delta int64, fixed bool) {
	l.mu.Lock()
	l.used += delta
	if fixed {
		l.fixed += delta
	}
	over := l.overLocked() > 0
	l.mu.Unlock()
	if over && delta > 0 {
		l.poke()
	}
	if delta < 0 {
		l.admit()
	}
}

// unlinked moves n used bytes to those that wait for their last reader.
func (l *ledger) unlinked(n int64) {
	l.mu.Lock()
	l.evictedOpen += n
	l.mu.Unlock()
}

// closed gives back n bytes whose last reader is gone.
func (l *ledger) closed(n int64) {
	l.mu.Lock()
	l.evictedOpen -= n
	l.used -= n
	l.mu.Unlock()
	l.admit()
}

// need is what content of that many bytes allocates at least.
func need(content int64) int64 { return durable.RoundUp(max(content, 0)) }
