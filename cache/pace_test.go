package cache

import (
	"testing"
	"time"
)

// line is a host that gives each connection so much, and all together so much.
type line struct{ each, all float64 }

// drive runs a pace on a link for a while, with fills of which each takes as many
// streams as it is told, and gives how many that is in the end.
func (l line) drive(p *pace, now time.Time, d time.Duration, fills, most int) (int, time.Time) {
	n, _ := p.streams(most)
	for range fills {
		p.joins()
		defer p.leaves()
	}
	for range n * fills {
		p.begins()
	}
	for end := now.Add(d); now.Before(end); now = now.Add(20 * time.Millisecond) {
		before := n
		n, _ = p.streams(most)
		for range fills * max(0, n-before) {
			p.begins()
		}
		for range fills * max(0, before-n) {
			p.ends()
		}
		p.got(int(min(l.all, l.each*float64(n*fills)) * 0.02))
		for range fills {
			p.look(now, n, most, 1<<40)
		}
	}
	for range n * fills {
		p.ends()
	}
	return n, now
}

// TestPace: as many streams as pay, and no more; what did not pay is not tried
// again at once, and what was learned is kept.
func TestPace(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]struct {
		line
		fills, most, want int
	}{
		"one is enough":              {line{20e6, 20e6}, 1, 8, 1},
		"four fill it":               {line{5e6, 20e6}, 1, 8, 4},
		"more would":                 {line{1e6, 20e6}, 1, 4, 4},
		"one is allowed":             {line{1e6, 20e6}, 1, 1, 1},
		"three fills":                {line{5e6, 20e6}, 3, 8, 2},
		"fills enough":               {line{5e6, 20e6}, 4, 8, 1},
		"many are allowed, two pay":  {line{10e6, 20e6}, 1, 64, 2},
		"an odd number is allowed":   {line{5e6, 20e6}, 1, 3, 3},
		"each as slow as a modem is": {line{7e3, 20e6}, 1, 8, 8},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPace()
			start := time.Now()
			n, now := s.drive(p, start, 10*time.Second, s.fills, s.most)
			if n != s.want {
				t.Errorf("%d streams, want %d", n, s.want)
			}
			trials := 0
			for before, _ := p.streams(s.most); now.Sub(start) < 25*time.Second; {
				n, now = s.drive(p, now, lookEvery, s.fills, s.most)
				if n > before {
					trials++
				}
				before = n
			}
			if trials > 0 {
				t.Errorf("%d trials within the time in which there is nothing new to learn", trials)
			}
		})
	}
}

// TestPaceShared: what pays is shared by the fills that come from a host, and what
// those that end have had the others get. One fill without work for more is no
// reason not to try more with another.
func TestPaceShared(t *testing.T) {
	t.Parallel()
	p, now := newPace(), time.Now()
	for range 3 {
		p.joins()
		p.begins()
	}
	for range 20 {
		now = now.Add(lookEvery)
		_, try := p.streams(4)
		if try {
			break
		}
		p.got(1_500_000)
		p.look(now, 1, 4, 0) // a small one
		p.look(now, 1, 4, 30_000_000)
	}
	if n, try := p.streams(4); n != 2 || !try || p.probable(4) != 1 {
		t.Fatalf("%d streams, a trial: %v, and %d for one more fill", n, try, p.probable(4))
	}
	p.begins() // the others have no use for it
	for range 3 {
		p.got(2_000_000)
		now = now.Add(lookEvery)
		p.look(now, 2, 4, 30_000_000)
	}
	if n, try := p.streams(8); n != 2 || try {
		t.Errorf("%d streams of three fills, a trial: %v", n, try)
	}
	p.leaves()
	p.leaves()
	if n, _ := p.streams(8); n != 4 {
		t.Errorf("%d streams of the one that is left", n)
	}
}

// TestPaceOfOthers: a rate that swings, or a fill that comes after a pause, is no
// reason to try more; a stream that fails beside others is one to take less; and a
// host without ranges gets one.
func TestPaceOfOthers(t *testing.T) {
	t.Parallel()
	p, now := newPace(), time.Now()
	for i := range 100 {
		p.got([]int{100_000, 300_000}[i%2])
		now = now.Add(lookEvery)
		p.look(now, 1, 8, 1<<40)
		if n, _ := p.streams(8); n != 1 {
			t.Fatalf("%d streams on a rate that swings", n)
		}
	}
	for range 20 {
		p.got(1_000_000)
		now = now.Add(time.Second)
		p.look(now, 1, 8, 1<<40)
		if n, _ := p.streams(8); n != 1 {
			t.Fatalf("%d streams on the first look after a pause", n)
		}
	}
	for range 20 {
		p.got(1_000_000)
		now = now.Add(lookEvery)
		p.look(now, 1, 8, 19_000_000)
		if n, _ := p.streams(8); n != 1 {
			t.Fatalf("%d streams for what comes within two seconds", n)
		}
	}
	n, now := line{1e6, 20e6}.drive(p, now.Add(time.Second), 5*time.Second, 1, 8)
	p.less(now)
	if less, try := p.streams(8); n != 8 || less != 4 || try {
		t.Errorf("%d streams, and after one failed %d", n, less)
	}
	p.refuses()
	if n, _ := (line{1e6, 20e6}).drive(p, now, time.Hour, 1, 8); n != 1 || p.ranges() {
		t.Errorf("%d streams of a host without ranges", n)
	}
}
