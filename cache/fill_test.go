package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"

	"cistern/internal/oci"
)

const mib = 1 << 20

func TestMissThenHit(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 1, 100, maxHot, maxHot + 1, maxCollect, maxCollect + 1, 3*mib + 5} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			o, c := newOrigin(), open(t, Options{})
			d := o.put(noise(size, 1))
			c.want(o.repo("a"), d, OutcomeMiss)
			c.idle()
			c.want(o.repo("a"), d, OutcomeHit)
			c.want(o.repo("b"), d, OutcomeHit)
			if n := o.count("blob"); n != 1 {
				t.Errorf("upstream was asked %d times", n)
			}
		})
	}
}

// TestJoin: all who come while a fill is under way share it, and each of them
// gets the first half before the second is there.
func TestJoin(t *testing.T) {
	t.Parallel()
	o, c := newOrigin(), open(t, Options{})
	data := noise(2*mib, 2)
	d := o.put(data)
	half := make(chan struct{})
	o.blob = func(int, oci.Digest, int64, int64) (*Body, error) {
		return body(2*mib, 0, step{data: data[:mib]}, step{wait: half, data: data[mib:]})
	}
	var arrived, all sync.WaitGroup
	arrived.Add(20)
	var misses sync.Map
	for i := range 20 {
		all.Go(func() {
			content, err := c.Blob(t.Context(), o.repo("a"), d)
			if err != nil {
				t.Error(err)
				arrived.Done()
				return
			}
			defer content.Close()
			misses.Store(i, content.Outcome)
			first := make([]byte, mib)
			if _, err := io.ReadFull(content.Reader, first); err != nil || !bytes.Equal(first, data[:mib]) {
				t.Errorf("the first half: %v", err)
			}
			arrived.Done()
			rest, err := io.ReadAll(content.Reader)
			if err != nil || !bytes.Equal(rest, data[mib:]) {
				t.Errorf("the second half: %d bytes, %v", len(rest), err)
			}
		})
	}
	arrived.Wait()
	close(half)
	all.Wait()
	leaders := 0
	misses.Range(func(_, o any) bool {
		if o == OutcomeMiss {
			leaders++
		}
		return true
	})
	if leaders != 1 || o.count("blob") != 1 {
		t.Errorf("%d leaders, %d requests", leaders, o.count("blob"))
	}
}

// TestJoinerIsNotRefusedForTheLeader: the leader's repository does not have
// the blob, the joiner's does.
func TestJoinerIsNotRefusedForTheLeader(t *testing.T) {
	t.Parallel()
	for round := range 20 {
		bad, good, c := newOrigin(), newOrigin(), open(t, Options{})
		d := good.put(noise(5000, uint64(round)))
		asked, answer := make(chan struct{}), make(chan struct{})
		bad.blob = func(int, oci.Digest, int64, int64) (*Body, error) {
			close(asked)
			<-answer
			return nil, oci.ErrNotFound
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, _, err := c.get(bad.repo("bad"), d); !errors.Is(err, oci.ErrNotFound) {
				t.Errorf("the leader got %v", err)
			}
		})
		<-asked
		for range 10 {
			wg.Go(func() {
				data, _, err := c.get(good.repo("good"), d)
				if err != nil || oci.FromBytes(data) != d {
					t.Errorf("round %d: a joiner got %v", round, err)
				}
			})
		}
		until(t, "all have joined", func() bool {
			f, ok := c.flights.Get(d)
			return ok && f.Readers() == 11
		})
		close(answer)
		wg.Wait()
	}
}

// TestCutAndResumed: a body that breaks off goes on at the same byte.
func TestCutAndResumed(t *testing.T) {
	t.Parallel()
	for _, size := range []int{10, 100 << 10, 2 * mib} {
		for _, at := range []int{0, 1, size / 2, size - 1} {
			o, c := newOrigin(), open(t, Options{})
			data := noise(size, 3)
			d := o.put(data)
			o.blob = func(n int, _ oci.Digest, off, _ int64) (*Body, error) {
				if n == 1 {
					return body(int64(size), 0, step{data: data[:at]}, step{err: errReset})
				}
				return nil, nil
			}
			c.want(o.repo("a"), d, OutcomeMiss)
			if o.ranges[0] != "0--1" || o.ranges[1] != fmt.Sprintf("%d-%d", at, size) {
				t.Errorf("%d bytes cut at %d: asked %v", size, at, o.ranges)
			}
		}
	}
}

