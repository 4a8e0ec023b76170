package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"

	"cistern/internal/oci"
)

// maxList bounds a tags list or a referrers index.
const maxList = 8 << 20

// Document is a page of a list as upstream sent it.
type Document struct {
	Bytes          []byte
	MediaType      string
	Next           url.Values // query of the next page; nil: this is the last
	FiltersApplied string     // OCI-Filters-Applied (P 3.21)
	Private        bool       // the configured credentials were used to get it
}

// Tags gets a page of a tags list; n < 0: as many as upstream likes. n is cut
// to oci.MaxPage, since ECR refuses more (P 3.24). Failures are *Error.
func (u *Upstream) Tags(ctx context.Context, repo string, n int, last string) (*Document, error) {
	if err := validRepo(repo); err != nil {
		return nil, err
	}
	q := &query{method: http.MethodGet, accept: oci.MediaTypeJSON}
	q.Request = oci.Request{Kind: oci.KindTags, Name: repo, N: min(n, oci.MaxPage), Last: last}
	return u.list(ctx, q)
}

// Referrers gets the referrers of a manifest. Only a 200 with an index is an
// answer; everything that says "not here" in any way is oci.ErrNotFound, so
// that clients use the fallback tag; being unreachable, 5xx and 429 are not
// that (P 3.19, 3.20). Failures are *Error.
func (u *Upstream) Referrers(ctx context.Context, repo string, d oci.Digest, artifactTypes []string) (*Document, error) {
	if err := validBlob(repo, d); err != nil {
		return nil, err
	}
	q := &query{method: http.MethodGet, accept: oci.MediaTypeOCIIndex}
	q.Request = oci.Request{Kind: oci.KindReferrers, Name: repo, Digest: d, ArtifactTypes: artifactTypes, N: -1}
	q.tolerates = func(status int) bool {
		return status < 400 || status == http.StatusNotImplemented
	}
	return u.list(ctx, q)
}

func (u *Upstream) list(ctx context.Context, q *query) (*Document, error) {
	var doc *Document
	err := u.do(ctx, q, func(a *answer) error {
		t := mediaType(a.Header)
		if q.Kind == oci.KindReferrers && (a.StatusCode != http.StatusOK || t != oci.MediaTypeOCIIndex) {
			_ = a.Body.Close() // not a list of referrers
			return &Error{Host: a.host, Status: a.StatusCode, Class: oci.ErrNotFound, Err: errNoReferrers}
		}
		b, err := readDocument(a, maxList)
		if err != nil {
			return err
		}
		if !json.Valid(b) {
			return a.corrupt("sends a list that is not JSON")
		}
		doc = &Document{
			Bytes: b, MediaType: t, Next: nextLink(a.Header.Values("Link")),
			FiltersApplied: a.Header.Get("OCI-Filters-Applied"), Private: a.private,
		}
		return nil
	})
	return doc, err
}

var errNoReferrers = errors.New("has no referrers API")
