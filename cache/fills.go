package cache

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"time"
)

// FillInfo is a fill at one moment.
type FillInfo struct {
	Digest     string  `json:"digest"`
	Upstream   string  `json:"upstream"`
	Repository string  `json:"repository"` // of the upstream, on whose word it is fetched
	Size       int64   `json:"size"`       // -1: not known
	OnDisk     int64   `json:"on_disk"`    // bytes that are there; of a small blob they are in memory
	Extents    int     `json:"extents"`    // ranges that these bytes are
	Streams    int     `json:"streams"`    // from upstream, those that are being opened included
	Readers    int     `json:"readers"`
	Rate       int64   `json:"rate"`   // bytes a second from upstream, over the last second or so
	Age        float64 `json:"age"`    // seconds
	Origin     string  `json:"origin"` // the host that began to send last; "": not known
	Whole      bool    `json:"whole"`  // somebody has asked for all of it
}

// Fills lists what is on its way, the oldest first.
func (c *Cache) Fills() []FillInfo {
	now := time.Now()
	all := []FillInfo{} // [] rather than null for readers of the JSON
	for _, f := range c.flights.All() {
		all = append(all, f.info(now))
	}
	slices.SortFunc(all, func(a, b FillInfo) int {
		return cmp.Or(cmp.Compare(b.Age, a.Age), strings.Compare(a.Digest, b.Digest))
	})
	return all
}

func (f *fill) info(now time.Time) FillInfo {
	s := f.Snapshot()
	i := FillInfo{
		Digest: f.digest.String(), Upstream: f.repo.Upstream, Repository: f.repo.Name,
		Size: s.Size, OnDisk: s.Bytes, Extents: s.Extents, Readers: s.Readers, Whole: s.Whole,
		Age: max(0, now.Sub(f.began)).Round(time.Millisecond).Seconds(),
	}
	f.supply.mu.Lock()
	defer f.supply.mu.Unlock()
	i.Streams, i.Origin, i.Rate = f.supply.streams, f.supply.host, f.supply.rate.at(now)
	return i
}

// supply is what is to be seen of the streams that bring a fill.
type supply struct {
	mu      sync.Mutex // guards all below
	streams int
	host    string // that began to send last
	rate    rate
}

// begins notes one more stream.
func (s *supply) begins() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams++
}

// ends notes one less.
func (s *supply) ends() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams--
}

// from notes who sends.
func (s *supply) from(host string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.host = host
}

// got notes bytes.
func (s *supply) got(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rate.add(int64(n), time.Now())
}

const (
	// rateOver is what a rate is a mean of.
	rateOver = time.Second
	// rateLeast is how long it takes at the least until there is one: the first
	// bytes come all at once.
	rateLeast = 100 * time.Millisecond
)

// rate tells how many bytes a second come: those of the running second, and of the
// one before as much as it takes for a whole one.
type rate struct {
	first       time.Time // when the first bytes came; zero: none did
	began       time.Time // of the running second
	now, before int64     // bytes in it, and in the one before
}

// roll begins a new second if the running one is over.
func (r *rate) roll(t time.Time) {
	switch past := t.Sub(r.began); {
	case past < rateOver:
	case past < 2*rateOver:
		r.began, r.before, r.now = r.began.Add(rateOver), r.now, 0
	default:
		r.began, r.before, r.now = t, 0, 0
	}
}

func (r *rate) add(n int64, t time.Time) {
	if r.first.IsZero() {
		r.first, r.began = t, t
	}
	r.roll(t)
	r.now += n
}

// at is the rate at a moment, in bytes a second.
func (r *rate) at(t time.Time) int64 {
	if r.first.IsZero() {
		return 0
	}
	r.roll(t)
	over := max(rateLeast, min(rateOver, t.Sub(r.first)))
	left := 1 - float64(max(0, t.Sub(r.began)))/float64(rateOver)
	return int64((float64(r.now) + float64(r.before)*left) / over.Seconds())
}
