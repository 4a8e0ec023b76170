package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"cistern/internal/leaktest"
	"cistern/internal/oci"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// rig is an open cache with what its test needs, on real files.
type rig struct {
	*Cache
	t     testing.TB
	close func()
}

// open opens a cache, which the test's end closes at the latest: then nothing
// may be in flight, reserved, or read.
func open(t testing.TB, o Options) *rig {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	c, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{Cache: c, t: t}
	r.close = sync.OnceFunc(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if s := c.Stats(); s.FillsInFlight != 0 || s.FlightReaders != 0 || s.Reserved != 0 {
			t.Errorf("left behind: %d fills, %d readers, %d bytes reserved", s.FillsInFlight, s.FlightReaders, s.Reserved)
		}
		if c.store != nil && c.store.Usage().EvictedOpen != 0 {
			t.Errorf("left behind: %d bytes evicted and open", c.store.Usage().EvictedOpen)
		}
	})
	t.Cleanup(r.close)
	return r
}

// origin is an upstream in memory: it serves what it was given, counts what is
// asked of it, and does otherwise where a hook says so. One origin stands for
// one repository. It is a cache.Source.
type origin struct {
	mu      sync.Mutex // guards all below; hooks are called without it
	blobs   map[oci.Digest][]byte
	named   map[string]*Manifest // by tag and digest
	asked   map[string]int       // "blob", "info", "manifest", "resolve"
	ranges  []string             // of blobs, as "off-end"
	private bool
	sick    bool // not healthy

	// blob, if set, answers the n-th request for a blob, from 1; nil and no
	// error: as usual.
	blob func(n int, d oci.Digest, off, end int64) (*Body, error)
	// refuse, if set, may fail a request of a kind ("info" ...) for a digest
	// or tag.
	refuse func(ctx context.Context, kind, ref string) error
	// mute: the digest is not named in answers to Resolve.
	mute   bool
	blamed int
}

var _ Source = (*origin)(nil)

func newOrigin() *origin {
	return &origin{blobs: map[oci.Digest][]byte{}, named: map[string]*Manifest{}, asked: map[string]int{}}
}

// repo is a repository of the origin.
func (o *origin) repo(name string) *Repository {
	return &Repository{
		Repository: oci.Repository{Upstream: "docker.io", Name: name}, Source: o,
		Policy: &Policy{StaleIfError: time.Hour},
	}
}

func (o *origin) put(data []byte) oci.Digest {
	d := oci.FromBytes(data)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.blobs[d] = data
	return d
}

// tag points a tag at a manifest.
func (o *origin) tag(name string, text string) oci.Digest {
	d := oci.FromBytes([]byte(text))
	o.mu.Lock()
	defer o.mu.Unlock()
	m := &Manifest{Bytes: []byte(text), MediaType: oci.MediaTypeOCIManifest, Digest: d}
	o.named[name], o.named[d.String()] = m, m
	return d
}

// image is a manifest's text.
func (o *origin) image(layers ...oci.Digest) string {
	s := `{"schemaVersion":2,"layers":[`
	for i, d := range layers {
		if i > 0 {
			s += ","
		}
		s += fmt.Sprintf(`{"digest":%q,"size":%d}`, d, len(o.blobs[d]))
	}
	return s + "]}"
}

func (o *origin) count(kind string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.asked[kind]
}

// ask counts a request and fails it where it should fail.
func (o *origin) ask(ctx context.Context, kind, ref string) (n int, err error) {
	o.mu.Lock()
	o.asked[kind]++
	n = o.asked[kind]
	o.mu.Unlock()
	if o.refuse != nil {
		return n, o.refuse(ctx, kind, ref)
	}
	return n, nil
}

func (o *origin) Healthy() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return !o.sick
}

func (o *origin) Manifest(ctx context.Context, ref string) (*Manifest, error) {
	if _, err := o.ask(ctx, "manifest", ref); err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	m, ok := o.named[ref]
	if !ok {
		return nil, oci.ErrNotFound
	}
	sent := *m
	sent.Private = o.private
	return &sent, nil
}