// TestErrorAfterTheLastByte: all is there, and the connection ends badly.
func TestErrorAfterTheLastByte(t *testing.T) {
	t.Parallel()
	o, c := newOrigin(), open(t, Options{})
	data := noise(2*mib, 4)
	d := o.put(data)
	o.blob = func(n int, _ oci.Digest, _, _ int64) (*Body, error) {
		return body(2*mib, 0, step{data: data}, step{err: errReset})
	}
	c.want(o.repo("a"), d, OutcomeMiss)
}

// TestRangeIgnored: the second body starts from 0 again.
func TestRangeIgnored(t *testing.T) {
	t.Parallel()
	o, c := newOrigin(), open(t, Options{})
	data := noise(2*mib, 5)
	d := o.put(data)
	o.blob = func(n int, _ oci.Digest, _, _ int64) (*Body, error) {
		if n == 1 {
			return body(2*mib, 0, step{data: data[:mib]}, step{err: errReset})
		}
		return body(2*mib, 0, step{data: data})
	}
	c.want(o.repo("a"), d, OutcomeMiss)
}

// TestUpstreamContradictsItself: another size, a later start, or too many bytes
// end the pull; nothing is kept, and nobody gets a whole body.
func TestUpstreamContradictsItself(t *testing.T) {
	t.Parallel()
	data := noise(2*mib, 6)
	for name, second := range map[string]func() (*Body, error){
		"another size":         func() (*Body, error) { return body(3*mib, mib, step{data: data[mib:]}) },
		"a later start":        func() (*Body, error) { return body(2*mib, mib+1, step{data: data[mib+1:]}) },
		"shorter than we have": func() (*Body, error) { return body(-1, 0, step{data: data[:mib/2]}) },
		"more than announced":  func() (*Body, error) { return body(2*mib, mib, step{data: append(data[mib:2*mib:2*mib], 1)}) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o, c := newOrigin(), open(t, Options{})
			d := o.put(data)
			o.blob = func(n int, _ oci.Digest, _, _ int64) (*Body, error) {
				if n == 1 {
					return body(2*mib, 0, step{data: data[:mib]}, step{err: errReset})
				}
				return second()
			}
			got, _, err := c.get(o.repo("a"), d)
			if err == nil || errors.Is(err, io.EOF) || len(got) >= len(data) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			c.idle()
			if _, here := c.find(d); here {
				t.Error("it was kept")
			}
		})
	}
}

// TestWrongBytes: nobody gets them whole, the source learns of it, and the next
// fetch is tried at once, unseen where nothing went out yet.
func TestWrongBytes(t *testing.T) {
	t.Parallel()
	for _, size := range []int{100, 2 * mib} {
		for _, unknown := range []bool{false, true} {
			for _, times := range []int{1, 2} {
				t.Run(fmt.Sprintf("%d bytes, unknown %v, %d times", size, unknown, times), func(t *testing.T) {
					t.Parallel()
					wrongBytes(t, size, unknown, times)
				})
			}
		}
	}
}

func wrongBytes(t *testing.T, size int, unknown bool, times int) {
	o, c := newOrigin(), open(t, Options{})
	data := noise(size, 7)
	d := o.put(data)
	said := int64(size)
	if unknown {
		said = -1
	}
	o.blob = func(n int, _ oci.Digest, _, _ int64) (*Body, error) {
		sent := bytes.Clone(data)
		if n <= times {
			sent[size-1] ^= 1
		}
		return body(said, 0, step{data: sent})
	}
	collected := size <= maxCollect && !unknown
	got, _, err := c.get(o.repo("a"), d)
	switch {
	case collected && times == 1 && err != nil:
		t.Errorf("collected: %d bytes, %v", len(got), err)
	case err == nil: // it came when the bad attempts were over
		if oci.FromBytes(got) != d {
			t.Errorf("wrong bytes arrived whole: %d of %d", len(got), size)
		}
	case len(got) >= size && size > 0 && !collected:
		t.Errorf("got %d of %d bytes, %v", len(got), size, err)
	case !errors.Is(err, oci.ErrCorrupt):
		t.Errorf("%v", err)
	}
	c.idle()
	if o.blamed != times {
		t.Errorf("blamed %d times", o.blamed)
	}
	if n := c.Stats().VerifyFailures["docker.io"]; n != uint64(times) {
		t.Errorf("counted %d failures", n)
	}
	data2, _, err := c.get(o.repo("a"), d)
	if err != nil || oci.FromBytes(data2) != d {
		t.Errorf("afterwards: %d bytes, %v", len(data2), err)
	}
}

