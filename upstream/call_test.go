package upstream

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v5"

	"cistern/internal/oci"
)

const okTags = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"

func status(line string) string { return "HTTP/1.1 " + line + "\r\nContent-Length: 0\r\n\r\n" }

// TestOnePassingFault: whatever goes wrong once before the header is done over
// within a second, and the breaker stays closed.
func TestOnePassingFault(t *testing.T) {
	t.Parallel()
	good := []step{expect(nil), send(okTags)}
	for name, first := range map[string][]step{
		"rst at once":      {rst()},
		"fin at once":      {fin()},
		"rst after":        {expect(nil), rst()},
		"fin after":        {expect(nil), fin()},
		"cut header":       {expect(nil), send("HTTP/1.1 200 OK\r\nContent-Le"), fin()},
		"cut body":         {expect(nil), send(okTags[:len(okTags)-1]), fin()},
		"rst body":         {expect(nil), send(okTags[:len(okTags)-1]), rst()},
		"500":              {expect(nil), send(status("500 x"))},
		"502":              {expect(nil), send(status("502 x"))},
		"503":              {expect(nil), send(status("503 x"))},
		"504":              {expect(nil), send(status("504 x"))},
		"garbage":          {expect(nil), send("SSH-2.0-OpenSSH_9.2\r\n\r\n")},
		"no header":        {expect(nil)},
		"stall in body":    {expect(nil), send(okTags[:len(okTags)-1])},
		"endless 1xx":      {expect(nil), send(strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", 100_000)), fin()},
		"endless headers":  {expect(nil), send("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1<<20)), fin()},
		"two 503 in a row": {expect(nil), send(status("503 x")), expect(nil), send(status("503 x")), expect(nil), send(okTags)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := open(t, Options{Endpoints: []string{script(t, first, good)}, HeaderTimeout: 300 * time.Millisecond, StallTimeout: 300 * time.Millisecond})
			start := time.Now()
			if err := tags(u, "a/b"); err != nil {
				t.Fatal(err)
			}
			if d := time.Since(start); d > 1500*time.Millisecond {
				t.Errorf("took %s", d)
			}
			if !u.Healthy() {
				t.Error("not healthy")
			}
		})
	}
}

func TestNoRetry(t *testing.T) {
	t.Parallel()
	for code, class := range map[int]error{
		400: oci.ErrNotFound, 401: oci.ErrDenied, 403: oci.ErrDenied, 404: oci.ErrNotFound, 405: oci.ErrNotFound, 410: oci.ErrNotFound,
		429: oci.ErrLimited, 501: oci.ErrUnavailable, 204: oci.ErrCorrupt, 304: oci.ErrCorrupt, 206: oci.ErrCorrupt,
	} {
		var asked atomic.Int64
		u := open(t, Options{Endpoints: []string{serve(t, func(w http.ResponseWriter, _ *http.Request) {
			asked.Add(1)
			w.WriteHeader(code)
		})}})
		err := tags(u, "a/b")
		if !errors.Is(err, class) || asked.Load() != 1 || !u.Healthy() {
			t.Errorf("%d: %v after %d requests", code, err, asked.Load())
		}
	}
}

// TestClientLeaves: a caller's end is no failure of upstream.
func TestClientLeaves(t *testing.T) {
	t.Parallel()
	came := make(chan struct{}, 10)
	u := open(t, Options{Endpoints: []string{serve(t, func(_ http.ResponseWriter, r *http.Request) {
		came <- struct{}{}
		<-r.Context().Done()
	})}})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-came; cancel() }()
	if _, err := u.Resolve(ctx, "a/b", "latest"); !errors.Is(err, context.Canceled) || errors.Is(err, oci.ErrUnavailable) {
		t.Error(err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := u.Manifest(ctx, "a/b", "latest", ""); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, oci.ErrUnavailable) {
		t.Error(err)
	}
	if !u.Healthy() {
		t.Error("not healthy")
	}
}

// deadAddress is one where nobody listens.
func deadAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// TestBreaker: down, up again, and what a call costs meanwhile.
func TestBreaker(t *testing.T) {
	t.Parallel()
	addr := deadAddress(t)
	u := open(t, Options{Endpoints: []string{"http://" + addr}})
	start := time.Now()
	err := tags(u, "a/b")
	if d := time.Since(start); !errors.Is(err, oci.ErrUnavailable) || d > 1500*time.Millisecond {
		t.Fatalf("%v after %s", err, d)
	}
	contains(t, err, "connection refused", addr, "tags of a/b")
	if u.Healthy() {
		t.Error("healthy after a failed call")
	}
	start = time.Now()
	if _, err := u.Resolve(t.Context(), "a/b", "latest"); !errors.Is(err, oci.ErrUnavailable) || time.Since(start) > 50*time.Millisecond {
		t.Errorf("revalidation: %v after %s", err, time.Since(start))
	}
	contains(t, err, "connection refused")
	// A miss waits for the probe, and is answered within two seconds.
	start = time.Now()
	if err := tags(u, "a/b"); !errors.Is(err, oci.ErrUnavailable) || time.Since(start) > 1500*time.Millisecond {
		t.Errorf("a miss: %v after %s", err, time.Since(start))
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{}") })}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close(); <-done })
	start = time.Now()
	if err := tags(u, "a/b"); err != nil || time.Since(start) > 1100*time.Millisecond || !u.Healthy() {
		t.Errorf("recovery: %v after %s, healthy %v", err, time.Since(start), u.Healthy())
	}
}

// TestNoStampede: while upstream is down, a hundred callers send one probe at
// a time; all are answered soon, and when it is back all get through.
func TestNoStampede(t *testing.T) {
	t.Parallel()
	var broken atomic.Bool
	var asked, under, most atomic.Int64
	broken.Store(true)
	u := open(t, Options{Endpoints: []string{serve(t, func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		if n := under.Add(1); n > most.Load() {
			most.Store(n)
		}
		defer under.Add(-1)
		if broken.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, "{}")
	})}})
	if err := tags(u, "a/b"); err == nil {
		t.Fatal("no error")
	}
	asked.Store(0)
	most.Store(0)
	start := time.Now()
	failed := herd(100, func() error { return tags(u, "a/b") })
	if d := time.Since(start); failed != 100 || d > 2500*time.Millisecond {
		t.Errorf("%d failed, after %s", failed, d)
	}
	if asked.Load() > 3 || most.Load() > 1 {
		t.Errorf("%d probes, %d at once", asked.Load(), most.Load())
	}
	broken.Store(false)
	if failed := herd(100, func() error { return tags(u, "a/b") }); failed != 0 {
		t.Errorf("%d failed although it is back", failed)
	}
}

func herd(n int, f func() error) (failed int) {
	var wg sync.WaitGroup
	var bad atomic.Int64
	for range n {
		wg.Go(func() {
			if f() != nil {
				bad.Add(1)
			}
		})
	}
	wg.Wait()
	return int(bad.Load())
}

// TestProbeOfOneWhoLeaves: a cancelled probe lets the next one through.
func TestProbeOfOneWhoLeaves(t *testing.T) {
	t.Parallel()
	var mode atomic.Int64 // 0: 503, 1: hang, 2: fine
	came := make(chan struct{}, 100)
	u := open(t, Options{Endpoints: []string{serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch mode.Load() {
		case 0:
			w.WriteHeader(http.StatusServiceUnavailable)
		case 1:
			came <- struct{}{}
			<-r.Context().Done()
		default:
			_, _ = io.WriteString(w, "{}")
		}
	})}})
	if err := tags(u, "a/b"); err == nil {
		t.Fatal("no error")
	}
	mode.Store(1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-came; mode.Store(2); cancel() }()
	if _, err := u.Tags(ctx, "a/b", -1, ""); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if err := tags(u, "a/b"); err != nil || !u.Healthy() {
		t.Error(err)
	}
}

