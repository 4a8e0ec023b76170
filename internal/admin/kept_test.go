package admin

import (
	"errors"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"cistern/cache"
)

// kept is a client of a handler whose cache fails with err where it may.
func kept(t *testing.T, err error) *Client {
	t.Helper()
	s := httptest.NewServer(admin(t, func(o *Options) { o.Kept = disk{err} }))
	t.Cleanup(s.Close)
	c, cerr := NewClient(s.URL, "")
	if cerr != nil {
		t.Fatal(cerr)
	}
	return c
}

// TestKept: the client reads what the handler says of what is kept.
func TestKept(t *testing.T) {
	t.Parallel()
	c, ctx := kept(t, nil), t.Context()
	digest := "sha256:" + strings.Repeat("ab", 32)
	if i, err := c.Image(ctx, "app"); err != nil || i.Image != "app" || i.Bytes != 7 {
		t.Errorf("%+v, %v", i, err)
	}
	if p, err := c.Blob(ctx, digest); err != nil || p.Digest != digest || !p.Here {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err := c.Blob(ctx, "sha256:ab"); err == nil || !strings.Contains(err.Error(), "name the digest") {
		t.Error(err)
	}
	if _, err := c.Image(ctx, ""); err == nil || !strings.Contains(err.Error(), "name the image") {
		t.Error(err)
	}
	if e, err := c.EvictNext(ctx, 5); err != nil || len(e.Next) != 1 || e.Next[0].Allocated != 5 {
		t.Errorf("%+v, %v", e, err)
	}
	if p, err := c.Pin(ctx, "app"); err != nil || p.Image != "app" {
		t.Errorf("%+v, %v", p, err)
	}
	if u, err := c.Unpin(ctx, "app"); err != nil || u.Image != "app" {
		t.Errorf("%+v, %v", u, err)
	}
	if l, err := c.Pins(ctx); err != nil || len(l.Pins) != 1 || l.Pins[0].Bytes != 7 {
		t.Errorf("%+v, %v", l, err)
	}
	if _, err := c.EvictNext(ctx, -1); err == nil {
		t.Error("less than nothing can be evicted")
	}
}

// TestImages: a list comes line by line, and one that ends early says why.
func TestImages(t *testing.T) {
	t.Parallel()
	for _, broken := range []error{nil, errors.New("the index is broken")} {
		var names []string
		err := kept(t, broken).Images(t.Context(), func(i cache.ImageInfo) error {
			names = append(names, i.Image)
			return nil
		})
		want := []string{"docker.io/library/app:1", "docker.io/library/app:2"}
		if broken != nil {
			want = want[:1]
		}
		if !slices.Equal(names, want) || (err == nil) != (broken == nil) {
			t.Errorf("%q, %v", names, err)
		}
	}
}