func (o *origin) Resolve(ctx context.Context, ref string) (Resolved, error) {
	if _, err := o.ask(ctx, "resolve", ref); err != nil {
		return Resolved{}, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	m, ok := o.named[ref]
	if !ok {
		return Resolved{}, oci.ErrNotFound
	}
	r := Resolved{Descriptor: m.descriptor(), Private: o.private}
	if o.mute {
		r.Digest = oci.Digest{}
	}
	return r, nil
}

func (o *origin) BlobInfo(ctx context.Context, d oci.Digest) (Resolved, error) {
	if _, err := o.ask(ctx, "info", d.String()); err != nil {
		return Resolved{}, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	data, ok := o.blobs[d]
	if !ok {
		return Resolved{}, oci.ErrNotFound
	}
	return Resolved{Descriptor: oci.Descriptor{Digest: d, Size: int64(len(data))}, Private: o.private}, nil
}

func (o *origin) Blob(ctx context.Context, d oci.Digest, off, end int64) (*Body, error) {
	n, err := o.ask(ctx, "blob", d.String())
	if err != nil {
		return nil, err
	}
	o.mu.Lock()
	o.ranges = append(o.ranges, fmt.Sprintf("%d-%d", off, end))
	data, ok := o.blobs[d]
	private := o.private
	o.mu.Unlock()
	if o.blob != nil {
		b, err := o.blob(n, d, off, end)
		if err != nil {
			return nil, err
		}
		if b != nil {
			b.Blame = o.blame
			b.ReadCloser.(*script).ctx = ctx
			return b, nil
		}
	}
	if !ok {
		return nil, oci.ErrNotFound
	}
	if off >= int64(len(data)) && off > 0 {
		return nil, fmt.Errorf("416: %w", oci.ErrCorrupt)
	}
	whole := off == 0 && end < 0
	if end < 0 || end > int64(len(data)) {
		end = int64(len(data))
	}
	return &Body{ReadCloser: &script{ctx: ctx, steps: []step{{data: data[off:end]}}}, Size: int64(len(data)), Offset: off, Whole: whole, Private: private, Blame: o.blame}, nil
}

func (o *origin) blame() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.blamed++
}

// step is what a scripted body does next: wait, give bytes, or fail.
type step struct {
	wait <-chan struct{}
	data []byte
	err  error
}

// script is a body that follows its steps, then ends.
type script struct {
	ctx    context.Context
	steps  []step
	closed func() // nil: nothing
}

func (s *script) Read(p []byte) (int, error) {
	for len(s.steps) > 0 {
		now := &s.steps[0]
		if now.wait != nil {
			select {
			case <-now.wait:
				now.wait = nil
			case <-s.ctx.Done():
				return 0, s.ctx.Err()
			}
		}
		if len(now.data) > 0 {
			n := copy(p, now.data)
			now.data = now.data[n:]
			return n, nil
		}
		if now.err != nil {
			return 0, now.err
		}
		s.steps = s.steps[1:]
	}
	return 0, io.EOF
}

func (s *script) Close() error {
	if s.closed != nil {
		s.closed()
	}
	return nil
}

// body is a scripted answer that starts at off.
func body(size, off int64, steps ...step) (*Body, error) {
	return &Body{ReadCloser: &script{steps: steps}, Size: size, Offset: off}, nil
}

// noise is n bytes that nothing could fake.
func noise(n int, seed uint64) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(b)
	return b
}

// get reads a blob to its end.
func (r *rig) get(repo *Repository, d oci.Digest) ([]byte, Outcome, error) {
	c, err := r.Blob(context.Background(), repo, d)
	if err != nil {
		return nil, OutcomeError, err
	}
	defer c.Close()
	data, err := readAll(c)
	return data, c.Outcome, err
}

// readAll reads a content to its end, into room for all of it: a slice that grows
// is copied again and again, under the eyes of the race detector.
func readAll(c *Content) ([]byte, error) {
	if c.Reader == nil {
		return bytes.Clone(c.Bytes), nil
	}
	got := bytes.NewBuffer(make([]byte, 0, min(max(0, c.Size), 32*mib)+bytes.MinRead))
	_, err := got.ReadFrom(struct{ io.Reader }{c.Reader})
	return got.Bytes(), err
}

// want reads a blob to its end and expects it to be right.
func (r *rig) want(repo *Repository, d oci.Digest, outcome Outcome) {
	r.t.Helper()
	data, o, err := r.get(repo, d)
	if err != nil || oci.FromBytes(data) != d || o != outcome {
		r.t.Errorf("%s: %d bytes, %v, %v; want %v", repo, len(data), o, err, outcome)
	}
}

// until waits for something that another goroutine does.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("waited for ten seconds, and not: %s", what)
		}
	}
}

// idle waits until no fill is under way.
func (r *rig) idle() {
	r.t.Helper()
	until(r.t, "no fill is under way", func() bool { return len(r.flights.All()) == 0 })
}

var errReset = fmt.Errorf("connection reset: %w", errors.Join(io.ErrUnexpectedEOF, oci.ErrUnavailable))
