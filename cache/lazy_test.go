package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"cistern/cache/blob"
	"cistern/internal/durable/durabletest"
	"cistern/internal/oci"
)

// part reads ranges of a blob, as http.ServeContent does, and compares them.
func (r *rig) part(repo *Repository, d oci.Digest, data []byte, asks ...Range) Outcome {
	r.t.Helper()
	c, err := r.Blob(context.Background(), repo, d, asks...)
	if err != nil {
		r.t.Errorf("%v: %v", asks, err)
		return OutcomeError
	}
	defer c.Close()
	var from io.ReadSeeker = bytes.NewReader(c.Bytes)
	if c.Reader != nil {
		from = c.Reader
	}
	for _, a := range asks {
		off, end := a.Off, a.End
		if off < 0 {
			off = c.Size + off
		}
		if end < 0 || end > c.Size {
			end = c.Size
		}
		got := make([]byte, end-off)
		_, serr := from.Seek(off, io.SeekStart)
		_, rerr := io.ReadFull(from, got)
		if err := errors.Join(serr, rerr); err != nil || !bytes.Equal(got, data[off:end]) {
			r.t.Errorf("[%d, %d) of %v: %v", off, end, asks, err)
		}
	}
	return c.Outcome
}

// asked gives what upstream was asked for since the last call.
func (o *origin) since() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := strings.Join(o.ranges, " ")
	o.ranges = nil
	return s
}

