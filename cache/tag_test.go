package cache

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"sync"
	"testing"
	"time"

	"cistern/internal/oci"
)

func TestJudge(t *testing.T) {
	t.Parallel()
	const fresh, stale = time.Minute, time.Hour
	for _, c := range []struct {
		age, fresh, stale time.Duration
		healthy           bool
		want              verdict
	}{
		{0, fresh, stale, true, serve},
		{fresh - 1, fresh, stale, true, serve},
		{fresh - 1, fresh, stale, false, serve},
		{fresh, fresh, stale, true, askOrStale},
		{fresh, fresh, stale, false, serveStale},
		{fresh + stale - 1, fresh, stale, true, askOrStale},
		{fresh + stale - 1, fresh, stale, false, serveStale},
		{fresh + stale, fresh, stale, true, ask},
		{fresh + stale, fresh, stale, false, ask},
		{0, 0, stale, true, askOrStale}, // a freshness of zero: always ask
		{0, 0, 0, true, ask},
		{0, 0, 0, false, ask},
		{fresh, fresh, 0, false, ask},
		{-1, fresh, stale, true, askOrStale}, // the clock was set back
		{-365 * 24 * time.Hour, fresh, stale, true, askOrStale},
		{-365 * 24 * time.Hour, fresh, stale, false, serveStale},
		{-time.Hour, fresh, 0, true, ask},
		{-time.Hour, fresh, 0, false, ask},
		{365 * 24 * time.Hour, fresh, stale, true, ask}, // and on
		{10 * 365 * 24 * time.Hour, fresh, stale, false, ask},
	} {
		if got := judge(c.age, c.fresh, c.stale, c.healthy); got != c.want {
			t.Errorf("judge(%v, %v, %v, %v) = %d, want %d", c.age, c.fresh, c.stale, c.healthy, got, c.want)
		}
	}
}

func TestPolicyFresh(t *testing.T) {
	t.Parallel()
	p := Policy{Tags: []TagRule{
		{regexp.MustCompile(`^v\d+\.\d+\.\d+$`), time.Hour}, {regexp.MustCompile(`rc`), 0},
	}}
	for tag, want := range map[string]time.Duration{"v1.2.3": time.Hour, "v1.2.3-rc1": 0, "latest": DefaultFresh} {
		if got := p.Fresh(tag); got != want {
			t.Errorf("%s: %v", tag, got)
		}
	}
}

// tagged asks for a tag of repository a.
func (r *rig) tagged(o *origin, tag string, fresh time.Duration) (*Content, error) {
	repo := o.repo("a")
	repo.Policy.Tags = []TagRule{{regexp.MustCompile(""), fresh}}
	return r.Manifest(context.Background(), repo, oci.Reference{Repository: repo.Repository, Tag: tag})
}

func (r *rig) head(o *origin, tag string, fresh time.Duration) (*Content, error) {
	repo := o.repo("a")
	repo.Policy.Tags = []TagRule{{regexp.MustCompile(""), fresh}}
	return r.StatManifest(context.Background(), repo, oci.Reference{Repository: repo.Repository, Tag: tag})
}

// TestTagCosts counts what each kind of question costs upstream.
func TestTagCosts(t *testing.T) {
	t.Parallel()
	o, c := newOrigin(), open(t, Options{})
	d := o.tag("v1", o.image())
	steps := []struct {
		name                    string
		ask                     func() (*Content, error)
		outcome                 Outcome
		manifests, heads, later int
	}{
		{"first HEAD", func() (*Content, error) { return c.head(o, "v1", time.Hour) }, OutcomeMiss, 0, 1, 0},
		{"GET after a HEAD", func() (*Content, error) { return c.tagged(o, "v1", time.Hour) }, OutcomeMiss, 1, 0, 0},
		{"fresh", func() (*Content, error) { return c.tagged(o, "v1", time.Hour) }, OutcomeHit, 0, 0, 0},
		{"fresh HEAD", func() (*Content, error) { return c.head(o, "v1", time.Hour) }, OutcomeHit, 0, 0, 0},
		{"not fresh", func() (*Content, error) { return c.tagged(o, "v1", 0) }, OutcomeHit, 0, 1, 0},
	}
	for _, s := range steps {
		manifests, heads := o.count("manifest"), o.count("resolve")
		m, err := s.ask()
		if err != nil || m.Digest != d || m.Outcome != s.outcome {
			t.Errorf("%s: %+v, %v", s.name, m, err)
		}
		if m, h := o.count("manifest")-manifests, o.count("resolve")-heads; m != s.manifests || h != s.heads {
			t.Errorf("%s: %d GETs and %d HEADs", s.name, m, h)
		}
	}
}