// TestPause: a fault is no reason to wait as long as another endpoint can be asked.
func TestPause(t *testing.T) {
	t.Parallel()
	u := open(t, Options{Endpoints: []string{"http://127.0.0.1:1", "http://127.0.0.1:2"}})
	c := &call{visits: map[*endpoint]*visit{u.endpoints[0]: {}}}
	p := &pause{ExponentialBackOff: backoff.ExponentialBackOff{InitialInterval: retryDelay, Multiplier: 3, MaxInterval: time.Second}, u: u, c: c}
	if wait := p.NextBackOff(); wait != 0 {
		t.Errorf("it waits for %s before it asks the second", wait)
	}
	c.visits[u.endpoints[1]] = &visit{}
	if wait := p.NextBackOff(); wait < retryDelay {
		t.Errorf("both were asked, and it waits for %s", wait)
	}
}

// TestEndpoints: the second one is asked at once when the first fails, faults
// in a row put the first behind, and the only one is never out.
func TestEndpoints(t *testing.T) {
	t.Parallel()
	var bad, good atomic.Int64
	first := serve(t, func(w http.ResponseWriter, _ *http.Request) { bad.Add(1); w.WriteHeader(http.StatusBadGateway) })
	second := serve(t, func(w http.ResponseWriter, _ *http.Request) { good.Add(1); _, _ = io.WriteString(w, "{}") })
	u := open(t, Options{Endpoints: []string{first, second}})
	for range 10 {
		if err := tags(u, "a/b"); err != nil {
			t.Fatal(err)
		}
	}
	if bad.Load() != faultsInRow || good.Load() != 10 || !u.Healthy() {
		t.Errorf("first asked %d, second %d times", bad.Load(), good.Load())
	}
	s := u.Stats()
	if !s.Endpoints[0].Marked || s.Endpoints[1].Marked || !strings.Contains(s.Endpoints[0].LastError, "502") || s.Endpoints[0].LastErrorAt.IsZero() {
		t.Errorf("%+v", s.Endpoints)
	}
}