// TestLazy: what a lazy reader asks for costs upstream its pieces, once, whatever
// comes between, and never the whole; which is fetched without them when somebody
// wants it, and verified (P 5.5).
func TestLazy(t *testing.T) {
	t.Parallel()
	o, c := newOrigin(), open(t, Options{})
	data := noise(40*mib+5, 80)
	d := o.put(data)
	step := func(want string, asks ...Range) {
		t.Helper()
		c.part(o.repo("a"), d, data, asks...)
		if got := o.since(); got != want {
			t.Errorf("for %v upstream was asked for %q, not %q", asks, got, want)
		}
	}
	step("0-1048576", Range{Off: 0, End: 2})           // a probe
	step("41943040-41943045", Range{Off: -3, End: -1}) // the footer
	step("", Range{Off: 1000, End: 100_000})           // of a piece that is there
	step("5242880-7340032", Range{Off: 6*mib - 1, End: 6*mib + 1})
	step("10485760-11534336", Range{Off: 10 * mib, End: 10*mib + 1}, Range{Off: 5 * mib, End: 5*mib + 7})
	c.close()
	c = open(t, Options{Dir: c.o.Dir})
	step("", Range{Off: 0, End: 10}, Range{Off: -1, End: -1})
	if o.count("info") != 1 {
		t.Errorf("upstream was asked for the size %d times", o.count("info"))
	}
	step("30408704-31457280", Range{Off: 29 * mib, End: 29*mib + 1})
	c.want(o.repo("b"), d, OutcomeMiss)
	c.idle()
	if got := strings.Fields(o.since()); !slices.Equal(got, []string{"1048576-5242880", "7340032-10485760", "11534336-30408704", "31457280-41943040"}) {
		t.Errorf("for the rest upstream was asked for %v", got)
	}
	c.want(o.repo("a"), d, OutcomeHit)
	c.account()
	if left, _ := filepath.Glob(filepath.Join(c.o.Dir, "fills/sha256/*/*")); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// TestLazyToTheEnd: when the pieces come to the whole it is verified and a hit.
func TestLazyToTheEnd(t *testing.T) {
	t.Parallel()
	for _, wrong := range []bool{false, true} {
		t.Run(fmt.Sprint(wrong), func(t *testing.T) {
			t.Parallel()
			o, c := newOrigin(), open(t, Options{})
			data := noise(5*mib, 81)
			d := o.put(data)
			if wrong {
				data = bytes.Clone(data)
				data[3*mib] ^= 1
				o.mu.Lock()
				o.blobs[d] = data
				o.mu.Unlock()
			}
			for _, i := range []int64{4, 1, 3, 0} {
				c.part(o.repo("a"), d, data, Range{Off: i * mib, End: i*mib + 10})
			}
			// With the last one it is known what the whole is: wrong bytes may be cut.
			if last, err := c.Blob(t.Context(), o.repo("a"), d, Range{Off: 2 * mib, End: 2*mib + 10}); err != nil {
				t.Error(err)
			} else {
				_, _ = last.Reader.Seek(2*mib, io.SeekStart)
				if _, err := io.ReadFull(last.Reader, make([]byte, 10)); err != nil && !wrong {
					t.Error(err)
				}
				last.Close()
			}
			c.idle()
			if _, here := c.find(d); here == wrong {
				t.Errorf("wrong %v, here %v", wrong, here)
			}
			if n := c.Stats().VerifyFailures["docker.io"]; (n > 0) != wrong {
				t.Errorf("%d failures were counted", n)
			}
			c.account()
		})
	}
}

// TestLazyTogether: fifty who ask for ranges of one piece cost it once, and of many
// pieces each once.
func TestLazyTogether(t *testing.T) {
	t.Parallel()
	o, c := newOrigin(), open(t, Options{})
	data := noise(30*mib, 82)
	d := o.put(data)
	var all sync.WaitGroup
	for i := range int64(60) {
		all.Go(func() {
			off := i % 5 * 6 * mib
			c.part(o.repo(fmt.Sprint(i%3)), d, data, Range{Off: off + i*1000, End: off + i*1000 + 64<<10})
		})
	}
	all.Wait()
	got := strings.Fields(o.since())
	slices.Sort(got)
	if want := []string{"0-1048576", "12582912-13631488", "18874368-19922944", "25165824-26214400", "6291456-7340032"}; !slices.Equal(got, want) {
		t.Errorf("upstream was asked for %v", got)
	}
}

// TestLazyOpenRange: one that is open at its end is fetched some windows ahead of
// its reader, and no more when that leaves.
func TestLazyOpenRange(t *testing.T) {
	t.Parallel()
	o, c := newOrigin(), open(t, Options{})
	data := noise(100*mib, 83)
	d := o.put(data)
	content, err := c.Blob(t.Context(), o.repo("a"), d, Range{Off: 10*mib + 5, End: -1})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = content.Reader.Seek(10*mib+5, io.SeekStart)
	got := make([]byte, 12*mib)
	if _, err := io.ReadFull(content.Reader, got); err != nil || !bytes.Equal(got, data[10*mib+5:22*mib+5]) {
		t.Error(err)
	}
	content.Close()
	c.close()
	windows := strings.Fields(o.since())
	for i, window := range windows {
		off := (10 + int64(i)*8) * mib
		if want := fmt.Sprintf("%d-%d", off, off+8*mib); window != want || i > 3 {
			t.Errorf("upstream was asked for %v", windows)
			break
		}
	}
}

// TestLazyWithoutRanges: an upstream that answers with all of it is taken at its
// word, and asked once.
func TestLazyWithoutRanges(t *testing.T) {
	t.Parallel()
	o, c := newOrigin(), open(t, Options{})
	data := noise(9*mib, 84)
	d := o.put(data)
	o.blob = func(int, oci.Digest, int64, int64) (*Body, error) {
		return &Body{ReadCloser: &script{steps: []step{{data: data}}}, Size: int64(len(data)), Whole: true, Host: "old"}, nil
	}
	c.part(o.repo("a"), d, data, Range{Off: 5 * mib, End: 5*mib + 10})
	c.part(o.repo("a"), d, data, Range{Off: -9, End: -1})
	c.idle()
	c.want(o.repo("a"), d, OutcomeHit)
	if n := o.count("blob"); n != 1 {
		t.Errorf("upstream was asked %d times: %s", n, o.since())
	}
}

// TestLazyOutside: a range behind the end is none, and the size is known all the
// same.
func TestLazyOutside(t *testing.T) {
	t.Parallel()
	o, c := newOrigin(), open(t, Options{})
	data := noise(3*mib, 85)
	d := o.put(data)
	content, err := c.Blob(t.Context(), o.repo("a"), d, Range{Off: 7 * mib, End: 8 * mib})
	if err != nil || content.Size != 3*mib {
		t.Fatalf("%+v, %v", content, err)
	}
	content.Close()
	far := o.put(noise(2*mib, 94))
	if content, err = c.Blob(t.Context(), o.repo("a"), far, Range{Off: math.MaxInt64 - 5, End: -1}); err != nil || content.Size != 2*mib {
		t.Fatalf("%+v, %v", content, err)
	}
	content.Close()
	c.part(o.repo("a"), d, data, Range{Off: 2 * mib, End: 9 * mib})
	c.want(o.repo("a"), d, OutcomeMiss)
}

// TestLazyTornState: piece state that is torn, of another blob, or for more than
// there is, is not believed. FAULTS row 37.
func TestLazyTornState(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(file, other string) error{
		"torn":  func(file, _ string) error { return os.Truncate(file+".pieces", 30) },
		"empty": func(file, _ string) error { return os.Truncate(file+".pieces", 0) },
		"of another blob": func(file, other string) error {
			return errors.Join(os.Remove(other), os.Rename(other+".pieces", file+".pieces"))
		},
		"more than the file": func(file, _ string) error { return os.Truncate(file, 3*mib) },
		"without the file":   func(file, _ string) error { return os.Remove(file) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o, c := newOrigin(), open(t, Options{})
			data, more := noise(8*mib, 86), noise(9*mib, 87)
			d, other := o.put(data), o.put(more)
			c.part(o.repo("a"), d, data, Range{Off: 6 * mib, End: 6*mib + 1}, Range{Off: 2 * mib, End: 2*mib + 1})
			c.part(o.repo("a"), other, more, Range{Off: 5 * mib, End: 5*mib + 1})
			c.close()
			if err := spoil(c.path("fills", d), c.path("fills", other)); err != nil {
				t.Fatal(err)
			}
			next := open(t, Options{Dir: c.o.Dir})
			next.part(o.repo("a"), d, data, Range{Off: 6 * mib, End: 7 * mib}, Range{Off: 3 * mib, End: 3*mib + 9}, Range{Off: 0, End: blob.PieceSize})
			next.want(o.repo("a"), d, OutcomeMiss)
			next.idle()
			next.want(o.repo("a"), d, OutcomeHit)
			next.account()
		})
	}
}

