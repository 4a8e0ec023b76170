package cache

import (
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"cistern/cache/index"
	"cistern/internal/oci"
)

const (
	// scrubEvery is how long after its beginning all blobs are hashed again.
	scrubEvery = 7 * 24 * time.Hour
	// scrubQuiet is how long nobody must have asked for anything.
	scrubQuiet = 5 * time.Second
	// scrubSave is how often it is recorded how far it has come.
	scrubSave = time.Minute
	// scrubRest is the pause after what cannot go on, as on a disk that gives nothing.
	scrubRest = time.Hour
	// examPage is how many records are read at a time.
	examPage = 256
	// examCost is what a blob costs beside its bytes, in bytes.
	examCost = 64 << 10
)

// scrubbed is how far the looking at all blobs has come.
type scrubbed struct {
	bytes     atomic.Uint64 // that were hashed, by scrub and Verify
	used      atomic.Int64  // when somebody last asked for what is here, Unix seconds
	verifying atomic.Bool   // there is one Verify, and no scrub beside it

	mu sync.Mutex  // guards at
	at index.Scrub // see scrubber
}

// Scrub says how far it has come.
type Scrub struct {
	Bytes   uint64    // hashed since the start, also to verify them
	Running bool      // it is under way, though it may wait for a quiet moment
	Done    float64   // of 1
	Ended   time.Time // of the last time that all was hashed; zero: never
}

// progress is how far it has come. Digests are spread evenly: how far the last one lies
// behind the first tells it.
func (s *scrubbed) progress() Scrub {
	s.mu.Lock()
	at := s.at
	s.mu.Unlock()
	p := Scrub{Bytes: s.bytes.Load(), Running: running(at), Ended: at.Ended}
	if !at.Last.IsZero() {
		n, _ := strconv.ParseUint(at.Last.Hex()[:4], 16, 16)
		p.Done = float64(n) / (1 << 16)
	}
	return p
}

func running(at index.Scrub) bool { return at.Began.After(at.Ended) }

// active tells whether anybody is served, or was a moment ago.
func (c *Cache) active() bool {
	return c.store.Opened() || len(c.flights.All()) > 0 || c.rebuild.on.Load() ||
		time.Since(time.Unix(c.scrubbed.used.Load(), 0)) < scrubQuiet
}

// scrubber hashes all blobs, slowly, and again a week later.
type scrubber struct {
	c       *Cache
	page    []index.Record // that come next
	exam    *exam          // of the one that is looked at; nil: none
	damages damages
	saved   time.Time
}

// scrub hashes blobs while nobody is served, until the cache closes.
func (c *Cache) scrub() {
	defer c.loops.Done()
	s := scrubber{c: c, saved: time.Now()}
	at, err := c.idx.Load().Scrub()
	if err != nil {
		c.indexFailed(err)
	}
	s.set(at)
	t := time.NewTimer(scrubQuiet)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			t.Reset(s.turn())
		case <-c.stop:
			s.save()
			return
		}
	}
}

func (s *scrubber) at() index.Scrub {
	s.c.scrubbed.mu.Lock()
	defer s.c.scrubbed.mu.Unlock()
	return s.c.scrubbed.at
}

func (s *scrubber) set(at index.Scrub) {
	s.c.scrubbed.mu.Lock()
	defer s.c.scrubbed.mu.Unlock()
	s.c.scrubbed.at = at
}

// turn reads one span, and tells how long to wait then.
func (s *scrubber) turn() (wait time.Duration) {
	c := s.c
	defer func() {
		if p := recover(); p != nil {
			c.panicked("a scrub", p)
			s.exam, wait = nil, scrubRest
		}
	}()
	if c.scrubbed.verifying.Load() || c.active() {
		return scrubQuiet
	}
	c.locateSome()
	if s.exam == nil && !s.next() {
		return scrubSave
	}
	buf := c.spans.Get().(*[span]byte)
	defer c.spans.Put(buf)
	began := time.Now()
	n, over, bad := c.step(s.exam, buf[:])
	c.scrubbed.bytes.Add(uint64(n))
	cost := int64(n)
	if over {
		cost += examCost
		if s.ended(bad) {
			c.log.Error("no more blobs are hashed for now", zap.Duration("for", scrubRest), zap.Error(errDeadDisk))
			return scrubRest
		}
	} else if n == 0 {
		return scrubQuiet // no descriptor at the moment
	}
	return max(0, time.Duration(float64(cost)/float64(c.o.ScrubRate)*float64(time.Second))-time.Since(began))
}

// ended takes the result for the blob that was looked at. dead: the disk gives nothing.
func (s *scrubber) ended(bad *flaw) (dead bool) {
	rec := s.exam.rec
	s.exam = nil
	sure, dead := s.damages.add(rec, bad)
	for _, v := range sure {
		s.c.spoil(v.rec, v.flaw)
	}
	if len(s.damages.held) > 0 {
		return dead // these come again after a restart
	}
	at := s.at()
	at.Last = rec.Digest
	s.set(at)
	if time.Since(s.saved) > scrubSave {
		s.save()
	}
	return dead
}

// next takes up the next blob; false if there is none at the moment.
func (s *scrubber) next() bool {
	c, at, now := s.c, s.at(), time.Now()
	if !running(at) {
		if age := now.Sub(at.Began); age >= 0 && age < scrubEvery && !at.Began.IsZero() {
			return false
		}
		s.set(index.Scrub{Began: now, Ended: minTime(at.Ended, now)})
		s.page = nil
		s.save()
	}
	if len(s.page) == 0 {
		page, err := c.idx.Load().After(s.last(), examPage)
		if err != nil {
			c.indexFailed(err)
			return false
		}
		s.page = page
	}
	if len(s.page) == 0 {
		for _, v := range s.damages.rest() {
			c.spoil(v.rec, v.flaw)
		}
		at := s.at()
		s.set(index.Scrub{Began: at.Began, Ended: now})
		s.save()
		c.log.Info("all blobs were hashed again", zap.Time("began", at.Began))
		return false
	}
	s.exam, s.page = newExam(s.page[0]), s.page[1:]
	return true
}

// last is the last one that was looked at.
func (s *scrubber) last() oci.Digest {
	if n := len(s.damages.held); n > 0 {
		return s.damages.held[n-1].rec.Digest
	}
	return s.at().Last
}

// minTime is the earlier one: the clock may have been set back.
func minTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b.Add(-1)
}

// save records how far it has come: a restart goes on there.
func (s *scrubber) save() {
	s.saved = time.Now()
	if err := s.c.idx.Load().SetScrub(s.at()); err != nil {
		s.c.indexFailed(err)
	}
}
