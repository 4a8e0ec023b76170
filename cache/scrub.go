package cache

import (
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"cistern/cache/index"
)

const (
	// scrubEvery is how long after its beginning all blobs are hashed again.
	scrubEvery = 7 * 24 * time.Hour
	// scrubQuiet is how long nobody must have asked for anything.
	scrubQuiet = 5 * time.Second
	// scrubSave is how often it is recorded how far it has come.
	scrubSave = time.Minute
	// scrubRest is the pause on a disk that gives nothing.
	scrubRest = time.Hour
	// scrubAgain is when that is looked at again which could not be, and all behind it.
	scrubAgain = 24 * time.Hour
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
	return c.store.Opened() || len(c.flights.All()) > 0 || c.rebuild.on.Load() || c.servedWithin(scrubQuiet)
}

// servedWithin tells whether anybody has asked for anything cached so lately.
func (c *Cache) servedWithin(d time.Duration) bool {
	ago := time.Since(time.Unix(c.scrubbed.used.Load(), 0)) // negative, if the clock was set back: nobody knows
	return ago >= 0 && ago < d
}

// scrubber hashes all blobs, slowly, and again a week later.
type scrubber struct {
	c     *Cache
	walk  *walk // nil: none is under way
	exam  *exam // of the one that is looked at; nil: none
	saved time.Time

	comparison *comparison // comes before the exam; nil: none
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
			wait = scrubRest
			if s.exam != nil && s.walk != nil {
				s.stumbled(p)
				wait = scrubQuiet
			}
		}
	}()
	if c.scrubbed.verifying.Load() || c.active() {
		return scrubQuiet
	}
	began := time.Now()
	if n, did := s.locate(); did {
		return s.rest(n, began)
	}
	if s.exam == nil {
		if wait := s.next(); s.exam == nil {
			return wait
		}
	}
	buf := c.spans.Get().(*[span]byte)
	defer c.spans.Put(buf)
	n, over, bad := c.step(s.exam, buf[:])
	c.scrubbed.bytes.Add(uint64(n))
	cost := int64(n)
	switch {
	case over:
		cost += examCost
		s.ended(bad)
	case n == 0:
		return scrubQuiet // no descriptor at the moment
	}
	return s.rest(cost, began)
}

// rest is how long to wait after so many bytes.
func (s *scrubber) rest(n int64, began time.Time) time.Duration {
	return max(0, time.Duration(float64(n)/float64(s.c.o.ScrubRate)*float64(time.Second))-time.Since(began))
}

// locate looks on where a blob was wrong that is here again, and tells how much it has
// read; false if there is none.
func (s *scrubber) locate() (n int64, did bool) {
	c := s.c
	if s.comparison == nil {
		if s.comparison, did = c.toCompare(); !did {
			return 0, false
		}
	}
	a, b := c.spans.Get().(*[span]byte), c.spans.Get().(*[span]byte)
	defer c.spans.Put(a)
	defer c.spans.Put(b)
	m := s.comparison
	s.comparison = nil // not for ever, if it panics
	some, over, at := c.compare(m, a[:], b[:])
	switch {
	case !over:
		s.comparison = m
	case at >= 0:
		c.log.Info("a damaged blob is here again, and tells what was wrong", zap.Stringer("digest", m.d), zap.Int64("first_bad_offset", at))
	}
	return int64(some) + examCost, true
}

// stumbled goes on behind a blob at which it panicked: it would again.
func (s *scrubber) stumbled(p any) {
	e := s.exam
	s.exam = nil
	s.walk.skipped(fmt.Errorf("%s: panic: %v", e.rec.Digest, p))
	if e.second && len(s.walk.again) > 0 && s.walk.again[0].rec.Digest == e.rec.Digest {
		s.walk.again = s.walk.again[1:]
	}
}

// ended takes the result for the blob that was looked at.
func (s *scrubber) ended(bad *flaw) {
	e := s.exam
	for _, d := range s.walk.took(e, bad) {
		s.c.spoil(d.rec, d.flaw)
	}
	s.exam = nil
	if !s.walk.settled() {
		return // from there it goes on after a restart, or another day
	}
	at := s.at()
	at.Last = s.walk.last
	s.set(at)
	if time.Since(s.saved) > scrubSave {
		s.save()
	}
}

// next takes up the next blob. If there is none at the moment it tells how long to wait.
func (s *scrubber) next() (wait time.Duration) {
	c, at, now := s.c, s.at(), time.Now()
	if !running(at) {
		if age := now.Sub(at.Began); age >= 0 && age < scrubEvery && !at.Began.IsZero() {
			return scrubSave
		}
		at = index.Scrub{Began: now, Ended: minTime(at.Ended, now)}
		s.set(at)
		s.save()
	}
	if s.walk == nil {
		s.walk = &walk{c: c, last: at.Last}
	}
	e, err := s.walk.next()
	if err != nil {
		c.indexFailed(err)
		return scrubSave
	}
	if e != nil {
		s.exam = e
		return 0
	}
	w := s.walk
	s.walk = nil
	if w.err != nil {
		wait = scrubAgain
		if w.stopped || w.good == nil {
			wait = scrubRest
		}
		s.save()
		c.log.Error("a scrub could not look at all blobs: it goes on later where the first one is", zap.Duration("in", wait), zap.Error(w.err))
		return wait
	}
	s.set(index.Scrub{Began: at.Began, Ended: now})
	s.save()
	c.log.Info("all blobs were hashed again", zap.Time("began", at.Began))
	return scrubSave
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
