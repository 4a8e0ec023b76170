package upstream

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"cistern/internal/oci"
)

func isRedirect(status int) bool {
	switch status {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return true
	}
	return false
}

// redirectTarget resolves a Location after hop redirects. Its errors name the
// hosts only: a signed URL's query is a secret (P 4.24).
func redirectTarget(from *url.URL, location string, hop int) (*url.URL, error) {
	if hop >= maxHops {
		return nil, fail(oci.ErrUnavailable, from.Host, "redirects more than %d times", maxHops)
	}
	if location == "" {
		return nil, fail(oci.ErrUnavailable, from.Host, "redirects without a Location")
	}
	ref, err := url.Parse(location)
	if err != nil {
		return nil, fail(oci.ErrUnavailable, from.Host, "redirects to what is not a URL")
	}
	to := from.ResolveReference(ref)
	switch {
	case to.Scheme != "https" && to.Scheme != "http" || to.Hostname() == "":
		return nil, fail(oci.ErrUnavailable, from.Host, "redirects to what is not an http(s) URL")
	case from.Scheme == "https" && to.Scheme == "http":
		return nil, fail(oci.ErrUnavailable, from.Host, "redirects from https to plain http at %s, which is refused", to.Host)
	}
	to.User, to.Fragment, to.RawFragment = nil, "", ""
	return to, nil
}

// place is where an endpoint has sent us to for a blob, by a URL that may be signed:
// it is kept as long as somebody fetches that blob, is written nowhere, and is of use
// for that blob alone.
type place struct {
	ep      *endpoint
	url     *url.URL
	private bool // the configured credentials were used to learn it
}

// revisit asks where a blob is known to be; nil if it is not to be had there.
func (u *Upstream) revisit(ctx context.Context, q *query, ep *endpoint) *answer {
	at := q.at
	if at == nil || at.ep != ep {
		return nil
	}
	a, err := u.followFrom(ctx, q, ep, at.url, false, pass{private: at.private})
	if err == nil && a.err() == nil {
		return a
	}
	if err == nil {
		drain(a.Response)
	}
	return nil
}

// follow asks an endpoint and goes where it is sent.
func (u *Upstream) follow(ctx context.Context, q *query, ep *endpoint, p pass) (*answer, error) {
	return u.followFrom(ctx, q, ep, q.url(ep.base), true, p)
}

// followFrom goes where it is sent from a URL, which is the endpoint's own, or not. The
// pass stays behind at the first change of scheme, host or port, and is not taken up
// again.
func (u *Upstream) followFrom(ctx context.Context, q *query, ep *endpoint, target *url.URL, own bool, p pass) (*answer, error) {
	header := p.header
	for hop := 0; ; hop++ {
		req := q.request(ctx, target, u.userAgent, header)
		if via, _ := ctx.Value(viaKey{}).(string); own && via != "" {
			req.Header.Set("Via", via)
		}
		resp, err := u.send(q.Kind, req)
		if err != nil {
			return nil, wrapTransport(ctx, target.Host, !own, err)
		}
		if !isRedirect(resp.StatusCode) {
			a := &answer{Response: resp, ep: ep, host: target.Host, away: !own, private: p.private}
			if a.away {
				a.place = &place{ep: ep, url: target, private: p.private}
			}
			return a, nil
		}
		next, err := redirectTarget(target, resp.Header.Get("Location"), hop)
		drain(resp)
		if err != nil {
			return nil, err
		}
		if !sameOrigin(target, next) {
			own, header = false, ""
		}
		target = next
	}
}

// urlExpired tells whether a redirect's target refuses its own signature: the
// registry gives a new one (P 4.24).
func urlExpired(a *answer) bool {
	switch a.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		return a.away
	case http.StatusBadRequest:
		text := string(a.refusal)
		return a.away && (strings.Contains(text, "ExpiredToken") || strings.Contains(text, "AccessDenied"))
	}
	return false
}

// How much of a body that nobody wants is read, and for how long, so that its
// connection can be used again.
const (
	drainBytes = 16 << 10
	drainTime  = time.Second
)

// drain ends a response of no further interest.
func drain(resp *http.Response) { _ = readSome(resp, drainBytes) }

// readSome reads the start of a body and closes it; failures only make it
// shorter. Close is safe while Read runs, and ends it.
func readSome(resp *http.Response, most int64) []byte {
	t := time.AfterFunc(drainTime, func() { _ = resp.Body.Close() })
	defer t.Stop()
	b, _ := io.ReadAll(io.LimitReader(resp.Body, most+1))
	_ = resp.Body.Close()
	return b[:min(int64(len(b)), most)]
}
