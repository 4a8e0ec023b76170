package flight

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var errBroken = errors.New("broken")

// settled is a context that waits for nothing: a Wait that would block gives
// errBlocked instead.
func settled() context.Context {
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(errBlocked)
	return ctx
}

var errBlocked = errors.New("it would block")

// TestReadable is the table of what a reader may have in each state.
func TestReadable(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		do   func(f *Flight)
		off  int64
		end  int64
		want error
	}{
		"waiting":                      {func(f *Flight) { f.Add(0, 9) }, 0, 0, errBlocked},
		"open, nothing there":          {func(f *Flight) { f.Open(10) }, 0, 0, errBlocked},
		"open, some there":             {func(f *Flight) { f.Open(10); f.Add(0, 4) }, 0, 4, nil},
		"open, behind what is there":   {func(f *Flight) { f.Open(10); f.Add(0, 4) }, 4, 0, errBlocked},
		"all there, not verified":      {func(f *Flight) { f.Open(10); f.Add(0, 10) }, 0, 9, nil},
		"the last byte, not verified":  {func(f *Flight) { f.Open(10); f.Add(0, 10) }, 9, 0, errBlocked},
		"more than announced":          {func(f *Flight) { f.Open(10); f.Add(0, 12) }, 0, 9, nil},
		"never back":                   {func(f *Flight) { f.Open(10); f.Add(0, 4); f.Add(0, 2) }, 3, 4, nil},
		"unknown size":                 {func(f *Flight) { f.Open(-1); f.Add(0, 4) }, 0, 3, nil},
		"unknown size, one byte":       {func(f *Flight) { f.Open(-1); f.Add(0, 1) }, 0, 0, errBlocked},
		"done":                         {func(f *Flight) { f.Open(10); f.Add(0, 10); f.Done() }, 9, 10, nil},
		"done, at the end":             {func(f *Flight) { f.Open(10); f.Add(0, 10); f.Done() }, 10, 0, io.EOF},
		"done, beyond the end":         {func(f *Flight) { f.Open(10); f.Add(0, 10); f.Done() }, 99, 0, io.EOF},
		"done without being open":      {func(f *Flight) { f.Add(0, 3); f.Done() }, 0, 3, nil},
		"done, empty":                  {func(f *Flight) { f.Open(0); f.Done() }, 0, 0, io.EOF},
		"empty, not verified":          {func(f *Flight) { f.Open(0) }, 0, 0, errBlocked},
		"failed, some there":           {func(f *Flight) { f.Open(10); f.Add(0, 4); f.Fail(errBroken) }, 1, 4, nil},
		"failed, no more there":        {func(f *Flight) { f.Open(10); f.Add(0, 4); f.Fail(errBroken) }, 4, 0, errBroken},
		"failed with all there":        {func(f *Flight) { f.Open(10); f.Add(0, 10); f.Fail(errBroken) }, 9, 0, errBroken},
		"failed, unknown size":         {func(f *Flight) { f.Open(-1); f.Add(0, 4); f.Fail(errBroken) }, 3, 0, errBroken},
		"failed before it opened":      {func(f *Flight) { f.Fail(errBroken) }, 0, 0, errBroken},
		"failed with io.EOF":           {func(f *Flight) { f.Open(10); f.Fail(io.EOF) }, 0, 0, io.ErrUnexpectedEOF},
		"failed with a wrapped io.EOF": {func(f *Flight) { f.Open(10); f.Fail(fmt.Errorf("reading: %w", io.EOF)) }, 0, 0, io.ErrUnexpectedEOF},
		"failed with io.EOF and more":  {func(f *Flight) { f.Open(10); f.Fail(fmt.Errorf("%w: %w", errBroken, io.EOF)) }, 0, 0, errBroken},
		"failed without a reason":      {func(f *Flight) { f.Open(10); f.Fail(nil) }, 0, 0, io.ErrUnexpectedEOF},
		"rejected":                     {func(f *Flight) { f.Open(10); f.Add(0, 4); f.Reject(errBroken) }, 0, 0, errBroken},
		"rejected, then done":          {func(f *Flight) { f.Open(10); f.Add(0, 4); f.Reject(errBroken); f.Done() }, 0, 0, errBroken},
		"failed, then done":            {func(f *Flight) { f.Open(10); f.Add(0, 10); f.Fail(errBroken); f.Done() }, 9, 0, errBroken},
		"done, then failed":            {func(f *Flight) { f.Open(2); f.Add(0, 2); f.Done(); f.Fail(errBroken) }, 2, 0, io.EOF},
		"failed twice":                 {func(f *Flight) { f.Fail(errBroken); f.Fail(io.ErrClosedPipe) }, 0, 0, errBroken},
		"opened after it failed":       {func(f *Flight) { f.Fail(errBroken); f.Open(3); f.Add(0, 3) }, 2, 0, errBroken},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := New(nil, nil)
			c.do(f)
			r := f.Join()
			defer r.Close()
			end, err := r.Wait(settled(), c.off)
			if !errors.Is(err, c.want) || c.want != io.EOF && errors.Is(err, io.EOF) || err == nil && end != c.end {
				t.Errorf("Wait at %d: %d, %v; want %d, %v", c.off, end, err, c.end, c.want)
			}
		})
	}
}

