package proxy

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"cistern/cache"
	"cistern/internal/oci"
)

// blob answers GET and HEAD of a blob. Every state of a blob gives the same
// answers to ranges: whole, on its way, small or large (P 2.17).
func (h *Handler) blob(x *exchange) error {
	ctx, repo, d := x.r.Context(), x.target.handle(), x.req.Digest
	if x.r.Method == http.MethodHead {
		c, err := h.cache.Stat(ctx, repo, d)
		if err != nil {
			return err
		}
		return x.sendBlob(c)
	}
	c, err := h.cache.Blob(ctx, repo, d, asked(x.r, d)...)
	if err != nil {
		return err
	}
	defer c.Close()
	return x.sendBlob(c)
}

func (x *exchange) sendBlob(c *cache.Content) error {
	x.describe(c)
	head := x.w.Header()
	head["Content-Type"] = []string{blobType(c.MediaType)}
	if c.Size < 0 {
		return x.sendUnknown(c)
	}
	head["Accept-Ranges"] = []string{"bytes"}
	if unchanged(x.r, c) { // before ranges, even those that cannot be satisfied
		x.w.WriteHeader(http.StatusNotModified)
		return nil
	}
	if is := x.r.Header["If-Range"]; is != nil && is[0] != head["Etag"][0] {
		delete(x.r.Header, "Range") // it is of something else
	}
	if err := filterRange(x.r, c.Size); err != nil {
		return err
	}
	plain := x.r.Header["Range"] == nil && x.r.Header["If-Match"] == nil
	if x.r.Method == http.MethodHead && plain || c.Reader == nil && plain {
		head["Content-Length"] = []string{strconv.FormatInt(c.Size, 10)}
		x.w.WriteHeader(http.StatusOK)
		if x.r.Method == http.MethodHead {
			return nil
		}
		if _, err := x.w.Write(c.Bytes); err != nil {
			return fmt.Errorf("writing to the client: %w", err)
		}
		return nil
	}
	if c.Reader == nil {
		http.ServeContent(&x.w, x.r, "", time.Time{}, contentOf(c, x.r.Header.Get("Range")))
		return nil
	}
	// The bytes may be long in coming: upstream may trickle, a range may be far
	// ahead. Clients give up on a header that does not come (P 2.13).
	x.w.early = c.Outcome != cache.OutcomeHit
	http.ServeContent(&x.w, x.r, "", time.Time{}, c.Reader)
	return x.sent(c.Reader.Err())
}

// contentOf makes a small object, or only a size for a HEAD, readable. Several
// ranges are read by a goroutine that may outlive the request.
func contentOf(c *cache.Content, ranges string) io.ReadSeeker {
	switch {
	case c.Bytes == nil:
		return io.NewSectionReader(nil, 0, c.Size)
	case strings.Contains(ranges, ","):
		return bytes.NewReader(bytes.Clone(c.Bytes))
	}
	return bytes.NewReader(c.Bytes)
}

// sendUnknown streams a blob whose size upstream did not say: chunked, without
// ranges, and ended only when the digest matched (P 4.27).
func (x *exchange) sendUnknown(c *cache.Content) error {
	x.w.WriteHeader(http.StatusOK)
	if x.r.Method == http.MethodHead || c.Reader == nil {
		return nil
	}
	if f, ok := x.w.ResponseWriter.(http.Flusher); ok {
		f.Flush()
	}
	_, err := io.Copy(&x.w, struct{ io.Reader }{c.Reader})
	if rerr := c.Reader.Err(); rerr != nil {
		err = rerr
	}
	return x.sent(err)
}

// sent judges a body's end: what the reader says failed cuts the response, and
// the client's leaving is noted.
func (x *exchange) sent(err error) error {
	switch {
	case err != nil:
		return fmt.Errorf("sending the body: %w", err)
	case x.r.Context().Err() != nil && strconv.FormatInt(x.w.bytes, 10) != x.w.Header().Get("Content-Length"):
		return fmt.Errorf("the client left: %w", x.r.Context().Err())
	}
	return nil
}

func blobType(mediaType string) string {
	if mediaType == "" {
		return oci.MediaTypeOctetStream
	}
	return mediaType
}
