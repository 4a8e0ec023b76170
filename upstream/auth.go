package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/hashicorp/golang-lru/v2"

	"cistern/internal/oci"
)

// noService stands for a challenge without the service parameter, which is
// not the same as one with an empty service (P 4.36).
const noService = "\x00"

// auth answers the challenges of one upstream. Tokens are kept in memory,
// bounded, per (credentials, realm, service, scope); a fetch is shared by all
// who need it.
type auth struct {
	account   *account
	realms    *realms
	flights   *flights
	tokens    *lru.Cache[tokenKey, *token]
	failures  *lru.Cache[tokenKey, tokenFailure]
	send      func(oci.Kind, *http.Request) (*http.Response, error)
	userAgent string
	now       func() time.Time
}

// tokenFailure is a refusal that is repeated here for a while instead of
// asking again.
type tokenFailure struct {
	err   error
	until time.Time
}

func newAuth(o Options, r *realms, f *flights, send func(oci.Kind, *http.Request) (*http.Response, error)) (*auth, error) {
	tokens, err := lru.New[tokenKey, *token](tokensKept)
	if err != nil {
		return nil, err
	}
	failures, err := lru.New[tokenKey, tokenFailure](tokensKept)
	if err != nil {
		return nil, err
	}
	return &auth{
		account: &account{load: o.Credentials, flights: f, now: time.Now}, realms: r, flights: f,
		tokens: tokens, failures: failures, send: send, userAgent: o.UserAgent, now: time.Now,
	}, nil
}

// pass is what one request carries to the registry; the zero value is nothing.
type pass struct {
	header  Secret // value of Authorization; "": none
	private bool   // it stands for the configured credentials
	key     tokenKey
	token   *token // nil for Basic
	gen     uint64 // Basic: generation of the credentials
}

// pass makes what a request for a repository should carry, by the challenge
// that the endpoint gave last; nothing if it never gave one.
func (a *auth) pass(ctx context.Context, ep *endpoint, repo string) (pass, error) {
	c := ep.challenge.Load()
	if c == nil {
		return pass{}, nil
	}
	cr, gen, err := a.account.get(ctx)
	if err != nil {
		return pass{}, err
	}
	if c.scheme == "basic" {
		if cr.Password == "" {
			return pass{}, nil
		}
		return pass{header: basicHeader(cr), private: true, gen: gen}, nil
	}
	realm, trusted, err := a.realms.check(c.params["realm"], ep.base)
	if err != nil {
		return pass{}, fail(oci.ErrDenied, ep.base.Host, "%w", err)
	}
	if cr.none() {
		gen = 0
	} else if !trusted {
		return pass{}, fail(oci.ErrDenied, ep.base.Host, "wants the credentials at %s, which is neither this registry nor a known token host of it; if that is right, add %q to token_hosts", realm.Host, realm.Host)
	}
	service, ok := c.params["service"]
	if !ok {
		service = noService
	}
	k := tokenKey{account: gen, realm: realm.String(), service: service, scope: "repository:" + repo + ":pull"}
	t, err := a.bearer(ctx, k, realm, cr)
	if err != nil {
		return pass{}, err
	}
	return pass{header: "Bearer " + t.value, private: t.private, key: k, token: t}, nil
}

// bearer gives a token that is still good: a kept one, renewed in the
// background from two thirds of its life on, or a new one.
func (a *auth) bearer(ctx context.Context, k tokenKey, realm *url.URL, cr Credentials) (*token, error) {
	now := a.now()
	kept, ok := a.tokens.Get(k)
	if ok && now.Before(kept.renew) {
		return kept, nil
	}
	failed, bad := a.failures.Get(k)
	bad = bad && now.Before(failed.until)
	fetch := func(ctx context.Context) (any, error) { return a.fetch(ctx, k, realm, cr) }
	if ok && now.Before(kept.expires) {
		if !bad {
			a.flights.start(k.String(), tokenLimit, fetch)
		}
		return kept, nil
	}
	if bad {
		return nil, failed.err
	}
	v, err := a.flights.do(ctx, k.String(), tokenLimit, fetch)
	if err != nil {
		return nil, tokenError(ctx, err)
	}
	return v.(*token), nil
}