func TestSize(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		do   func(f *Flight)
		size int64
		want error
	}{
		"waiting":                {func(f *Flight) { f.Add(0, 3) }, 0, errBlocked},
		"open":                   {func(f *Flight) { f.Open(7) }, 7, nil},
		"open, unknown":          {func(f *Flight) { f.Open(-1) }, -1, nil},
		"opened twice":           {func(f *Flight) { f.Open(7); f.Open(8) }, 7, nil},
		"done, unknown":          {func(f *Flight) { f.Open(-1); f.Add(0, 5); f.Done() }, 5, nil},
		"failed at once":         {func(f *Flight) { f.Fail(errBroken) }, -1, errBroken},
		"failed after it opened": {func(f *Flight) { f.Open(7); f.Fail(errBroken) }, 7, nil},
		"rejected at once":       {func(f *Flight) { f.Reject(errBroken) }, -1, errBroken},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := New(nil, nil)
			c.do(f)
			size, err := f.Size(settled())
			if !errors.Is(err, c.want) || err == nil && size != c.size {
				t.Errorf("%d, %v; want %d, %v", size, err, c.size, c.want)
			}
		})
	}
}

// TestWakesAll: everybody who waits, wherever, learns of a change, and a
// context that ends wakes its own waiter only.
func TestWakesAll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := New(nil, nil)
		const readers = 50
		var wg sync.WaitGroup
		for i := range readers {
			wg.Go(func() {
				r := f.Join()
				defer r.Close()
				if size, err := f.Size(t.Context()); size != 100 || err != nil {
					t.Errorf("size %d, %v", size, err)
				}
				for off := int64(i % 10); ; {
					end, err := r.Wait(t.Context(), off)
					if err != nil {
						if err != io.EOF || off != 100 {
							t.Errorf("reader %d at %d: %v", i, off, err)
						}
						return
					}
					if end <= off {
						t.Errorf("woken at %d for nothing: %d", off, end)
					}
					off = end
				}
			})
		}
		gone := make(chan error)
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() {
			r := f.Join()
			defer r.Close()
			_, err := r.Wait(ctx, 0)
			gone <- err
		}()
		synctest.Wait()
		cancel(errBroken)
		if err := <-gone; err != errBroken {
			t.Errorf("its context ended, and Wait gave %v", err)
		}
		synctest.Wait()
		if n := f.Readers(); n != readers {
			t.Errorf("%d readers", n)
		}
		f.Open(100)
		for have := int64(10); have <= 100; have += 10 {
			synctest.Wait()
			f.Add(0, have)
		}
		synctest.Wait()
		f.Done()
		wg.Wait()
	})
}

// TestSlowReader: one that takes its time holds nobody up and loses nothing.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := New(nil, nil)
		f.Open(1000)
		r := f.Join()
		defer r.Close()
		go func() {
			for have := range int64(1000) {
				f.Add(0, have+1)
			}
			f.Done()
		}()
		var got int64
		for {
			end, err := r.Wait(t.Context(), got)
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			got = min(end, got+100)
			<-time.After(time.Minute)
		}
		if got != 1000 {
			t.Errorf("read %d", got)
		}
	})
}

func TestLastReaderLeaves(t *testing.T) {
	t.Parallel()
	left := 0
	f := New(func() { left++ }, nil)
	a, b := f.Join(), f.Join()
	a.Close()
	a.Close()
	if left != 0 || f.Readers() != 1 {
		t.Errorf("one of two left twice: %d calls, %d readers", left, f.Readers())
	}
	b.Close()
	if left != 1 || f.Readers() != 0 {
		t.Errorf("all left: %d calls, %d readers", left, f.Readers())
	}
	f.Join().Close()
	if left != 2 {
		t.Errorf("left again: %d calls", left)
	}
}

// TestOver: a flight is over once, when its writer and all readers have left, in
// whatever order, and nobody joins it then.
func TestOver(t *testing.T) {
	t.Parallel()
	for _, writerFirst := range []bool{true, false} {
		over := 0
		f := New(nil, func() { over++ })
		a, b := f.Join(), f.Join()
		a.Close()
		if writerFirst {
			f.Leave()
			if c := f.Join(); c == nil {
				t.Error("it cannot be joined while somebody reads")
			} else {
				c.Close()
			}
		}
		b.Close()
		if over != 0 != writerFirst {
			t.Errorf("writer first %v: over %d times", writerFirst, over)
		}
		f.Leave()
		f.Leave()
		b.Close()
		if over != 1 || f.Join() != nil {
			t.Errorf("writer first %v: over %d times, or joined", writerFirst, over)
		}
	}
}