// TestOneQuestionForAll: however many wait, upstream is asked once.
func TestOneQuestionForAll(t *testing.T) {
	t.Parallel()
	o, c := newOrigin(), open(t, Options{})
	o.tag("v1", o.image())
	if _, err := c.tagged(o, "v1", 0); err != nil {
		t.Fatal(err)
	}
	asked := make(chan struct{})
	answer := make(chan struct{})
	var once sync.Once
	o.refuse = func(_ context.Context, kind, _ string) error {
		if kind == "resolve" {
			once.Do(func() { close(asked) })
			<-answer
		}
		return nil
	}
	var wg sync.WaitGroup
	var arrived sync.WaitGroup
	ask := func() {
		defer wg.Done()
		if m, err := c.tagged(o, "v1", 0); err != nil || m.Outcome != OutcomeHit {
			t.Errorf("%+v, %v", m, err)
		}
	}
	wg.Add(1)
	go ask()
	<-asked
	for range 20 {
		wg.Add(1)
		arrived.Add(1)
		go func() { arrived.Done(); ask() }()
	}
	arrived.Wait()
	close(answer)
	wg.Wait()
	if n := o.count("resolve"); n > 3 { // those who came after the answer may ask again
		t.Errorf("%d questions", n)
	}
}

func TestHeadWithoutDigest(t *testing.T) {
	t.Parallel()
	o, c := newOrigin(), open(t, Options{})
	o.mute = true
	d := o.tag("v1", o.image())
	for _, ask := range []func(*origin, string, time.Duration) (*Content, error){c.head, c.tagged, c.head} {
		if m, err := ask(o, "v1", 0); err != nil || m.Digest != d {
			t.Errorf("%+v, %v", m, err)
		}
	}
}

// TestSchema1: what is not named by its bytes is passed on and not kept.
func TestSchema1(t *testing.T) {
	t.Parallel()
	o, c := newOrigin(), open(t, Options{})
	d := oci.FromBytes([]byte("the payload without signatures"))
	o.named["old"] = &Manifest{Bytes: []byte("{}"), MediaType: oci.MediaTypeDockerSchema1Signed, Digest: d, Unkept: true}
	for range 2 {
		m, err := c.tagged(o, "old", time.Hour)
		if err != nil || m.Outcome != OutcomePass || string(m.Bytes) != "{}" {
			t.Errorf("%+v, %v", m, err)
		}
	}
	if _, here := c.find(d); here || o.count("manifest") != 2 {
		t.Error("it was kept")
	}
}

// TestStale goes through what upstream may do to a tag that is known here and
// not fresh.
func TestStale(t *testing.T) {
	t.Parallel()
	for name, err := range map[string]error{"unavailable": oci.ErrUnavailable, "limited": oci.ErrLimited, "corrupt": oci.ErrCorrupt} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o, c := newOrigin(), open(t, Options{})
			layer := o.put(noise(100, 1))
			d := o.tag("v1", o.image(layer))
			if _, err := c.tagged(o, "v1", 0); err != nil {
				t.Fatal(err)
			}
			o.refuse = func(context.Context, string, string) error { return fmt.Errorf("test: %w", err) }
			m, merr := c.tagged(o, "v1", 0)
			limited := errors.Is(err, oci.ErrLimited) // then blobs can be had
			if limited != (merr == nil) || merr != nil && !errors.Is(merr, err) {
				t.Errorf("without its layer: %+v, %v", m, merr)
			}
			o.refuse = nil
			c.want(o.repo("a"), layer, OutcomeMiss)
			c.idle()
			o.refuse = func(context.Context, string, string) error { return fmt.Errorf("test: %w", err) }
			m, merr = c.tagged(o, "v1", 0)
			if merr != nil || m.Digest != d || m.Outcome != OutcomeStale || m.Stale == "" {
				t.Errorf("with its layer: %+v, %v", m, merr)
			}
			o.sick = true
			if m, merr = c.tagged(o, "v1", 0); merr != nil || m.Outcome != OutcomeStale {
				t.Errorf("known to be down: %+v, %v", m, merr)
			}
		})
	}
	for name, err := range map[string]error{"not found": oci.ErrNotFound, "denied": oci.ErrDenied} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o, c := newOrigin(), open(t, Options{})
			o.tag("v1", o.image())
			if _, err := c.tagged(o, "v1", 0); err != nil {
				t.Fatal(err)
			}
			o.refuse = func(context.Context, string, string) error { return err }
			if m, merr := c.tagged(o, "v1", 0); !errors.Is(merr, err) {
				t.Errorf("%+v, %v", m, merr)
			}
		})
	}
}

