package flight

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"
)

// model is what a flight should be, without concurrency.
type model struct {
	state   state
	size    int64
	there   [64]bool
	content int64 // what will have come when it is done
	readers int
}

// end is how far the content goes on from off.
func (m *model) end(off int64) int64 {
	for m.there[off] {
		off++
	}
	return off
}

// limit is how far a reader may go that began at from and is at off.
func (m *model) limit(from, off int64) int64 {
	switch {
	case m.state == waiting || m.state == rejected:
		return 0
	case m.state == done:
		return m.end(off)
	case m.size < 0:
		return m.end(off) - 1
	case from == 0:
		return min(m.end(off), m.size-1)
	}
	return min(m.end(off), m.size)
}

// TestModel drives a flight at random and asks a reader at a random offset
// after each step.
func TestModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		content := rapid.Int64Range(0, 40).Draw(t, "content")
		size := content
		if rapid.Bool().Draw(t, "unknown") {
			size = -1
		}
		f, m := New(nil, nil), &model{size: -1, content: content}
		var joined []*Reader
		t.Repeat(map[string]func(*rapid.T){
			"open": func(*rapid.T) {
				f.Open(size)
				if m.state == waiting {
					m.state, m.size = open, size
				}
			},
			"add": func(t *rapid.T) {
				if m.state != open {
					return
				}
				from, to := int64(0), rapid.Int64Range(0, m.content).Draw(t, "to")
				if m.size >= 0 { // else nobody knows where to begin
					from = rapid.Int64Range(0, to).Draw(t, "from")
				}
				f.Add(from, to)
				for i := from; i < to; i++ {
					m.there[i] = true
				}
			},
			"done": func(t *rapid.T) {
				if m.state != open || m.end(0) != m.content {
					return
				}
				f.Done()
				m.state, m.size = done, m.content
			},
			"fail": func(*rapid.T) {
				f.Fail(errBroken)
				if m.state < done {
					m.state = failed
				}
			},
			"reject": func(*rapid.T) {
				f.Reject(errBroken)
				if m.state < done {
					m.state = rejected
				}
			},
			"join": func(*rapid.T) {
				joined = append(joined, f.Join())
				m.readers++
			},
			"leave": func(t *rapid.T) {
				if len(joined) == 0 {
					return
				}
				joined[0].Close()
				joined = joined[1:]
				m.readers--
			},
			"": func(t *rapid.T) {
				off := rapid.Int64Range(0, 45).Draw(t, "off")
				m.compare(t, f, rapid.Int64Range(0, off).Draw(t, "start"), off)
			},
		})
	})
}

func (m *model) compare(t *rapid.T, f *Flight, from, off int64) {
	if f.Readers() != m.readers || f.From(off) != m.end(off) || f.Verified() != (m.state == done) {
		t.Fatalf("readers %d, from %d to %d, verified %v: %+v", f.Readers(), off, f.From(off), f.Verified(), m)
	}
	r := f.Join()
	defer r.Close()
	r.Begin(from)
	end, err := r.Wait(settled(), off)
	var want error
	switch limit := m.limit(from, off); {
	case m.state == rejected:
		want = errBroken
	case off < limit:
		if err != nil || end != limit {
			t.Fatalf("at %d: %d, %v; want %d: %+v", off, end, err, limit, m)
		}
		return
	case m.state == failed:
		want = errBroken
	case m.state == done:
		want = io.EOF
	default:
		want = errBlocked
	}
	if !errors.Is(err, want) {
		t.Fatalf("at %d: %d, %v; want %v: %+v", off, end, err, want, m)
	}
}

// TestConcurrentModel has one writer end a flight in one of three ways while
// readers follow from where they like, leave when they like, and check what
// they are told. Under -race it is the test of the locking, and a reader that
// nobody wakes is a deadlock that synctest reports.
func TestConcurrentModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		content := rapid.Int64Range(0, 200).Draw(rt, "content")
		known := rapid.Bool().Draw(rt, "known")
		ending := rapid.SampledFrom([]string{"done", "fail", "reject"}).Draw(rt, "ending")
		steps := rapid.SliceOfN(rapid.Int64Range(1, 50), 0, 20).Draw(rt, "steps")
		offsets := rapid.SliceOfN(rapid.Int64Range(0, 220), 1, 8).Draw(rt, "offsets")
		var problem error
		synctest.Test(t, func(t *testing.T) {
			left := 0
			var mu sync.Mutex // guards left and problem
			f := New(func() { mu.Lock(); left++; mu.Unlock() }, nil)
			var wg sync.WaitGroup
			for i, off := range offsets {
				wg.Go(func() {
					if err := follow(t.Context(), f, off, content, ending, i%3 == 2); err != nil {
						mu.Lock()
						problem = fmt.Errorf("reader from %d: %w", off, err)
						mu.Unlock()
					}
				})
			}
			write(f, content, known, ending, steps)
			wg.Wait()
			if f.Readers() != 0 || left == 0 {
				problem = fmt.Errorf("%d readers, all left %d times", f.Readers(), left)
			}
		})
		if problem != nil {
			rt.Fatal(problem)
		}
	})
}

func write(f *Flight, content int64, known bool, ending string, steps []int64) {
	size := int64(-1)
	if known {
		size = content
	}
	f.Open(size)
	var have int64
	for _, s := range steps {
		have = min(content, have+s)
		f.Add(0, have)
	}
	switch ending {
	case "done":
		f.Add(0, content)
		f.Done()
	case "fail":
		f.Fail(errBroken)
	default:
		f.Reject(errBroken)
	}
}

// follow reads to the end, or leaves after the first bytes.
func follow(ctx context.Context, f *Flight, off, content int64, ending string, leaves bool) error {
	r := f.Join()
	defer r.Close()
	if _, err := f.Size(ctx); err != nil {
		return err
	}
	for {
		end, err := r.Wait(ctx, off)
		switch {
		case err == io.EOF && ending == "done" && off >= content, errors.Is(err, errBroken) && ending != "done":
			return nil
		case err != nil:
			return fmt.Errorf("at %d of %d, ending %s: %w", off, content, ending, err)
		case end <= off || end > content || end > f.From(0):
			return fmt.Errorf("at %d of %d: told %d, have %d", off, content, end, f.From(0))
		case end == content && ending != "done":
			return fmt.Errorf("the last byte of %d went out although it ends in %s", content, ending)
		case leaves:
			return nil
		}
		off = end
	}
}
