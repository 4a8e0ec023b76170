package trace

import (
	"math"
	"math/rand/v2"
	"time"
)

// maker puts a trace together.
type maker struct {
	t     *Trace
	rng   *rand.Rand
	pulls int32
}

func newMaker(name string, seed uint64) *maker {
	m := &maker{t: &Trace{Name: name, Seed: seed}, rng: rand.New(rand.NewPCG(seed, 1))}
	m.object(Blob, emptyLayerSize)
	return m
}

func (m *maker) object(k Kind, size int64) int32 {
	m.t.Objects = append(m.t.Objects, Object{size, k})
	return int32(len(m.t.Objects) - 1)
}

// clients adds n clients and gives the first one's number.
func (m *maker) clients(name func(i int) string, n int) int32 {
	first := int32(len(m.t.Clients))
	for i := range n {
		m.t.Clients = append(m.t.Clients, name(i))
	}
	return first
}

// visit is one client's dealing with one tag.
type visit struct {
	at     time.Duration
	client int32
	repo   int
	tag    int
	scan   bool
}

// What a pull looks like: so many layers at a time, each after a round trip at the
// speed of a link.
const (
	layersAtOnce = 3
	roundTrip    = 20 * time.Millisecond
	linkSpeed    = 100e6 // bytes a second
)

func (m *maker) add(v visit, at time.Duration, object int32, tag int, head bool) {
	m.t.Requests = append(m.t.Requests, Request{
		At: at, Object: object, Client: v.client, Repo: int32(v.repo), Tag: int32(tag), Pull: m.pulls, Head: head, Scan: v.scan,
	})
}

// check asks whether a tag has moved, by HEAD or, as older clients do, by GET.
func (m *maker) check(v visit, im image, head bool) {
	m.pulls++
	m.add(v, v.at, None, ByDigest, false)
	m.add(v, v.at+roundTrip, im.top(), v.tag, head)
}

// top is what the tag names.
func (im image) top() int32 {
	if im.index != None {
		return im.index
	}
	return im.manifest
}

// pull asks for what of an image the client lacks, and gives when that is there.
func (m *maker) pull(v visit, im image, has func(object int32) bool) (done time.Duration) {
	m.pulls++
	at := v.at
	m.add(v, at, None, ByDigest, false)
	at += roundTrip
	m.add(v, at, im.top(), v.tag, true)
	if im.index != None {
		at += roundTrip
		m.add(v, at, im.index, ByDigest, false)
	}
	at += roundTrip
	m.add(v, at, im.manifest, ByDigest, false)
	var workers [layersAtOnce]time.Duration
	for i := range workers {
		workers[i] = at + roundTrip
	}
	for i, l := range append([]int32{im.config}, im.layers...) {
		if has != nil && has(l) || i > 0 && l == im.config {
			continue
		}
		w := 0
		for j := range workers {
			if workers[j] < workers[w] {
				w = j
			}
		}
		m.add(v, workers[w], l, ByDigest, false)
		workers[w] += roundTrip + time.Duration(float64(m.t.Objects[l].Size)/linkSpeed*float64(time.Second))
	}
	return max(workers[0], workers[1], workers[2])
}

// arrivals draws times from a Poisson process of that many an hour at its busiest,
// thinned by the hours of work, until the end. At a scale the days are shorter.
func (m *maker) arrivals(end time.Duration, perHour, scale float64, each func(time.Duration)) {
	for at := time.Duration(0); ; {
		at += time.Duration(m.rng.ExpFloat64() / perHour * float64(time.Hour))
		if at >= end {
			return
		}
		if m.rng.Float64() < workingHours(scaled(at, 1/scale)) {
			each(at)
		}
	}
}

const day = 24 * time.Hour

// workingHours is how busy a site is at a time of day: from 8 to 18 it works, at
// night it does 15 % of that.
func workingHours(at time.Duration) float64 {
	const night = 0.15
	hour := at.Hours() - 24*math.Floor(at.Hours()/24)
	rise := min(max((hour-7)/2, 0), 1)
	fall := min(max((19-hour)/2, 0), 1)
	return night + (1-night)*min(rise, fall)
}

// scaled is a length of time at a scale.
func scaled(d time.Duration, scale float64) time.Duration {
	return time.Duration(float64(d) * scale)
}