// TestUnknownLength: with and without a cut.
func TestUnknownLength(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 1, 1000, 20 * mib} {
		o, c := newOrigin(), open(t, Options{})
		data := noise(size, 8)
		d := o.put(data)
		o.blob = func(n int, _ oci.Digest, off, end int64) (*Body, error) {
			if n == 1 && size > 1 {
				return body(-1, 0, step{data: data[:size/2]}, step{err: errReset})
			}
			return body(-1, off, step{data: data[off:]})
		}
		c.want(o.repo("a"), d, OutcomeMiss)
		c.idle()
		c.want(o.repo("a"), d, OutcomeHit)
	}
}

// TestSlowSmallBlob: one that is not collected within a second goes out as it
// comes, its last byte held back.
func TestSlowSmallBlob(t *testing.T) {
	t.Parallel()
	o, c := newOrigin(), open(t, Options{})
	data := noise(100<<10, 9)
	d := o.put(data)
	rest := make(chan struct{})
	o.blob = func(n int, _ oci.Digest, off, _ int64) (*Body, error) {
		switch n {
		case 1:
			return body(100<<10, 0, step{data: data[:1000]}, step{err: errReset})
		case 2:
			return body(100<<10, off, step{data: data[1000:50000]}, step{wait: rest, err: errReset})
		}
		return nil, nil
	}
	content, err := c.Blob(t.Context(), o.repo("a"), d) // returns although the body stands still
	if err != nil || content.Reader == nil {
		t.Fatalf("%v, %+v", err, content)
	}
	defer content.Close()
	first := make([]byte, 50000)
	if _, err := io.ReadFull(content.Reader, first); err != nil || !bytes.Equal(first, data[:50000]) {
		t.Fatal(err)
	}
	close(rest)
	second, err := io.ReadAll(content.Reader)
	if err != nil || !bytes.Equal(second, data[50000:]) {
		t.Errorf("%d bytes, %v", len(second), err)
	}
}

// TestLeaving: who leaves changes nothing for who stays, and nothing for the
// fill.
func TestLeaving(t *testing.T) {
	t.Parallel()
	o, c := newOrigin(), open(t, Options{})
	data := noise(2*mib, 10)
	d := o.put(data)
	rest := make(chan struct{})
	o.blob = func(int, oci.Digest, int64, int64) (*Body, error) {
		return body(2*mib, 0, step{data: data[:mib]}, step{wait: rest, data: data[mib:]})
	}
	ctx, leave := context.WithCancel(t.Context())
	first, err := c.Blob(ctx, o.repo("a"), d)
	if err != nil {
		t.Fatal(err)
	}
	blocked := make(chan error)
	go func() {
		_, err := io.Copy(io.Discard, struct{ io.Reader }{first.Reader})
		blocked <- err
	}()
	leave()
	if err := <-blocked; !errors.Is(err, context.Canceled) {
		t.Errorf("who left got %v", err)
	}
	first.Close()
	close(rest)
	c.idle()
	c.want(o.repo("a"), d, OutcomeHit)
	if o.count("blob") != 1 {
		t.Errorf("%d requests", o.count("blob"))
	}
}

// TestStopAbandoned: with nobody left the fill stops, what it has stays, and
// whoever comes, even in the same moment, gets the whole.
func TestStopAbandoned(t *testing.T) {
	t.Parallel()
	for round := range 20 {
		o, c := newOrigin(), open(t, Options{StopAbandoned: true})
		data := noise(2*mib, 11)
		d := o.put(data)
		never := make(chan struct{})
		o.blob = func(n int, _ oci.Digest, off, _ int64) (*Body, error) {
			if n == 1 {
				return body(2*mib, 0, step{data: data[:mib]}, step{wait: never})
			}
			return nil, nil
		}
		content, err := c.Blob(t.Context(), o.repo("a"), d)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(io.Discard, content.Reader, mib/2); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			content.Close()
			close(never) // a fill that somebody joined in time goes on
		})
		wg.Go(func() {
			if data, _, err := c.get(o.repo("a"), d); err != nil || oci.FromBytes(data) != d {
				t.Errorf("round %d: %d bytes, %v", round, len(data), err)
			}
		})
		if round%2 == 0 {
			wg.Wait()
			continue
		}
		wg.Wait()
		c.idle()
		if data, _, err := c.get(o.repo("a"), d); err != nil || oci.FromBytes(data) != d {
			t.Errorf("round %d, later: %d bytes, %v", round, len(data), err)
		}
	}
}
