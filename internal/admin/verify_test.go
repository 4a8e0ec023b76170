package admin

import (
	"context"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"

	"cistern/cache"
)

// verifier finds one thing, and then does what the test says.
type verifier func(ctx context.Context, repair bool) error

func (do verifier) Verify(ctx context.Context, repair bool, v cache.Verification) (cache.VerifyProgress, error) {
	p := cache.VerifyProgress{Blobs: 1, OfBlobs: 2, Findings: 1}
	if do == nil {
		return p, cache.ErrVerifying
	}
	v.Progress(p)
	v.Found(cache.Finding{Digest: "sha256:ab", FirstBad: 7, Repaired: repair})
	p.Blobs = 2
	return p, do(ctx, repair)
}

func verifying(t *testing.T, do verifier) *Client {
	t.Helper()
	s := httptest.NewServer(admin(t, func(o *Options) { o.Verifier = do }))
	t.Cleanup(s.Close)
	c, err := NewClient(s.URL, "")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestVerify: findings and progress come as they are told, and an end that came too early
// is an error.
func TestVerify(t *testing.T) {
	t.Parallel()
	for _, repair := range []bool{false, true} {
		for _, broken := range []error{nil, errors.New("the disk is broken")} {
			var found []cache.Finding
			var last cache.VerifyProgress
			done, err := verifying(t, func(context.Context, bool) error { return broken }).Verify(t.Context(), repair, cache.Verification{
				Found: func(f cache.Finding) { found = append(found, f) }, Progress: func(p cache.VerifyProgress) { last = p },
			})
			if len(found) != 1 || found[0] != (cache.Finding{Digest: "sha256:ab", FirstBad: 7, Repaired: repair}) || last.Blobs != 1 {
				t.Errorf("%+v, %+v", found, last)
			}
			if broken == nil && (err != nil || done.Blobs != 2) || broken != nil && (err == nil || err.Error() != broken.Error()) {
				t.Errorf("%+v, %v", done, err)
			}
		}
	}
	if _, err := verifying(t, nil).Verify(t.Context(), false, cache.Verification{}); err == nil || !strings.Contains(err.Error(), "for somebody else") {
		t.Error(err)
	}
}

// TestVerifyEnds: it ends when nobody wants to know any more.
func TestVerifyEnds(t *testing.T) {
	t.Parallel()
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	c := verifying(t, func(ctx context.Context, _ bool) error {
		<-ctx.Done()
		ended <- ctx.Err()
		return ctx.Err()
	})
	if _, err := c.Verify(ctx, false, cache.Verification{Progress: func(cache.VerifyProgress) {}, Found: func(cache.Finding) { cancel() }}); err == nil {
		t.Error("it came to an end")
	}
	<-ended
}