// BenchmarkWaitingReaders is one step of a fill that all readers wait for,
// until the last of them has learnt of it.
func BenchmarkWaitingReaders(b *testing.B) {
	for _, readers := range []int{1, 50, 500} {
		b.Run(fmt.Sprint(readers), func(b *testing.B) {
			f := New(nil, nil)
			f.Open(1 << 40)
			var told, all sync.WaitGroup
			for range readers {
				all.Go(func() {
					r := f.Join()
					defer r.Close()
					for off := int64(0); ; off++ {
						if _, err := r.Wait(context.Background(), off); err != nil {
							return
						}
						told.Done()
					}
				})
			}
			b.ReportAllocs()
			for i := int64(1); b.Loop(); i++ {
				told.Add(readers)
				f.Add(0, i)
				told.Wait()
			}
			f.Fail(errBroken)
			all.Wait()
		})
	}
}

// TestWants: what somebody waits for comes first, then what readers come to; whoever
// wants all of it is not among them.
func TestWants(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := New(nil, nil)
		f.Open(1000)
		f.Add(100, 200)
		ctx, stop := context.WithCancel(t.Context())
		var all sync.WaitGroup
		wait := func(off int64, asks ...Want) {
			r := f.Join(asks...)
			all.Go(func() {
				defer r.Close()
				r.Begin(off)
				_, _ = r.Wait(ctx, off)
			})
			synctest.Wait()
		}
		idle := f.Join(Want{900, 950})
		defer idle.Close()
		check := func(wantWhole bool, want ...Want) {
			t.Helper()
			if got, whole := f.Wants(); !slices.Equal(got, want) || whole != wantWhole {
				t.Errorf("%v, whole %v", got, whole)
			}
		}
		check(false, Want{900, 950})
		wait(700, Want{700, 750}, Want{100, 150}, Want{10, 20})
		wait(600, Want{600, -1})
		check(false, Want{700, 750}, Want{600, -1}, Want{10, 20}, Want{900, 950})
		wait(300, Want{50, 60}) // not what it has asked for
		check(false, Want{700, 750}, Want{600, -1}, Want{300, -1}, Want{10, 20}, Want{900, 950})
		f.Add(700, 710)
		synctest.Wait()
		check(false, Want{600, -1}, Want{300, -1}, Want{900, 950})
		wait(0, Want{0, 1000})
		check(true, Want{600, -1}, Want{300, -1}, Want{900, 950})
		stop()
		all.Wait()
		check(true, Want{900, 950})
	})
}

// TestRetire: not while somebody reads; afterwards nobody joins.
func TestRetire(t *testing.T) {
	t.Parallel()
	f := New(nil, nil)
	f.Open(10)
	r := f.Join(Want{0, 1})
	if f.Retire() {
		t.Error("retired under a reader")
	}
	r.Close()
	if !f.Retire() || f.Join() != nil || f.Join(Want{0, 1}) != nil {
		t.Error("somebody has joined what is retired")
	}
}

// TestWholeRange: a range that turns out to be all there is asks for the whole, from
// the moment at which that is known.
func TestWholeRange(t *testing.T) {
	t.Parallel()
	for size, whole := range map[int64]bool{10: true, 11: false, -1: false} {
		f := New(nil, nil)
		r := f.Join(Want{0, 10})
		if f.Whole() {
			t.Error("whole before the size is known")
		}
		f.Open(size)
		if f.Whole() != whole || f.Snapshot() != (Snapshot{Size: size, Readers: 1, Whole: whole}) {
			t.Errorf("of %d bytes: %v, %+v", size, f.Whole(), f.Snapshot())
		}
		f.Add(0, 1)
		f.Add(3, 5)
		if s := f.Snapshot(); s.Bytes != 3 || s.Extents != 2 {
			t.Errorf("%+v", s)
		}
		r.Close()
	}
	f := New(nil, nil)
	f.Open(10)
	defer f.Join(Want{1, 10}).Close()
	if f.Whole() {
		t.Error("a part is the whole")
	}
	f.Join(Want{0, 10}).Close()
	if !f.Whole() {
		t.Error("a range of all is not the whole")
	}
}

// TestPartOfUnknown: who wants a part of what has no size yet is woken by each step,
// although the byte it waits for is there: any byte may be the last.
func TestPartOfUnknown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := New(nil, nil)
		f.Open(-1)
		f.Add(0, 10)
		r := f.Join(Want{5, 20})
		defer r.Close()
		ends := make(chan int64, 1)
		go func() {
			end, _ := r.Wait(t.Context(), 9)
			ends <- end
		}()
		synctest.Wait()
		f.Add(10, 12)
		synctest.Wait()
		select {
		case end := <-ends:
			if end != 11 {
				t.Errorf("up to %d", end)
			}
		default:
			t.Error("nobody woke it")
			f.Fail(errBroken)
		}
	})
}