// TestSlowUpstream: a copy stands in after a second; where none may, the answer
// is waited for.
func TestSlowUpstream(t *testing.T) {
	t.Parallel()
	for _, whole := range []bool{true, false} {
		o, c := newOrigin(), open(t, Options{})
		layer := o.put(noise(100, 2))
		d := o.tag("v1", o.image(layer))
		if _, err := c.tagged(o, "v1", 0); err != nil {
			t.Fatal(err)
		}
		if whole {
			c.want(o.repo("a"), layer, OutcomeMiss)
			c.idle()
		}
		answer := make(chan struct{})
		o.refuse = func(ctx context.Context, kind, _ string) error {
			if kind == "resolve" {
				select {
				case <-answer:
				case <-ctx.Done():
				}
			}
			return nil
		}
		if !whole {
			time.AfterFunc(staleWait*3/2, func() { close(answer) })
		}
		m, err := c.tagged(o, "v1", 0)
		want := map[bool]Outcome{true: OutcomeStale, false: OutcomeHit}[whole]
		if err != nil || m.Digest != d || m.Outcome != want {
			t.Errorf("whole %v: %+v, %v", whole, m, err)
		}
	}
}

// TestNegative: a refusal is remembered for what was asked, and for nothing
// else: a digest that is no manifest may be a blob.
func TestNegative(t *testing.T) {
	t.Parallel()
	o, c := newOrigin(), open(t, Options{})
	repo := o.repo("a")
	layer, d := o.put(noise(100, 3)), o.tag("v1", o.image())
	byDigest := func(d oci.Digest) error {
		_, err := c.Manifest(t.Context(), repo, oci.Reference{Repository: repo.Repository, Digest: d})
		return err
	}
	for range 3 {
		if err := byDigest(layer); !errors.Is(err, oci.ErrNotFound) {
			t.Error(err)
		}
		if _, _, err := c.get(repo, d); !errors.Is(err, oci.ErrNotFound) {
			t.Error(err)
		}
		if _, err := c.head(o, "none", time.Hour); !errors.Is(err, oci.ErrNotFound) {
			t.Error(err)
		}
	}
	if o.count("manifest") != 1 || o.count("blob") != 1 || o.count("resolve") != 1 {
		t.Errorf("upstream was asked %v", o.asked)
	}
	if _, err := c.Stat(t.Context(), repo, layer); err != nil {
		t.Errorf("HEAD of a blob after its manifest was not found: %v", err)
	}
	c.want(repo, layer, OutcomeMiss)
	if err := byDigest(d); err != nil {
		t.Errorf("a manifest after its blob was not found: %v", err)
	}
	c.idle()
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.goneTags); n != 0 {
		t.Errorf("%d tags that never were are to be deleted", n)
	}
}

// TestDocuments: fetched once for all who wait, failures are not kept, and
// large ones are not either.
func TestDocuments(t *testing.T) {
	t.Parallel()
	c := open(t, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	started, finish := make(chan struct{}), make(chan struct{})
	left := make(chan struct{})
	go func() {
		defer close(left)
		if _, _, err := c.Document(ctx, "k", func(context.Context) (*Document, error) {
			close(started)
			<-finish
			return &Document{Bytes: []byte("x")}, nil
		}); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}()
	<-started
	cancel()
	<-left
	close(finish)
	until(t, "the document is kept", func() bool { return c.docs.Contains("k") })
	if d, o, err := c.Document(t.Context(), "k", nil); err != nil || o != OutcomeHit || string(d.Bytes) != "x" {
		t.Errorf("%v, %v, %v", d, o, err)
	}
	for range 2 {
		if _, o, err := c.Document(t.Context(), "bad", func(context.Context) (*Document, error) { return nil, oci.ErrUnavailable }); !errors.Is(err, oci.ErrUnavailable) || o != OutcomeError {
			t.Errorf("%v, %v", o, err)
		}
		if _, o, err := c.Document(t.Context(), "large", func(context.Context) (*Document, error) {
			return &Document{Bytes: make([]byte, maxDocument+1)}, nil
		}); err != nil || o != OutcomeMiss {
			t.Errorf("%v, %v", o, err)
		}
	}
}

// TestRefreshedOnce: while upstream is down every answer is stale, and one
// question at a time waits in the background.
func TestRefreshedOnce(t *testing.T) {
	t.Parallel()
	o, c := newOrigin(), open(t, Options{})
	o.tag("v1", o.image())
	if _, err := c.tagged(o, "v1", 0); err != nil {
		t.Fatal(err)
	}
	o.sick = true
	o.refuse = func(ctx context.Context, _, _ string) error {
		<-ctx.Done()
		return oci.ErrUnavailable
	}
	for range 500 {
		if m, err := c.tagged(o, "v1", 0); err != nil || m.Outcome != OutcomeStale {
			t.Fatalf("%+v, %v", m, err)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.refreshing) != 1 || o.count("resolve") > 1 {
		t.Errorf("%d in the background, %d questions", len(c.refreshing), o.count("resolve"))
	}
}