// TestLacking: what one endpoint does not have is asked of the other, also if that has just failed once; what neither has is not there.
func TestLacking(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		first, second []int // statuses of each in turn, then 200
		class         error
		asked         int64
	}{
		"the first lacks it":                  {[]int{404}, nil, nil, 2},
		"the second lacks it":                 {nil, []int{404}, nil, 1},
		"the second, when the first fails":    {[]int{503}, []int{404}, nil, 3},
		"both":                                {[]int{404}, []int{404}, oci.ErrNotFound, 2},
		"the first, when the second fails":    {[]int{404}, []int{503}, nil, 3},
		"the first, and the second is down":   {[]int{404}, []int{503, 503}, oci.ErrUnavailable, 3},
		"the second, and the first is down":   {[]int{503, 503}, []int{404}, oci.ErrUnavailable, 3},
		"the first refuses it, that is final": {[]int{403}, nil, oci.ErrDenied, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var asked atomic.Int64
			answers := func(statuses []int) string {
				var n atomic.Int64
				return serve(t, func(w http.ResponseWriter, _ *http.Request) {
					asked.Add(1)
					if i := int(n.Add(1)); i <= len(statuses) {
						w.WriteHeader(statuses[i-1])
						return
					}
					_, _ = io.WriteString(w, "{}")
				})
			}
			u := open(t, Options{Endpoints: []string{answers(tc.first), answers(tc.second)}})
			if err := tags(u, "a/b"); !errors.Is(err, tc.class) || asked.Load() != tc.asked {
				t.Errorf("%v after %d requests", err, asked.Load())
			}
		})
	}
}

// TestLackingBesideOneThatIsDown: a blob that is not there, and may be at the other one, is unavailable; a tag is not there.
func TestLackingBesideOneThatIsDown(t *testing.T) {
	t.Parallel()
	down := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	lacks := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) })
	u := open(t, Options{Endpoints: []string{down, lacks}})
	done, err := u.endpoints[0].breaker.Allow()
	if err != nil {
		t.Fatal(err)
	}
	done(errDown)
	if err := tags(u, "a/b"); !errors.Is(err, oci.ErrNotFound) {
		t.Error(err)
	}
	if _, err := u.Blob(t.Context(), "a/b", oci.FromBytes([]byte("good")), 0, -1); !errors.Is(err, oci.ErrUnavailable) {
		t.Error(err)
	}
}

