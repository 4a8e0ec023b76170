package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"cistern/internal/oci"
)

// maxManifest is above the 4 MiB that must pass (P 3.14), with slack.
const maxManifest = 8 << 20

// Manifest is a manifest's bytes as upstream sent them, verified.
type Manifest struct {
	Bytes     []byte
	MediaType string // P 3.10: upstream's, or by the content where that says nothing
	Digest    oci.Digest
	Private   bool // the configured credentials were used to get it
	// Uncacheable: the digest is not that of the bytes (signed schema 1,
	// P 3.13), so that a store by content cannot hold it.
	Uncacheable bool
}

// Resolved is what a HEAD tells.
type Resolved struct {
	oci.Descriptor // Digest zero, MediaType "", Size -1 where upstream did not say
	Private        bool
}

// superset is the Accept of every manifest request, by tag or digest, HEAD or
// GET: distribution answers 404 or another manifest to less (P 3.11).
func superset() string {
	return strings.Join([]string{
		oci.MediaTypeOCIIndex, oci.MediaTypeDockerList, oci.MediaTypeOCIManifest, oci.MediaTypeDockerManifest,
		oci.MediaTypeDockerSchema1Signed, oci.MediaTypeDockerSchema1, "*/*",
	}, ", ")
}

// manifestQuery makes the query for a tag or a digest. A malformed repository
// or reference never becomes part of a URL.
func manifestQuery(method, repo, ref, accept string) (*query, error) {
	q := &query{Request: oci.Request{Kind: oci.KindManifest, Name: repo, N: -1}, method: method, accept: accept}
	if accept == "" {
		q.accept = superset()
	}
	if strings.Contains(ref, ":") {
		d, err := oci.ParseDigest(ref)
		if err != nil {
			return nil, fmt.Errorf("manifest: %w", err)
		}
		q.Digest = d
	} else if q.Tag = ref; !oci.ValidTag(ref) {
		return nil, fmt.Errorf("manifest: tag %s is not valid", oci.Quote(ref))
	}
	return q, validRepo(repo)
}

func validRepo(repo string) error {
	if !oci.ValidName(repo) {
		return fmt.Errorf("repository %s is not valid", oci.Quote(repo))
	}
	return nil
}

// Manifest gets a manifest by tag or digest. accept is the Accept header to
// send, "" for the superset. The bytes match the digest asked for, and what
// upstream says that it is (P 3.9, 4.41); a document that can be read as two
// kinds of manifest is refused (CVE-2021-41190). Failures are *Error.
func (u *Upstream) Manifest(ctx context.Context, repo, ref, accept string) (*Manifest, error) {
	q, err := manifestQuery(http.MethodGet, repo, ref, accept)
	if err != nil {
		return nil, err
	}
	var m *Manifest
	err = u.do(ctx, q, func(a *answer) (err error) {
		m, err = u.readManifest(a, q.Digest)
		return err
	})
	return m, err
}

func (u *Upstream) readManifest(a *answer, asked oci.Digest) (*Manifest, error) {
	b, err := readDocument(a, maxManifest)
	if err != nil {
		return nil, err
	}
	doc, err := inspect(b, mediaType(a.Header))
	if err != nil {
		return nil, a.corrupt("manifest: %w", err)
	}
	m := &Manifest{Bytes: b, MediaType: doc.mediaType, Private: a.private}
	if err := m.verify(asked, a.Header.Get("Docker-Content-Digest")); err != nil {
		a.ep.blame(err.Error())
		u.counts.verify.Add(1)
		e := a.corrupt("manifest: %w", err)
		e.fault, e.counted = faultContent, true
		return nil, e
	}
	return m, nil
}

// verify computes the digest and compares it with the one asked for, or for a
// tag with the one that the header claims; a header that is no digest is
// ignored. Signed schema 1 is verified over its payload (P 3.13).
func (m *Manifest) verify(asked oci.Digest, header string) error {
	claimed, err := oci.ParseDigest(header)
	want := asked
	if want.IsZero() && err == nil {
		want = claimed
	}
	switch {
	case want.IsZero():
		m.Digest = oci.FromBytes(m.Bytes)
		m.Uncacheable = m.MediaType == oci.MediaTypeDockerSchema1Signed
		return nil
	case want.Verify(m.Bytes):
	case m.MediaType == oci.MediaTypeDockerSchema1Signed:
		payload, err := schema1Payload(m.Bytes)
		if err != nil || !want.Verify(payload) {
			return errWrongDigest
		}
		m.Uncacheable = true
	default:
		return errWrongDigest
	}
	m.Digest = want
	return nil
}

var errWrongDigest = errors.New("its bytes do not match the digest")

// readDocument reads a whole small body and closes it: bounded, in the
// identity coding, not empty, and not a web page (P 4.50; FAULTS.md row 24).
func readDocument(a *answer, most int64) ([]byte, error) {
	defer func() { _ = a.Body.Close() }() // read to its end, or of no use
	switch c := coding(a.Header); {
	case a.StatusCode != http.StatusOK:
		return nil, a.corrupt("answers %d to what was no request for a range", a.StatusCode)
	case c != "":
		return nil, a.corrupt("sends Content-Encoding %s although none was allowed", oci.Quote(c))
	case mediaType(a.Header) == "text/html":
		return nil, a.webPage()
	case a.ContentLength > most:
		return nil, a.corrupt("sends %d bytes, more than the %d that are allowed", a.ContentLength, most)
	}
	b, err := io.ReadAll(io.LimitReader(a.Body, most+1))
	switch {
	case err != nil:
		return nil, err
	case int64(len(b)) > most:
		return nil, a.corrupt("sends more than the %d bytes that are allowed", most)
	case len(b) == 0:
		return nil, a.corrupt("sends an empty body")
	}
	return b, nil
}

// Resolve asks by HEAD what a tag or digest is at the moment; it costs no pull
// at Docker Hub (P 4.12). Where upstream has no HEAD (405, 501) or does not
// name the digest, Digest is zero and the caller has to GET. While every
// breaker is open it fails at once instead of waiting: whoever revalidates has
// a stale answer.
func (u *Upstream) Resolve(ctx context.Context, repo, ref string) (Resolved, error) {
	q, err := manifestQuery(http.MethodHead, repo, ref, "")
	if err != nil {
		return Resolved{}, err
	}
	q.atOnce = true
	q.tolerates = func(status int) bool {
		return status == http.StatusMethodNotAllowed || status == http.StatusNotImplemented
	}
	r := Resolved{Descriptor: oci.Descriptor{Size: -1}}
	err = u.do(ctx, q, func(a *answer) error {
		r.Private = a.private
		if a.StatusCode != http.StatusOK {
			return nil
		}
		d, err := oci.ParseDigest(a.Header.Get("Docker-Content-Digest"))
		if err != nil {
			return nil // absent or nonsense: the caller GETs
		}
		if !q.Digest.IsZero() && d.Algorithm() == q.Digest.Algorithm() && d != q.Digest {
			a.ep.blame("manifest: another digest than the one asked for")
			return a.corrupt("manifest: names another digest than the one asked for")
		}
		r.Digest = d
		if t := mediaType(a.Header); !generic(t) {
			r.MediaType = t
		}
		if coding(a.Header) == "" && a.ContentLength > 0 {
			r.Size = a.ContentLength
		}
		return nil
	})
	return r, err
}
