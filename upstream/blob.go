package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"cistern/internal/oci"
)

// Body is a blob's bytes on their way. Read ends in io.EOF only after
// everything that was announced; a cut body ends in an *Error that is both
// io.ErrUnexpectedEOF (or the connection's error) and oci.ErrUnavailable, a
// stall in oci.ErrUnavailable, surplus in oci.ErrCorrupt. The digest is not
// verified. The context of the call governs the body as well. One goroutine
// reads; Close may come from another one.
type Body struct {
	io.ReadCloser
	Size    int64  // of the whole blob; -1 unknown
	Offset  int64  // where the body starts: 0 if upstream answered 200 to a range
	Whole   bool   // upstream answered 200
	Host    string // that sends it, host[:port]
	Private bool   // the configured credentials were used to get it

	op     string
	ep     *endpoint
	counts *counters
	again  func(ctx context.Context, off, end int64) (*Body, error)
}

// Again opens other bytes of the same blob as Blob does, but where these came from, if
// the registry had redirected there: that spares it a request, and a round trip. Where
// they are not to be had there any more, the registry is asked as ever (P 4.24).
func (b *Body) Again(ctx context.Context, off, end int64) (*Body, error) {
	return b.again(ctx, off, end)
}

// Read implements io.Reader; errors name the operation.
func (b *Body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	var e *Error
	if err != nil && err != io.EOF && errors.As(err, &e) {
		err = e.label(b.op)
	}
	return n, err
}

// Blame says that the blob's bytes did not match its digest: the endpoint that
// they came from goes last for a while, never out.
func (b *Body) Blame() {
	b.counts.verify.Add(1)
	b.ep.blame(b.op + ": its bytes do not match the digest")
}

// span is a wanted range of a blob.
type span struct{ off, end int64 } // [off, end); end < 0: to the end

// header is the Range value: one range, closed where the end is known, since
// there are registries that refuse open ones (P 4.22).
func (s span) header() string {
	switch {
	case s.off == 0 && s.end < 0:
		return ""
	case s.end < 0:
		return fmt.Sprintf("bytes=%d-", s.off)
	}
	return fmt.Sprintf("bytes=%d-%d", s.off, s.end-1)
}

// Blob opens bytes [off, end) of a blob; end < 0: to its end. Where upstream
// ignores the range, Body.Offset is 0 and the body is the whole blob. A caller
// that knows the blob's size compares Body.Size with it (P 4.23). Failures are
// *Error.
func (u *Upstream) Blob(ctx context.Context, repo string, d oci.Digest, off, end int64) (*Body, error) {
	return u.blob(ctx, repo, d, span{off, end}, nil)
}

// blob is Blob, and asks where the blob is known to be first; nil: at the registry.
func (u *Upstream) blob(ctx context.Context, repo string, d oci.Digest, want span, at *place) (*Body, error) {
	if err := validBlob(repo, d); err != nil {
		return nil, err
	}
	if want.off < 0 || want.end >= 0 && want.end <= want.off {
		return nil, fmt.Errorf("blob %s: range [%d, %d) is not valid", d, want.off, want.end)
	}
	q := blobQuery(http.MethodGet, repo, d)
	q.span, q.long, q.at = want.header(), true, at
	q.tolerates = func(status int) bool {
		return status == http.StatusRequestedRangeNotSatisfiable && want.end < 0 && q.span != ""
	}
	var body *Body
	use := func(a *answer) (err error) {
		if body, err = u.openBody(a, q, want); err == nil {
			body.again = func(ctx context.Context, off, end int64) (*Body, error) {
				return u.blob(ctx, repo, d, span{off, end}, a.place)
			}
		}
		return err
	}
	err := u.do(ctx, q, use)
	if errors.Is(err, errOpenRange) {
		q.span = ""
		err = u.do(ctx, q, use)
	}
	return body, err
}

func blobQuery(method, repo string, d oci.Digest) *query {
	return &query{Request: oci.Request{Kind: oci.KindBlob, Name: repo, Digest: d, N: -1}, method: method}
}

func validBlob(repo string, d oci.Digest) error {
	if d.IsZero() {
		return errors.New("blob: no digest")
	}
	return validRepo(repo)
}

// errOpenRange: 416 to an open range below the blob's end, as some registries
// have it (P 4.22).
var errOpenRange = errors.New("refuses an open range")

// openBody checks an answer against what was asked for (P 4.23, 4.27).
func (u *Upstream) openBody(a *answer, q *query, want span) (*Body, error) {
	b := &Body{ReadCloser: a.Body, Size: -1, Whole: a.StatusCode == http.StatusOK, Host: a.host, Private: a.private, op: q.op(), ep: a.ep, counts: u.counts}
	err := b.fit(a, q, want)
	if err != nil {
		_ = a.Body.Close() // nobody reads it
		return nil, err
	}
	return b, nil
}

