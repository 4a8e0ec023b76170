package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cistern/internal/oci"
)

// tokenRegistry is a registry with its token server on the same origin. It
// honours the token that it gave last for a scope.
type tokenRegistry struct {
	url  string
	life int
	gate chan struct{} // token answers wait for it, if set

	mu     sync.Mutex // guards what follows
	n      int
	good   map[string]bool
	scopes []string
	status int // of token answers; 0: 200
	asked  int // requests for content
	auths  []string
}

func newTokenRegistry(t *testing.T) *tokenRegistry {
	t.Helper()
	r := &tokenRegistry{good: map[string]bool{}, life: 300}
	r.url = serve(t, r.ServeHTTP)
	return r
}

func (r *tokenRegistry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.URL.Path == "/token" {
		r.token(w, req)
		return
	}
	r.mu.Lock()
	r.asked++
	ok := r.good[strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer ")]
	r.mu.Unlock()
	if !ok {
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="svc",scope="repository:user/image:pull"`, r.url))
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	_, _ = io.WriteString(w, `{"name":"x","tags":[]}`)
}

func (r *tokenRegistry) token(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	r.n++
	t := fmt.Sprintf("token-%d", r.n)
	r.scopes = append(r.scopes, req.URL.Query().Get("scope"))
	r.auths = append(r.auths, req.Header.Get("Authorization"))
	status, gate := r.status, r.gate
	if status == 0 {
		r.good[t] = true
	}
	r.mu.Unlock()
	if gate != nil {
		<-gate
	}
	if status != 0 {
		w.WriteHeader(status)
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"access_token": t, "expires_in": r.life})
}

func (r *tokenRegistry) counts() (tokens, content int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.n, r.asked
}

func (r *tokenRegistry) revoke() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.good)
}

func tags(u *Upstream, repo string) error {
	_, err := u.Tags(context.Background(), repo, -1, "")
	return err
}

func TestTokenIsSharedAndKept(t *testing.T) {
	t.Parallel()
	r := newTokenRegistry(t)
	u := open(t, Options{Endpoints: []string{r.url}})
	for range 3 {
		if err := tags(u, "a/b"); err != nil {
			t.Fatal(err)
		}
	}
	if n, asked := r.counts(); n != 1 || asked != 4 {
		t.Errorf("%d token and %d content requests", n, asked)
	}
	if err := tags(u, "c/d"); err != nil {
		t.Fatal(err)
	}
	// The second repository costs no 401: the challenge is known.
	if n, asked := r.counts(); n != 2 || asked != 5 || r.scopes[1] != "repository:c/d:pull" {
		t.Errorf("%d token and %d content requests, scopes %q", n, asked, r.scopes)
	}
}

// TestTokenSingleFlight: fifty callers cost one token; one that leaves does
// not end the fetch for the others.
func TestTokenSingleFlight(t *testing.T) {
	t.Parallel()
	r := newTokenRegistry(t)
	r.gate = make(chan struct{})
	u := open(t, Options{Endpoints: []string{r.url}, MaxConnections: 64})
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() {
		_, err := u.Tags(ctx, "a/b", -1, "")
		first <- err
	}()
	until(t, func() bool { n, _ := r.counts(); return n == 1 })
	var wg sync.WaitGroup
	errs := make(chan error, 49)
	for range 49 {
		wg.Go(func() { errs <- tags(u, "a/b") })
	}
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("the one who left: %v", err)
	}
	close(r.gate)
	wg.Wait()
	for range 49 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if n, _ := r.counts(); n != 1 {
		t.Errorf("%d token requests", n)
	}
}

// TestRevokedToken: a 401 to a kept token drops it and asks once more; to a
// token just made it is the answer.
func TestRevokedToken(t *testing.T) {
	t.Parallel()
	r := newTokenRegistry(t)
	u := open(t, Options{Endpoints: []string{r.url}})
	now := time.Now()
	u.auth.now = func() time.Time { return now }
	if err := tags(u, "a/b"); err != nil {
		t.Fatal(err)
	}
	r.revoke()
	now = now.Add(10 * time.Second)
	if err := tags(u, "a/b"); err != nil {
		t.Error(err)
	}
	if n, _ := r.counts(); n != 2 {
		t.Errorf("%d token requests", n)
	}
	r.revoke()
	if err := tags(u, "a/b"); !errors.Is(err, oci.ErrDenied) {
		t.Errorf("a young token: %v", err)
	}
	if n, _ := r.counts(); n != 2 {
		t.Errorf("%d token requests", n)
	}
}

// TestTokenRenewal: from two thirds of its life on a token is replaced in the
// background, before it expires and without anybody waiting.
func TestTokenRenewal(t *testing.T) {
	t.Parallel()
	r := newTokenRegistry(t)
	u := open(t, Options{Endpoints: []string{r.url}})
	start := time.Now()
	var elapsed atomic.Int64
	u.auth.now = func() time.Time { return start.Add(time.Duration(elapsed.Load())) }
	check := func(at time.Duration, tokens int) {
		t.Helper()
		elapsed.Store(int64(at))
		if err := tags(u, "a/b"); err != nil {
			t.Fatal(err)
		}
		until(t, func() bool { n, _ := r.counts(); return n >= tokens })
		if n, _ := r.counts(); n != tokens {
			t.Errorf("at %s: %d token requests, want %d", at, n, tokens)
		}
	}
	check(0, 1)
	check(199*time.Second, 1)
	check(201*time.Second, 2)
	until(t, func() bool { k, ok := u.auth.tokens.Peek(u.auth.tokens.Keys()[0]); return ok && k.value == "token-2" })
	check(300*time.Second, 2)
	_, asked := r.counts()
	// Long after its end: fetched anew before anything is sent.
	check(3000*time.Second, 3)
	if _, now := r.counts(); now != asked+1 {
		t.Errorf("an expired token cost %d content requests", now-asked)
	}
}

func TestParseToken(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	for in, want := range map[string]time.Duration{
		`{"token":"t"}`:                                                     time.Minute,
		`{"access_token":"t","expires_in":10}`:                              time.Minute,
		`{"token":"t","expires_in":-5}`:                                     time.Minute,
		`{"token":"t","expires_in":"3600"}`:                                 time.Hour,
		`{"token":"t","expires_in":3600.0}`:                                 time.Hour,
		`{"token":"t","expires_in":1e99}`:                                   24 * time.Hour,
		`{"token":"t","expires_in":null}`:                                   time.Minute,
		`{"token":"t","expires_in":[]}`:                                     time.Minute,
		`{"token":"t","access_token":"u","expires_in":300}`:                 5 * time.Minute,
		`{"token":"t","expires_in":300,"issued_at":"2026-05-01T11:59:00Z"}`: 4 * time.Minute,
		`{"token":"t","expires_in":300,"issued_at":"2026-05-01T13:00:00Z"}`: 5 * time.Minute,
		`{"token":"t","expires_in":300,"issued_at":"2025-05-01T13:00:00Z"}`: 5 * time.Minute,
		`{"token":"t","expires_in":300,"issued_at":"yesterday"}`:            5 * time.Minute,
	} {
		tok, err := parseToken([]byte(in), now, now)
		if err != nil || tok.value != "t" || tok.expires.Sub(now) != want || tok.renew.Sub(now) != want*2/3 {
			t.Errorf("%s: %+v %v, want %s", in, tok, err, want)
		}
	}
	for _, in := range []string{``, `{}`, `{"token":""}`, `{"token":"a\nb"}`, `{"token":"a b"}`, `<html>`, `[]`} {
		if _, err := parseToken([]byte(in), now, now); err == nil {
			t.Errorf("%s is accepted", in)
		}
	}
}

func FuzzToken(f *testing.F) {
	f.Add([]byte(`{"token":"t","expires_in":300,"issued_at":"2026-05-01T11:59:00Z"}`))
	now := time.Unix(1e9, 0)
	f.Fuzz(func(t *testing.T, b []byte) {
		tok, err := parseToken(b, now, now)
		if err != nil {
			return
		}
		if life := tok.expires.Sub(now); life < minTokenLife || life > maxTokenLife || !headerSafe(tok.value.Reveal()) {
			t.Fatalf("%q gives %s, %q", b, life, tok.value.Reveal())
		}
	})
}

// TestBadCredentials: refused once, they are not sent again until they change
// or ten minutes are over.
func TestBadCredentials(t *testing.T) {
	t.Parallel()
	r := newTokenRegistry(t)
	r.status = http.StatusUnauthorized
	cr := canary()
	var loads atomic.Int64
	u := open(t, Options{Endpoints: []string{r.url}, Credentials: func(context.Context) (Credentials, error) {
		loads.Add(1)
		return cr, nil
	}})
	now := time.Now()
	clock := func() time.Time { return now }
	u.auth.now, u.auth.account.now = clock, clock
	for i := range 5 {
		if err := tags(u, fmt.Sprintf("a/b%d", i)); !errors.Is(err, oci.ErrDenied) || strings.Contains(err.Error(), canaryPassword) {
			t.Fatal(err)
		}
	}
	if n, _ := r.counts(); n != 1 {
		t.Errorf("sent %d times", n)
	}
	now = now.Add(11 * time.Second)
	cr.Password = "better"
	r.mu.Lock()
	r.status = 0
	r.mu.Unlock()
	if err := tags(u, "a/b9"); err != nil {
		t.Errorf("after a change: %v", err)
	}
	if n := loads.Load(); n != 2 {
		t.Errorf("read %d times", n)
	}
}

// TestDoubtedCredentials: once they have worked, one repository that answers
// 401 does not shut the account; several in a row do, for ten minutes.
func TestDoubtedCredentials(t *testing.T) {
	t.Parallel()
	r := newTokenRegistry(t)
	u := open(t, Options{Endpoints: []string{r.url}, Credentials: static(canary())})
	now := time.Now()
	clock := func() time.Time { return now }
	u.auth.now, u.auth.account.now = clock, clock
	if err := tags(u, "good/one"); err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	r.status = http.StatusUnauthorized
	r.mu.Unlock()
	for i := range 10 {
		if err := tags(u, fmt.Sprintf("bad/%d", i)); !errors.Is(err, oci.ErrDenied) {
			t.Fatal(err)
		}
	}
	if n, _ := r.counts(); n != 1+refusalsToDoubt {
		t.Errorf("%d token requests", n)
	}
	now = now.Add(credentialsBad + time.Second)
	r.mu.Lock()
	r.status = 0
	r.mu.Unlock()
	if err := tags(u, "good/one"); err != nil {
		t.Error(err)
	}
}

func TestIdentityToken(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name     string
		post     int
		password Secret
		ok       bool
		methods  string
	}{
		{"post", 200, "", true, "POST"},
		{"post unknown, password", 404, "p", true, "POST GET"},
		{"post unknown, no password", 404, "", false, "POST"},
		{"post broken", 500, "p", true, "POST POST"},
	} {
		var mu sync.Mutex
		var methods []string
		var srv *httptest.Server
		srv = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.URL.Path != "/token" && r.Header.Get("Authorization") == "":
				challenging(`Bearer realm="`+srv.URL+`/token",service=""`).ServeHTTP(w, r)
			case r.URL.Path != "/token":
				_, _ = io.WriteString(w, `{}`)
			default:
				mu.Lock()
				methods = append(methods, r.Method)
				again := len(methods) > 1
				mu.Unlock()
				if r.Method == http.MethodPost {
					if r.PostFormValue("grant_type") != "refresh_token" || r.PostFormValue("refresh_token") != "idt" || r.PostFormValue("scope") != "repository:a/b:pull" || !r.PostForm.Has("service") {
						t.Errorf("%s: form %v", tc.name, r.PostForm)
					}
					if tc.post != 200 && !(tc.post == 500 && again) {
						w.WriteHeader(tc.post)
						return
					}
				}
				_, _ = io.WriteString(w, `{"access_token":"t"}`)
			}
		}))
		u := open(t, Options{Endpoints: []string{srv.URL}, Credentials: static(Credentials{Username: "u", Password: tc.password, IdentityToken: "idt"})})
		d, err := u.Tags(t.Context(), "a/b", -1, "")
		if (err == nil) != tc.ok || strings.Join(methods, " ") != tc.methods {
			t.Errorf("%s: %v after %v", tc.name, err, methods)
		}
		if err == nil && !d.Private {
			t.Errorf("%s: not private", tc.name)
		}
		srv.Close()
	}
}

func TestPrivate(t *testing.T) {
	t.Parallel()
	r := newTokenRegistry(t)
	for _, tc := range []struct {
		load func(context.Context) (Credentials, error)
		want bool
	}{{nil, false}, {static(Credentials{}), false}, {static(canary()), true}} {
		d, err := open(t, Options{Endpoints: []string{r.url}, Credentials: tc.load}).Tags(t.Context(), "a/b", -1, "")
		if err != nil || d.Private != tc.want {
			t.Errorf("private %+v, want %v (%v)", d, tc.want, err)
		}
	}
	// An open registry never asks: what it gives is public although an account is configured.
	public := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("the account was sent unasked")
		}
		_, _ = io.WriteString(w, `{}`)
	})
	if d, err := open(t, Options{Endpoints: []string{public}, Credentials: static(canary())}).Tags(t.Context(), "a/b", -1, ""); err != nil || d.Private {
		t.Errorf("%+v %v", d, err)
	}
}

// TestExpired403: ECR's way to say that a password is too old (P 4.4).
func TestExpired403(t *testing.T) {
	t.Parallel()
	password := "old"
	u := open(t, Options{Credentials: func(context.Context) (Credentials, error) {
		return Credentials{Username: "AWS", Password: Secret(password)}, nil
	}, Endpoints: []string{serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch _, p, ok := r.BasicAuth(); {
		case !ok:
			challenging(`Basic realm="ecr"`).ServeHTTP(w, r)
		case p == "old":
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, `{"errors":[{"code":"DENIED","message":"Your authorization token has expired. Reauthenticate and try again."}]}`)
		default:
			_, _ = io.WriteString(w, `{}`)
		}
	})}})
	now := time.Now()
	u.auth.account.now = func() time.Time { return now }
	if err := tags(u, "a/b"); !errors.Is(err, oci.ErrDenied) {
		t.Fatal(err)
	}
	password = "new"
	now = now.Add(credentialsPause)
	if err := tags(u, "a/b"); err != nil {
		t.Error(err)
	}
}

// TestSharedFetchesEnd: a fetch that never ends is ended by its own limit, and
// by Close.
func TestSharedFetchesEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFlights()
		start := time.Now()
		hang := func(ctx context.Context) (any, error) {
			<-ctx.Done()
			return nil, context.Cause(ctx)
		}
		if _, err := f.do(t.Context(), "a", tokenLimit, hang); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != tokenLimit {
			t.Errorf("%v after %s", err, time.Since(start))
		}
		if _, err := f.do(t.Context(), "b", tokenLimit, func(context.Context) (any, error) { panic("in the fetch") }); err == nil {
			t.Error("a panic is no error")
		}
		r := f.start("c", time.Hour, hang)
		synctest.Wait()
		f.close()
		if got := <-r; !errors.Is(got.Err, errClosed) {
			t.Errorf("closed: %v", got.Err)
		}
		if _, err := f.do(t.Context(), "d", time.Hour, hang); !errors.Is(err, errClosed) {
			t.Errorf("after close: %v", err)
		}
	})
}

func TestTokenServerFailures(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		answer http.HandlerFunc
		class  error
		text   string
	}{
		"503":   {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }, oci.ErrUnavailable, "token server"},
		"429":   {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(429) }, oci.ErrLimited, "token server"},
		"404":   {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }, oci.ErrDenied, "404"},
		"html":  {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") }, oci.ErrCorrupt, "not JSON"},
		"large": {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, maxTokenBody+1)) }, oci.ErrCorrupt, "longer than"},
		"gzip": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = io.WriteString(w, "x")
		}, oci.ErrCorrupt, "gzip"},
		"cut": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, oci.ErrUnavailable, "token server"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var url string
			url = serve(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/token" {
					tc.answer(w, r)
					return
				}
				challenging(`Bearer realm="`+url+`/token"`).ServeHTTP(w, r)
			})
			err := tags(open(t, Options{Endpoints: []string{url}}), "a/b")
			if !errors.Is(err, tc.class) {
				t.Errorf("got %v", err)
			}
			contains(t, err, tc.text)
		})
	}
}

// until polls a condition that another goroutine brings about.
func until(t *testing.T, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(10 * time.Second)
	for !cond() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatal("it never came")
		}
	}
}
