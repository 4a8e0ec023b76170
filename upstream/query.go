package upstream

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"cistern/internal/oci"
)

// query is one question to a registry, not yet bound to an endpoint.
type query struct {
	oci.Request
	method string
	accept string // "": no Accept header
	span   string // value of Range; "": none
	long   bool   // its body may take minutes: not with the last slots
	at     *place // where to ask before the endpoint; nil: nowhere
	// atOnce: fail instead of waiting where every breaker is open. For
	// revalidation, which has a stale answer to fall back to.
	atOnce bool
	// tolerates tells which statuses are no error to whoever uses the answer.
	tolerates func(status int) bool
}

// op names the query in errors.
func (q *query) op() string {
	switch q.Kind {
	case oci.KindManifest:
		ref := oci.Reference{Repository: oci.Repository{Upstream: "", Name: q.Name}, Tag: q.Tag, Digest: q.Digest}
		return strings.ToLower(q.method) + " manifest " + strings.TrimPrefix(ref.String(), "/")
	case oci.KindTags:
		return "tags of " + q.Name
	}
	return strings.ToLower(q.method) + " " + q.Kind.String() + " " + q.Name + "@" + q.Digest.String()
}

// url is the query at an endpoint.
func (q *query) url(base *url.URL) *url.URL {
	rel := q.URL()
	u := *base
	u.Path += rel.Path
	u.RawQuery = rel.RawQuery
	return &u
}

// request builds what is sent: nothing in it comes from a client but the
// parsed name and reference, and names of caches like this. The coding is asked to be none, so that the
// bytes are those that were digested (P 4.50).
func (q *query) request(ctx context.Context, target *url.URL, userAgent string, authorization Secret) *http.Request {
	h := http.Header{"User-Agent": {userAgent}, "Accept-Encoding": {"identity"}}
	if q.accept != "" {
		h.Set("Accept", q.accept)
	}
	if q.span != "" {
		h.Set("Range", q.span)
	}
	if authorization != "" {
		h.Set("Authorization", authorization.Reveal())
	}
	r := &http.Request{Method: q.method, URL: target, Host: target.Host, Header: h, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
	return r.WithContext(ctx)
}

type viaKey struct{}

// WithVia has what is asked of endpoints in a context say this as its Via header; where
// they redirect to is not told.
func WithVia(ctx context.Context, via string) context.Context {
	return context.WithValue(ctx, viaKey{}, via)
}

// answer is a response with where it came from.
type answer struct {
	*http.Response
	ep      *endpoint
	host    string // who answered
	away    bool   // a redirect's target, on another origin than the endpoint
	private bool   // the configured credentials were used for it
	place   *place // where it came from, if away; else nil
	refusal []byte // start of the body of an answer from 400 on; that body is closed
}

// err is the error for an answer that is not a success, nil for 200 and 206.
func (a *answer) err() error {
	if a.StatusCode == http.StatusOK || a.StatusCode == http.StatusPartialContent {
		return nil
	}
	e := statusError(a.StatusCode, a.Header, a.refusal)
	e.Host = a.host
	switch {
	case a.away && e.fault == faultPassing:
		e.fault = faultAway
	case urlExpired(a):
		e.Class = oci.ErrUnavailable // not the registry's word on the account
	}
	return e
}

// webPage is an error for an answer that comes from somebody in between.
func (a *answer) webPage() *Error {
	return a.corrupt("sends a web page: is a login page or captive portal in between?")
}

// corrupt is an error for an answer that is not what was asked for.
func (a *answer) corrupt(format string, args ...any) *Error {
	return fail(oci.ErrCorrupt, a.host, format, args...)
}
