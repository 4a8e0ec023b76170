package cache

import (
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"cistern/internal/oci"
)

// TestFills: of each fill it is to be seen what is there, from whom it comes and
// how fast, and who reads it; the oldest first, and nothing when all is done.
func TestFills(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o, c := newOrigin(), open(t, Options{})
		data, small := noise(10*mib, 140), noise(100<<10, 141)
		whole, part, little := o.put(data), o.put(data[1:]), o.put(small)
		rest := make(chan struct{})
		o.blob = func(_ int, d oci.Digest, off, end int64) (*Body, error) {
			sent := data
			switch d {
			case part:
				sent = data[1:]
			case little:
				sent = small
			}
			if end < 0 {
				end = int64(len(sent))
			}
			n := min(mib/2, (end-off)/2)
			b, err := body(int64(len(sent)), off, step{data: sent[off : off+n]}, step{wait: rest, data: sent[off+n : end]})
			b.Host = "cdn.test"
			return b, err
		}
		read := func(d oci.Digest, asks ...Range) *Content {
			content, err := c.Blob(context.Background(), o.repo("a"), d, asks...)
			if err != nil {
				t.Fatal(err)
			}
			return content
		}
		if all := c.Fills(); all == nil || len(all) != 0 {
			t.Errorf("before: %+v", all)
		}
		first, second := read(whole), read(whole)
		time.Sleep(2 * time.Second)
		lazy := read(part, Range{Off: 3*mib + 1, End: 3*mib + 2}, Range{Off: 6 * mib, End: 6*mib + 1})
		go func() { _, _ = lazy.Reader.Seek(3*mib+1, io.SeekStart) }()
		synctest.Wait()
		time.Sleep(time.Second / 2)
		collected := read(little) // within a second it is given as it comes
		synctest.Wait()

		want := []FillInfo{
			{Digest: whole.String(), Size: 10 * mib, OnDisk: mib / 2, Extents: 1, Streams: 1, Readers: 2, Rate: 0, Age: 3.5, Whole: true},
			{Digest: part.String(), Size: 10*mib - 1, OnDisk: mib, Extents: 2, Streams: 2, Readers: 1, Rate: mib / 2, Age: 1.5},
			{Digest: little.String(), Size: 100 << 10, OnDisk: 50 << 10, Extents: 1, Streams: 1, Readers: 1, Rate: 50 << 10, Age: 1, Whole: true},
		}
		got := c.Fills()
		if len(got) != len(want) {
			t.Fatalf("%d fills: %+v", len(got), got)
		}
		for i, w := range want {
			w.Upstream, w.Repository, w.Origin = "docker.io", "a", "cdn.test"
			if got[i] != w {
				t.Errorf("fill %d is\n%+v, not\n%+v", i, got[i], w)
			}
		}
		close(rest)
		for _, content := range []*Content{first, second, lazy, collected} {
			content.Close()
		}
		synctest.Wait()
		if all := c.Fills(); len(all) != 1 || all[0].Digest != part.String() || all[0].OnDisk != 2*mib || all[0].Streams != 0 || all[0].Readers != 0 || all[0].Whole {
			t.Errorf("of which nobody wants more at the moment: %+v", all)
		}
		time.Sleep(lingerFor)
		synctest.Wait()
		if all := c.Fills(); len(all) != 0 {
			t.Errorf("afterwards: %+v", all)
		}
		c.close()
	})
}

// TestFillOfNoAnswer: of a fill that upstream has not answered there is little to
// say, and nobody who asks waits for it.
func TestFillOfNoAnswer(t *testing.T) {
	t.Parallel()
	o, c := newOrigin(), open(t, Options{})
	d := o.put(noise(mib, 142))
	asked, answer := make(chan struct{}), make(chan struct{})
	o.refuse = func(context.Context, string, string) error {
		close(asked)
		<-answer
		return oci.ErrNotFound
	}
	failed := make(chan error)
	go func() {
		_, err := c.Blob(context.Background(), o.repo("a"), d)
		failed <- err
	}()
	<-asked
	got := c.Fills()
	if len(got) != 1 || got[0].Size != -1 || got[0].OnDisk != 0 || got[0].Streams != 0 || got[0].Origin != "" || got[0].Readers != 1 {
		t.Errorf("%+v", got)
	}
	close(answer)
	if err := <-failed; err == nil {
		t.Error("no error")
	}
}

// TestRate: a rate is what came within a second, from the beginning on.
func TestRate(t *testing.T) {
	t.Parallel()
	var r rate
	at := func(ms int) time.Time { return time.Unix(5, 0).Add(time.Duration(ms) * time.Millisecond) }
	want := func(ms int, least, most int64) {
		t.Helper()
		if got := r.at(at(ms)); got < least || got > most {
			t.Errorf("after %d ms: %d, not %d to %d", ms, got, least, most)
		}
	}
	want(0, 0, 0)
	r.add(100, at(0))
	want(0, 1000, 1000) // and not without bounds
	for ms := 10; ms < 3000; ms += 10 {
		r.add(100, at(ms))
		if ms >= 100 {
			want(ms, 9800, 11_100) // 100 bytes each 10 ms
		}
	}
	want(3500, 4800, 5200)
	want(4100, 0, 0)
	r.add(700, at(9000))
	want(9000, 700, 700)
	want(9600, 700, 700)
	want(10_500, 300, 400)
	want(11_000, 0, 0)
}
