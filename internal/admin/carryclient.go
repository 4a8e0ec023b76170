package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"cistern/cache"
	"cistern/internal/oci"
)

// Bundle asks what of an image can be carried elsewhere.
func (c *Client) Bundle(ctx context.Context, image string) (b cache.Bundle, err error) {
	return b, c.call(ctx, http.MethodGet, "/api/v1/bundle", url.Values{"image": {image}}, &b)
}

// OpenBlob opens what is there of a digest. Nobody has verified what comes.
func (c *Client) OpenBlob(ctx context.Context, d oci.Digest) (io.ReadCloser, error) {
	return c.open(ctx, http.MethodGet, "/api/v1/blob/"+d.String(), nil)
}

// Import hands a bundle over. The daemon tells what is to be sent of it, by ImportBlob,
// before it takes it in.
func (c *Client) Import(ctx context.Context, b cache.Bundle) (i cache.Imported, err error) {
	body, err := json.Marshal(b)
	if err != nil {
		return i, fmt.Errorf("encode bundle: %w", err)
	}
	return i, c.put(ctx, "/api/v1/bundle", nil, bytes.NewReader(body), int64(len(body)), &i)
}

// ImportBlob sends a part of an image's bundle.
func (c *Client) ImportBlob(ctx context.Context, image string, p cache.Carried, r io.Reader) error {
	q := url.Values{"image": {image}}
	if p.Manifest {
		q.Set("manifest", p.MediaType)
	}
	if p.Private {
		q.Set("private", "true")
	}
	return c.put(ctx, "/api/v1/blob/"+p.Digest.String(), q, r, p.Size, nil)
}

// put sends a body and reads the answer into out, if there is one.
func (c *Client) put(ctx context.Context, path string, query url.Values, r io.Reader, size int64, out any) error {
	body := io.NopCloser(r)
	if size == 0 {
		body = http.NoBody // or net/http takes the size for unknown
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, c.base+path+"?"+query.Encode(), body)
	if err != nil {
		return fmt.Errorf("admin address %s: %w", c.address, err)
	}
	req.ContentLength = size
	req.Header.Set("Expect", "100-continue") // a refusal comes before the body is sent
	answer, err := c.send(req)
	if err != nil {
		return err
	}
	defer answer.Close()
	return c.decode(answer, out)
}