func TestBlamedEndpoint(t *testing.T) {
	t.Parallel()
	answer := func(text string) string {
		return serve(t, func(w http.ResponseWriter, r *http.Request) {
			http.ServeContent(w, r, "", zeroTime, strings.NewReader(text))
		})
	}
	u := open(t, Options{Endpoints: []string{answer("bad"), answer("good")}})
	for _, want := range []string{"bad", "good", "good"} {
		b, err := u.Blob(t.Context(), "a/b", oci.FromBytes([]byte("good")), 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(b)
		if string(got) != want || err != nil {
			t.Errorf("got %q %v, want %q", got, err, want)
		}
		if want == "bad" {
			b.Blame()
		}
		_ = b.Close()
	}
	// One that failed, and is behind for that, goes before one that sent wrong bytes later.
	u = open(t, Options{Endpoints: []string{answer("bad"), answer("good")}})
	for range faultsInRow {
		u.endpoints[1].faulty(errDown)
	}
	for _, want := range []string{"bad", "good", "good"} {
		b, err := u.Blob(t.Context(), "a/b", oci.FromBytes([]byte("good")), 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(b); string(got) != want || err != nil {
			t.Errorf("got %q %v, want %q", got, err, want)
		}
		if want == "bad" {
			b.Blame()
		}
		_ = b.Close()
	}
	only := open(t, Options{Endpoints: []string{answer("bad")}})
	for range 3 {
		b, err := only.Blob(t.Context(), "a/b", oci.FromBytes([]byte("good")), 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		b.Blame()
		_ = b.Close()
	}
	if s := only.Stats(); s.VerifyFailures != 3 || !s.Up {
		t.Errorf("%+v", s)
	}
}

// TestLimited: a 429 is repeated here until its time is over; HEAD and blobs
// are apart from the pulls that are counted.
func TestLimited(t *testing.T) {
	t.Parallel()
	var asked, heads atomic.Int64
	u := open(t, Options{Endpoints: []string{serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Ratelimit-Limit", "100;w=21600")
		w.Header().Set("Ratelimit-Remaining", "0;w=21600")
		if r.Method == http.MethodHead {
			heads.Add(1)
			return
		}
		asked.Add(1)
		w.Header().Set("Retry-After", "30")
		w.WriteHeader(http.StatusTooManyRequests)
	})}})
	now := time.Now()
	u.limits.now = func() time.Time { return now }
	for i := range 5 {
		_, err := u.Manifest(t.Context(), "a/b", "latest", "")
		var e *Error
		if !errors.Is(err, oci.ErrLimited) || !errors.As(err, &e) || e.RetryAfter != 30*time.Second-time.Duration(i)*time.Second || e.Status != 429 {
			t.Fatalf("%d: %v", i, err)
		}
		now = now.Add(time.Second)
	}
	if _, err := u.Resolve(t.Context(), "a/b", "latest"); err != nil || heads.Load() != 1 {
		t.Errorf("HEAD: %v", err)
	}
	if asked.Load() != 1 || !u.Healthy() {
		t.Errorf("asked %d times", asked.Load())
	}
	now = now.Add(30 * time.Second)
	if _, err := u.Manifest(t.Context(), "a/b", "latest", ""); !errors.Is(err, oci.ErrLimited) || asked.Load() != 2 {
		t.Errorf("the next window: %v, asked %d times", err, asked.Load())
	}
	s := u.Stats()
	if !s.RateLimitKnown || s.RateLimit != 100 || s.RateLimitRemaining != 0 || s.Requests[RequestKey{oci.KindManifest, 429}] != 2 || s.Requests[RequestKey{oci.KindManifest, 200}] != 1 {
		t.Errorf("%+v", s)
	}
}

// TestSlots: at most MaxConnections are under way, waiting ends with the
// context, and blobs leave room for manifests.
func TestSlots(t *testing.T) {
	t.Parallel()
	s := newSlots(8)
	var frees []func()
	for range 7 {
		free, err := s.take(t.Context(), true)
		if err != nil {
			t.Fatal(err)
		}
		frees = append(frees, free)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := s.take(ctx, true); err == nil {
		t.Error("an eighth blob")
	}
	free, err := s.take(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.take(ctx, false); err == nil {
		t.Error("a ninth request")
	}
	for _, f := range append(frees, free) {
		f()
	}
	if free, err := s.take(t.Context(), true); err != nil {
		t.Error(err)
	} else {
		free()
	}
	free, err = newSlots(1).take(t.Context(), true)
	if err != nil {
		t.Error("one slot: no blob")
	} else {
		free()
	}
}