// tokenError gives a fetch's failure a class: the flight's own deadline is the
// token server's fault, and not tried again; the caller's is nobody's.
func tokenError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return err
	}
	var e *Error
	switch {
	case errors.As(err, &e) && e.fault == faultNone && errors.Is(err, context.DeadlineExceeded):
		return &Error{Class: oci.ErrUnavailable, Err: fmt.Errorf("no answer from the token server within %s", tokenLimit), fault: faultLasting}
	case errors.As(err, &e) && e.Class != nil:
		return err
	}
	return &Error{Class: oci.ErrUnavailable, Err: err, fault: faultLasting}
}

// fetch gets and keeps a token, or remembers why there is none.
func (a *auth) fetch(ctx context.Context, k tokenKey, realm *url.URL, cr Credentials) (*token, error) {
	if t, ok := a.tokens.Peek(k); ok && a.now().Before(t.renew) {
		return t, nil // another flight ended between our look and this one
	}
	t, err := a.fetchToken(ctx, k, realm, cr)
	if err == nil {
		a.account.works(k.account)
		a.failures.Remove(k)
		a.tokens.Add(k, t)
		return t, nil
	}
	a.remember(ctx, k, err)
	return nil, err
}

// remember keeps refusals from being asked for again and again: bad
// credentials lock accounts out (P 4.13).
func (a *auth) remember(ctx context.Context, k tokenKey, err error) {
	var e *Error
	if !errors.As(err, &e) {
		return
	}
	pause := refreshPause
	switch {
	case errors.Is(err, oci.ErrDenied):
		pause = deniedMemory
		if e.Status == http.StatusUnauthorized && k.account != 0 {
			changed, rerr := a.account.refused(ctx, k.account, k.scope)
			if changed || rerr != nil {
				return
			}
			pause = refusedMemory
		}
	case errors.Is(err, oci.ErrLimited):
		pause = e.RetryAfter
	case e.fault == faultPassing:
		if _, ok := a.tokens.Peek(k); !ok {
			return // the breaker paces these; only a background renewal needs a pause
		}
	}
	a.failures.Add(k, tokenFailure{err: err, until: a.now().Add(pause)})
}

// refused learns from a 401, or a 403 that says "expired", and tells whether
// the request is worth sending once more (P 4.4).
func (a *auth) refused(ctx context.Context, ep *endpoint, repo string, resp *http.Response, p pass) (again bool, err error) {
	if resp.StatusCode == http.StatusUnauthorized {
		c, ok := choose(parseChallenges(resp.Header.Values("WWW-Authenticate")))
		if !ok {
			return false, nil
		}
		old := ep.challenge.Swap(&c)
		if p.header == "" || old == nil || !old.same(c) {
			return a.answerable(ctx, c)
		}
	}
	if p.token == nil {
		if p.header == "" {
			return false, nil
		}
		return a.account.refused(ctx, p.gen, repo)
	}
	if kept, ok := a.tokens.Peek(p.key); ok && kept == p.token {
		if a.now().Sub(p.token.born) < youngToken {
			return false, nil
		}
		a.tokens.Remove(p.key)
	}
	return true, nil
}

// answerable: Basic without an account is the end of it.
func (a *auth) answerable(ctx context.Context, c challenge) (bool, error) {
	if c.scheme != "basic" {
		return true, nil
	}
	cr, _, err := a.account.get(ctx)
	if err != nil {
		return false, err
	}
	if cr.Password == "" {
		return false, &Error{Status: http.StatusUnauthorized, Class: oci.ErrDenied, Err: errNoCredentials}
	}
	return true, nil
}

// saysExpired tells whether a 403 is about the token's age, not about the
// account's rights: ECR's way (P 4.4).
func saysExpired(body []byte) bool {
	s := strings.ToLower(string(body))
	return strings.Contains(s, "token") && strings.Contains(s, "expired")
}