// TestLazyBesideAWhole: a reader far ahead of the one stream of a fill does not wait
// for it, and what it brought is not fetched again.
func TestLazyBesideAWhole(t *testing.T) {
	t.Parallel()
	o, c := newOrigin(), open(t, Options{})
	data := noise(30*mib, 88)
	d := o.put(data)
	rest := make(chan struct{})
	o.blob = func(n int, _ oci.Digest, _, _ int64) (*Body, error) {
		if n > 1 {
			return nil, nil
		}
		b, err := body(30*mib, 0, step{data: data[:mib+5]}, step{wait: rest, data: data[mib+5:]})
		b.Whole = true
		return b, err
	}
	whole, err := c.Blob(t.Context(), o.repo("a"), d)
	if err != nil {
		t.Fatal(err)
	}
	defer whole.Close()
	c.part(o.repo("a"), d, data, Range{Off: 20*mib + 9, End: 20*mib + 19})
	c.part(o.repo("a"), d, data, Range{Off: 1000, End: 2000}) // of what the stream has brought
	if got := o.since(); got != "0--1 20971520-22020096" {
		t.Errorf("upstream was asked for %q", got)
	}
	close(rest)
	if got, err := readAll(whole); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	c.idle()
	if got := o.since(); got != "22020096-31457280" {
		t.Errorf("for the rest upstream was asked for %q", got)
	}
	c.want(o.repo("a"), d, OutcomeHit)
}

// TestLazyWithoutRangesTogether: of an upstream of which nobody knows whether it has
// ranges, one is asked for at a time.
func TestLazyWithoutRangesTogether(t *testing.T) {
	t.Parallel()
	o, c := newOrigin(), open(t, Options{})
	data := noise(30*mib, 89)
	d := o.put(data)
	rest, come := make(chan struct{}), make(chan struct{})
	o.blob = func(n int, _ oci.Digest, _, _ int64) (*Body, error) {
		if n > 1 {
			<-come // all readers
		}
		b, err := body(30*mib, 0, step{data: data[:10]}, step{wait: rest, data: data[10:]})
		b.Whole = true
		return b, err
	}
	whole, err := c.Blob(t.Context(), o.repo("a"), d)
	if err != nil {
		t.Fatal(err)
	}
	defer whole.Close()
	var all, waiting sync.WaitGroup
	for i := range int64(9) {
		waiting.Add(1)
		all.Go(func() {
			content, err := c.Blob(t.Context(), o.repo("a"), d, Range{Off: (i + 2) * 2 * mib, End: (i+2)*2*mib + 5})
			waiting.Done()
			if err != nil {
				t.Error(err)
				return
			}
			defer content.Close()
			_, _ = content.Reader.Seek((i+2)*2*mib, io.SeekStart)
			got := make([]byte, 5)
			if _, err := io.ReadFull(content.Reader, got); err != nil || !bytes.Equal(got, data[(i+2)*2*mib:][:5]) {
				t.Error(err)
			}
		})
	}
	waiting.Wait()
	close(come)
	until(t, "it is known to have none", func() bool { p, ok := c.paces.last.Get("docker.io"); return ok && !p.ranges() })
	close(rest)
	all.Wait()
	if n := o.count("blob"); n != 2 {
		t.Errorf("upstream was asked %d times: %s", n, o.since())
	}
}

