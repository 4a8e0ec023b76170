package oci

import (
	"net/url"
	"strconv"
	"strings"
)

// Kind says which endpoint of the distribution-spec a request is for.
type Kind uint8

// The kinds, with the spec's end-points and what may be answered.
const (
	KindOther     Kind = iota // none of ours: 404
	KindPing                  // end-1: GET, HEAD /v2/ -> 200
	KindManifest              // end-3: GET, HEAD /v2/<name>/manifests/<tag|digest> -> 200, 404
	KindBlob                  // end-2: GET, HEAD /v2/<name>/blobs/<digest> -> 200, 206, 404, 416
	KindTags                  // end-8: GET /v2/<name>/tags/list?n=&last= -> 200, 404
	KindReferrers             // end-12: GET /v2/<name>/referrers/<digest>?artifactType= -> 200, 404
)

// Kinds lists all kinds, in the order of their values.
func Kinds() []Kind {
	return []Kind{KindOther, KindPing, KindManifest, KindBlob, KindTags, KindReferrers}
}

// String is the metric label of a kind.
func (k Kind) String() string {
	switch k {
	case KindPing:
		return "ping"
	case KindManifest:
		return "manifest"
	case KindBlob:
		return "blob"
	case KindTags:
		return "tags"
	case KindReferrers:
		return "referrers"
	}
	return "other"
}

// MaxPage is the largest page of a tags list that is asked for: ECR refuses
// more (P 3.24), and a client's n is not to decide how much memory we use.
const MaxPage = 1000

// Request is a parsed URL of the registry API. ParseRequest and URL are each
// other's inverse.
type Request struct {
	Kind      Kind
	Prefix    string // path before /v2, without outer slashes; "" mostly (P 2.34)
	Name      string // all kinds but ping and other; the first segment may be an upstream's host
	Tag       string // manifest by tag
	Digest    Digest // manifest by digest, blob, referrers
	Namespace string // ns=, the registry that the client means (P 2.30)

	N             int      // tags: page size, at most MaxPage; -1: not given
	Last          string   // tags: the name after which the page starts
	ArtifactTypes []string // referrers: filters
}

// SplitHost cuts the first segment off Name if it looks like a registry's host
// and something is left behind it.
func (r Request) SplitHost() (host, name string, ok bool) {
	host, name, ok = strings.Cut(r.Name, "/")
	if !ok || !LooksLikeHost(host) {
		return "", r.Name, false
	}
	return host, name, true
}

// ParseRequest reads a request's URL. It looks at the escaped path, so that an
// encoded separator can never become a path (P 3.8), and reads names from the
// right, since they may contain "blobs", "manifests", "tags" and "v2" (P 3.7).
// A path that is not of the registry API gives KindOther and no error; a
// malformed name, tag, digest or page size gives an *Error with its code.
func ParseRequest(u *url.URL) (Request, error) {
	path := u.EscapedPath()
	if strings.Contains(path, "%3") {
		path = strings.ReplaceAll(strings.ReplaceAll(path, "%3A", ":"), "%3a", ":")
	}
	prefix, rest, ok := cutV2(path)
	if !ok {
		return Request{}, nil
	}
	r := Request{Prefix: prefix, N: -1}
	if rest == "" {
		r.Kind = KindPing
		return r, r.parseQuery(u.RawQuery)
	}
	if err := r.parseRest(strings.Split(rest, "/")); err != nil || r.Kind == KindOther {
		return r, err
	}
	return r, r.parseQuery(u.RawQuery)
}

// cutV2 finds the "v2" segment: the first one, as a prefix is short and given
// by the operator, while names may hold "v2" anywhere.
func cutV2(path string) (prefix, rest string, ok bool) {
	path, ok = strings.CutPrefix(path, "/")
	if !ok {
		return "", "", false
	}
	if path == "v2" || strings.HasPrefix(path, "v2/") {
		return "", strings.TrimPrefix(path[2:], "/"), true
	}
	prefix, rest, ok = strings.Cut(path, "/v2/")
	if !ok {
		prefix, ok = strings.CutSuffix(path, "/v2")
	}
	return prefix, rest, ok && validPrefix(prefix)
}

