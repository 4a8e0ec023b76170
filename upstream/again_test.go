package upstream

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"cistern/internal/oci"
)

// TestAgain: more of a blob is asked for where it came from, without the registry and
// without what the registry is shown; when that is refused, or has gone, the registry is
// asked, and where it sends us then is what is known. (A request on a connection that is
// cut before the answer is sent once more by net/http.)
func TestAgain(t *testing.T) {
	t.Parallel()
	const text = "0123456789"
	for name, away := range map[string]http.HandlerFunc{
		"403": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) },
		"404": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) },
		"500": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
		"cut": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"login": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var asked, old atomic.Int64
			var expired atomic.Bool
			cdn := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Authorization") != "" {
					t.Error("the content host was shown the credentials")
				}
				if expired.Load() && r.URL.Query().Get("sig") == "SECRET1" {
					old.Add(1)
					away(w, r)
					return
				}
				http.ServeContent(w, r, "", zeroTime, strings.NewReader(text))
			})
			registry := basicRegistry(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, fmt.Sprintf("%s/x?sig=SECRET%d", cdn, asked.Add(1)), http.StatusTemporaryRedirect)
			}))
			u := open(t, Options{Endpoints: []string{serve(t, registry.ServeHTTP)}, Credentials: static(canary())})
			b, err := u.Blob(t.Context(), "a/b", oci.FromBytes([]byte(text)), 0, 2)
			for i := range 6 {
				if err != nil {
					t.Fatal(err)
				}
				got, rerr := io.ReadAll(b)
				if off := b.Offset; string(got) != text[off:off+2] || rerr != nil || !b.Private || b.Host != cdn[len("http://"):] {
					t.Errorf("%q at %d from %s, private %v: %v", got, off, b.Host, b.Private, rerr)
				}
				if i == 2 {
					expired.Store(true)
				}
				b, err = b.Again(t.Context(), int64(i), int64(i)+2)
			}
			if err != nil || b.Close() != nil || asked.Load() != 2 || old.Load() < 1 || old.Load() > 2 || !u.Healthy() {
				t.Errorf("%v; the registry was asked %d times, the old place %d; healthy %v", err, asked.Load(), old.Load(), u.Healthy())
			}
		})
	}
}

// TestAgainLeaves: who leaves while the known place does not answer is gone, and the
// registry is not asked for that.
func TestAgainLeaves(t *testing.T) {
	t.Parallel()
	const text = "0123456789"
	var asked atomic.Int64
	var hangs atomic.Bool
	began := make(chan struct{}, 1)
	cdn := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if hangs.Load() {
			began <- struct{}{}
			<-r.Context().Done()
			return
		}
		http.ServeContent(w, r, "", zeroTime, strings.NewReader(text))
	})
	u := open(t, Options{Endpoints: []string{serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		http.Redirect(w, r, cdn+"/x", http.StatusTemporaryRedirect)
	})}})
	b, err := u.Blob(t.Context(), "a/b", oci.FromBytes([]byte(text)), 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	_ = b.Close()
	hangs.Store(true)
	ctx, leave := context.WithCancel(t.Context())
	go func() { <-began; leave() }()
	if _, err := b.Again(ctx, 1, 2); err == nil {
		t.Fatal("no error")
	}
	hangs.Store(false)
	if b, err = b.Again(t.Context(), 1, 2); err != nil || b.Close() != nil || asked.Load() != 1 {
		t.Errorf("%v; the registry was asked %d times", err, asked.Load())
	}
}