// TestParallel: a blob of a host that pays four streams is fetched by four, each of
// a part of its own, from its beginning on.
func TestParallel(t *testing.T) {
	t.Parallel()
	o, c := newOrigin(), open(t, Options{})
	data := noise(60*mib+3, 91)
	d := o.put(data)
	p := c.paces.of("docker.io", "h")
	p.n = 4
	p.gives()
	var mu sync.Mutex
	running, most := 0, 0
	four := make(chan struct{})
	o.blob = func(n int, _ oci.Digest, off, end int64) (*Body, error) {
		mu.Lock()
		defer mu.Unlock()
		if running++; running > most {
			most = running
		}
		if n == 4 {
			close(four)
		}
		part := data[off:min(end, int64(len(data)))]
		b, err := body(int64(len(data)), off, step{data: part[:1]}, step{wait: four, data: part[1:]})
		b.Host = "h"
		b.ReadCloser.(*script).closed = func() { mu.Lock(); running--; mu.Unlock() }
		return b, err
	}
	repo := o.repo("a")
	repo.Policy = &Policy{MaxStreams: 4}
	c.want(repo, d, OutcomeMiss)
	c.idle()
	ranges := strings.Fields(o.since())
	if most != 4 || !slices.Contains(ranges, "0-2097152") || !slices.Contains(ranges, "2097152-10485760") {
		t.Errorf("%d at a time: %v", most, ranges)
	}
	var total int64
	for _, r := range ranges {
		var off, end int64
		_, _ = fmt.Sscanf(r, "%d-%d", &off, &end)
		total += end - off
	}
	if total != int64(len(data)) {
		t.Errorf("%d bytes were asked for: %v", total, ranges)
	}
	c.want(repo, d, OutcomeHit)
}

// TestEndsWhileItIsSynced: who comes when a fill is whole, and waits for a sync
// before it is a blob, reads its file.
func TestEndsWhileItIsSynced(t *testing.T) {
	t.Parallel()
	data, dir := noise(saveStep+3*mib, 92), t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		o, rest := newOrigin(), make(chan struct{})
		d := o.put(data)
		var stalled atomic.Bool
		c := open(t, faultyDir(t, dir, func(op durabletest.Op) *durabletest.Fault {
			if op.Kind == "fsync" && strings.HasPrefix(op.Name, "fills/") {
				stalled.Store(true)
				return &durabletest.Fault{Stall: rest}
			}
			return nil
		}))
		o.blob = func(int, oci.Digest, int64, int64) (*Body, error) { return body(int64(len(data)), 0, trickle(data)...) }
		c.want(o.repo("a"), d, OutcomeMiss) // while it is synced
		if got, outcome, err := c.get(o.repo("a"), d); err != nil || !bytes.Equal(got, data) || outcome == OutcomePass || !stalled.Load() {
			t.Errorf("%d bytes, %v, %v; stalled: %v", len(got), outcome, err, stalled.Load())
		}
		if n := o.count("blob"); n != 1 {
			t.Errorf("upstream was asked %d times", n)
		}
		close(rest)
		c.idle()
		c.want(o.repo("a"), d, OutcomeHit)
		c.close()
	})
}

// TestUnknownLengthOfAParallelHost: the first part of a blob whose size upstream does
// not say is not the blob.
func TestUnknownLengthOfAParallelHost(t *testing.T) {
	t.Parallel()
	o, c := newOrigin(), open(t, Options{})
	data := noise(5*mib, 93)
	d := o.put(data)
	p := c.paces.of("docker.io", "h")
	p.n = 4
	o.blob = func(_ int, _ oci.Digest, off, end int64) (*Body, error) {
		whole := end < 0
		if whole {
			end = int64(len(data))
		}
		b, err := body(-1, off, step{data: data[off:end]})
		b.Whole = whole
		return b, err
	}
	repo := o.repo("a")
	repo.Policy = &Policy{MaxStreams: 4}
	c.want(repo, d, OutcomeMiss)
	c.idle()
	c.want(repo, d, OutcomeHit)
}