func validPrefix(p string) bool {
	for s := range strings.SplitSeq(p, "/") {
		if !validHost(s) {
			return false
		}
	}
	return true
}

func (r *Request) parseRest(seg []string) error {
	n := len(seg)
	if n < 3 {
		return nil
	}
	verb, ref := seg[n-2], seg[n-1]
	switch {
	case verb == "tags" && ref == "list":
		r.Kind = KindTags
	case verb == "manifests":
		r.Kind = KindManifest
	case verb == "blobs":
		r.Kind = KindBlob
	case verb == "referrers":
		r.Kind = KindReferrers
	default:
		return nil
	}
	r.Name = strings.Join(seg[:n-2], "/")
	if !validPathName(r.Name) {
		return &Error{Code: CodeNameInvalid, Message: "repository name " + Quote(r.Name) + " is not valid: want lower-case path components, as in library/nginx"}
	}
	return r.parseRef(ref)
}

func (r *Request) parseRef(ref string) (err error) {
	switch {
	case r.Kind == KindTags:
		return nil
	case r.Kind == KindManifest && !strings.Contains(ref, ":"):
		if !ValidTag(ref) {
			return &Error{Code: CodeManifestInvalid, Message: "tag " + Quote(ref) + " is not valid: want at most 128 of A-Z a-z 0-9 _ . - and no . or - at its start"}
		}
		r.Tag = ref
		return nil
	}
	r.Digest, err = ParseDigest(ref)
	return err
}

// validPathName admits a name with or without a host in front of it.
func validPathName(s string) bool {
	if ValidName(s) {
		return true
	}
	host, name, ok := strings.Cut(s, "/")
	return ok && LooksLikeHost(host) && validHost(host) && ValidName(name)
}

func (r *Request) parseQuery(raw string) error {
	if raw == "" {
		return nil
	}
	q, err := url.ParseQuery(raw)
	if err != nil {
		return &Error{Code: CodeNameInvalid, Message: "the query is not valid: " + Quote(raw)}
	}
	r.Namespace = q.Get("ns")
	switch r.Kind {
	case KindTags:
		r.Last = q.Get("last")
		if !q.Has("n") {
			return nil
		}
		n, err := strconv.ParseUint(q.Get("n"), 10, 63)
		if err != nil {
			return &Error{Code: CodePaginationInvalid, Message: "n=" + Quote(q.Get("n")) + " is not a page size: want a number from 0"}
		}
		r.N = int(min(n, MaxPage))
	case KindReferrers:
		r.ArtifactTypes = q["artifactType"]
	}
	return nil
}

// Path is the request's path, without the query.
func (r Request) Path() string {
	p := "/v2/"
	if r.Prefix != "" {
		p = "/" + r.Prefix + p
	}
	switch r.Kind {
	case KindManifest:
		return p + r.Name + "/manifests/" + Reference{Tag: r.Tag, Digest: r.Digest}.Ref()
	case KindBlob:
		return p + r.Name + "/blobs/" + r.Digest.String()
	case KindTags:
		return p + r.Name + "/tags/list"
	case KindReferrers:
		return p + r.Name + "/referrers/" + r.Digest.String()
	}
	return p
}

// URL builds the request's URL, relative to the registry's root.
func (r Request) URL() *url.URL {
	q := url.Values{}
	if r.Namespace != "" {
		q.Set("ns", r.Namespace)
	}
	if r.Kind == KindTags && r.N >= 0 {
		q.Set("n", strconv.Itoa(r.N))
	}
	if r.Kind == KindTags && r.Last != "" {
		q.Set("last", r.Last)
	}
	if r.Kind == KindReferrers && len(r.ArtifactTypes) > 0 {
		q["artifactType"] = r.ArtifactTypes
	}
	return &url.URL{Path: r.Path(), RawQuery: q.Encode()}
}
