package upstream

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"cistern/internal/oci"
)

// TestImpatientCallers: a fault before the caller's end still counts, and so
// does a silence as long as a connection may take; a short deadline does not, nor
// one that passed long ago.
func TestImpatientCallers(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithDeadline(t.Context(), time.Unix(0, 0))
	defer cancel()
	late := ended(ctx, "host")
	passing := &Error{Class: oci.ErrUnavailable, Err: errDown, fault: faultPassing}
	for name, tc := range map[string]struct {
		errs []error
		want error
	}{
		"fine":                  {[]error{nil}, nil},
		"404":                   {[]error{&Error{Class: oci.ErrNotFound}}, nil},
		"fault":                 {[]error{passing}, errDown},
		"fault, then fine":      {[]error{passing, nil}, nil},
		"fault, then 404":       {[]error{passing, &Error{Class: oci.ErrNotFound}}, nil},
		"deadline":              {[]error{silent(t.Context(), late, time.Second)}, errNothing},
		"long silence":          {[]error{silent(t.Context(), late, silence)}, errDown},
		"we stood still":        {[]error{silent(ctx, late, silence)}, errNothing},
		"fault, then deadline":  {[]error{passing, late}, errDown},
		"fault, then cancelled": {[]error{passing, &Error{Err: context.Canceled}}, errDown},
		"cancelled after long":  {[]error{silent(t.Context(), &Error{Err: context.Canceled}, time.Hour)}, errNothing},
	} {
		ep := newEndpoint(parseURL(t, "http://host"))
		c := &call{visits: map[*endpoint]*visit{ep: {}}}
		for _, err := range tc.errs {
			c.note(ep, err)
		}
		if got := c.visits[ep].err; !errors.Is(got, tc.want) || tc.want == nil && got != nil {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}

// TestSlowProbe: whoever waits for a probe has its outcome, also where that
// takes longer than the wait for a probe to start.
func TestSlowProbe(t *testing.T) {
	t.Parallel()
	var broken atomic.Bool
	broken.Store(true)
	u := open(t, Options{Endpoints: []string{serve(t, func(w http.ResponseWriter, _ *http.Request) {
		if broken.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		<-time.After(patience - probeAfter + 200*time.Millisecond)
		_, _ = io.WriteString(w, "{}")
	})}})
	if err := tags(u, "a/b"); err == nil {
		t.Fatal("no error")
	}
	broken.Store(false)
	if failed := herd(20, func() error { return tags(u, "a/b") }); failed != 0 {
		t.Errorf("%d failed", failed)
	}
}