func (b *Body) fit(a *answer, q *query, want span) error {
	if c := coding(a.Header); c != "" {
		return a.corrupt("sends Content-Encoding %s although none was allowed", oci.Quote(c))
	}
	switch a.StatusCode {
	case http.StatusOK:
		b.Size = a.ContentLength
		switch {
		case b.Size == 0 && !q.Digest.Verify(nil):
			return a.corrupt("sends an empty body for a blob that is not empty")
		case mediaType(a.Header) == "text/html" && (q.span != "" || b.Size < 0): // else its digest tells
			return a.webPage()
		}
		return nil
	case http.StatusPartialContent:
		return b.fitRange(a, q, want)
	}
	if r, ok := parseContentRange(a.Header.Get("Content-Range")); ok && r.total <= want.off {
		return a.corrupt("has %d bytes, and byte %d was asked for", r.total, want.off)
	}
	return a.corrupt("%w", errOpenRange)
}

// fitRange checks a 206: the start asked for, no more than asked for, and a
// length that agrees with the range.
func (b *Body) fitRange(a *answer, q *query, want span) error {
	text := a.Header.Get("Content-Range")
	r, ok := parseContentRange(text)
	switch {
	case q.span == "":
		return a.corrupt("answers 206 to a request without a range")
	case !ok || r.end == 0:
		return a.corrupt("answers 206 with the Content-Range %s", oci.Quote(text))
	case r.start != want.off, want.end >= 0 && r.end > want.end:
		return a.corrupt("answers %s with the Content-Range %s", q.span, oci.Quote(text))
	case a.ContentLength >= 0 && a.ContentLength != r.end-r.start:
		return a.corrupt("answers with %d bytes for the Content-Range %s", a.ContentLength, oci.Quote(text))
	}
	b.Offset, b.Size = r.start, r.total
	// A range that ends early is cut, as far as the caller is concerned.
	last := want.end
	if r.total >= 0 && (last < 0 || r.total < last) {
		last = r.total
	}
	if last < 0 {
		last = r.end
	}
	if s, ok := a.Body.(*stream); ok {
		s.want = last - r.start
	}
	return nil
}

// BlobInfo tells a blob's size, and by that its existence: by HEAD, or by a GET
// of its first byte where HEAD answers anything but 200, since there are
// registries whose HEAD says 401, 404 or 405 to blobs that they have (P 4.34,
// 4.35). Digest is the one asked for, MediaType "". Failures are *Error.
func (u *Upstream) BlobInfo(ctx context.Context, repo string, d oci.Digest) (Resolved, error) {
	if err := validBlob(repo, d); err != nil {
		return Resolved{}, err
	}
	r := Resolved{Descriptor: oci.Descriptor{Digest: d, Size: -1}}
	var refused *endpoint
	if !u.headless() {
		q := blobQuery(http.MethodHead, repo, d)
		q.tolerates = func(status int) bool {
			return status < 500 && status != http.StatusTooManyRequests || status == http.StatusNotImplemented
		}
		err := u.do(ctx, q, func(a *answer) error {
			if a.StatusCode != http.StatusOK || a.ContentLength < 0 || coding(a.Header) != "" || mediaType(a.Header) == "text/html" {
				if a.StatusCode != http.StatusNotFound && a.StatusCode != http.StatusOK {
					refused = a.ep
				}
				return nil
			}
			r.Size, r.Private = a.ContentLength, a.private
			return nil
		})
		if err != nil || r.Size >= 0 {
			return r, err
		}
	}
	err := u.firstByte(ctx, repo, d, &r)
	if err == nil && refused != nil {
		refused.headless.Store(true)
	}
	return r, err
}

// headless tells whether HEAD of a blob is known to be of no use.
func (u *Upstream) headless() bool {
	return u.order()[0].headless.Load()
}

// firstByte learns the size from a GET of bytes 0-0.
func (u *Upstream) firstByte(ctx context.Context, repo string, d oci.Digest, r *Resolved) error {
	q := blobQuery(http.MethodGet, repo, d)
	want := span{0, 1}
	q.span = want.header()
	q.tolerates = func(status int) bool { return status == http.StatusRequestedRangeNotSatisfiable }
	return u.do(ctx, q, func(a *answer) error {
		r.Private = a.private
		if a.StatusCode == http.StatusRequestedRangeNotSatisfiable {
			if !d.Verify(nil) {
				return a.corrupt("has no first byte of a blob that is not empty")
			}
			r.Size = 0
			return nil
		}
		b := &Body{Size: -1}
		err := b.fit(a, q, want)
		if err == nil && a.StatusCode == http.StatusPartialContent {
			_, err = io.Copy(io.Discard, a.Body) // one byte, for the connection's sake
		}
		_ = a.Body.Close()
		if err == nil {
			r.Size = b.Size
		}
		return err
	})
}
