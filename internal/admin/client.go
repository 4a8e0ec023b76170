package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"cistern/cache"
	"cistern/internal/listener"
	"cistern/proxy"
	"cistern/proxy/savings"
)

// DefaultAddress is where the admin listener is unless the configuration says
// otherwise.
const DefaultAddress = "127.0.0.1:5001"

// maxAnswer bounds what the client reads, in bytes: the table of clients is
// the longest, and bounded itself.
const maxAnswer = 16 << 20

// expectTime is how long a body waits for the daemon to want it.
const expectTime = 10 * time.Second

// Client asks a daemon's admin listener. Its errors are for people.
type Client struct {
	address string // as the user wrote it
	base    string
	token   string
	http    *http.Client
}

// NewClient makes a client of the listener at address: host:port, an http URL,
// or "unix:" and a path; "" is DefaultAddress. tokenFile holds the bearer token
// that a listener beyond loopback wants; "": none is sent. Nothing is dialled.
func NewClient(address, tokenFile string) (*Client, error) {
	if address == "" {
		address = DefaultAddress
	}
	c := &Client{address: address, http: &http.Client{
		Transport: &http.Transport{DisableKeepAlives: true, ExpectContinueTimeout: expectTime}, // no proxy: this is our own machine mostly
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse // the token is for this address alone
		},
	}}
	if tokenFile != "" {
		token, err := readToken(tokenFile)
		if err != nil {
			return nil, err
		}
		c.token = token
	}
	return c, c.resolve(address)
}

// resolve turns the address into the base of URLs.
func (c *Client) resolve(address string) error {
	if path, ok := strings.CutPrefix(address, listener.UnixPrefix); ok {
		c.base = "http://localhost"
		c.http.Transport.(*http.Transport).DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		}
		return nil
	}
	if u, err := url.Parse(address); err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" {
		c.base = strings.TrimRight(address, "/")
		return nil
	}
	host, port, err := net.SplitHostPort(address)
	if _, notNumber := strconv.ParseUint(port, 10, 16); err != nil || notNumber != nil {
		return fmt.Errorf("admin address %q: want HOST:PORT or unix:/path", address)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1" // an address to listen on, taken from a configuration
	}
	c.base = "http://" + net.JoinHostPort(host, port)
	return nil
}

// Status asks how the daemon fares.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	return s, c.call(ctx, http.MethodGet, "/api/v1/status", nil, &s)
}

// Upstreams asks for the registries behind the daemon.
func (c *Client) Upstreams(ctx context.Context) (u Upstreams, err error) {
	return u, c.call(ctx, http.MethodGet, "/api/v1/upstreams", nil, &u)
}

// Clients asks who has pulled, the last seen first.
func (c *Client) Clients(ctx context.Context) (l Clients, err error) {
	return l, c.call(ctx, http.MethodGet, "/api/v1/clients", nil, &l)
}

// Fills asks what is on its way, the oldest first.
func (c *Client) Fills(ctx context.Context) (l Fills, err error) {
	return l, c.call(ctx, http.MethodGet, "/api/v1/fills", nil, &l)
}

// Savings asks what was saved, and of what.
func (c *Client) Savings(ctx context.Context) (r savings.Report, err error) {
	return r, c.call(ctx, http.MethodGet, "/api/v1/savings", nil, &r)
}

// Version asks which version the daemon is.
func (c *Client) Version(ctx context.Context) (v Version, err error) {
	return v, c.call(ctx, http.MethodGet, "/api/v1/version", nil, &v)
}

// Refresh has a tag looked up again upstream.
func (c *Client) Refresh(ctx context.Context, image string) (r proxy.Refreshed, err error) {
	return r, c.call(ctx, http.MethodPost, "/api/v1/refresh", url.Values{"image": {image}}, &r)
}

// Remove drops an image from the cache.
func (c *Client) Remove(ctx context.Context, image string) (r cache.Removed, err error) {
	return r, c.call(ctx, http.MethodPost, "/api/v1/rm", url.Values{"image": {image}}, &r)
}

// Pin keeps an image.
func (c *Client) Pin(ctx context.Context, image string) (p cache.Pin, err error) {
	return p, c.call(ctx, http.MethodPost, "/api/v1/pin", url.Values{"image": {image}}, &p)
}

// Unpin gives an image free.
func (c *Client) Unpin(ctx context.Context, image string) (u proxy.Unpinned, err error) {
	return u, c.call(ctx, http.MethodPost, "/api/v1/unpin", url.Values{"image": {image}}, &u)
}

// Pins asks what is pinned.
func (c *Client) Pins(ctx context.Context) (p Pins, err error) {
	return p, c.call(ctx, http.MethodGet, "/api/v1/pins", nil, &p)
}

// Image asks what an image consists of, and what of that is there.
func (c *Client) Image(ctx context.Context, image string) (i cache.ImageDetail, err error) {
	return i, c.call(ctx, http.MethodGet, "/api/v1/image", url.Values{"image": {image}}, &i)
}

// Blob asks what is known of a digest.
func (c *Client) Blob(ctx context.Context, digest string) (p cache.Part, err error) {
	return p, c.call(ctx, http.MethodGet, "/api/v1/blob", url.Values{"digest": {digest}}, &p)
}

// EvictNext asks what would go for so many bytes.
func (c *Client) EvictNext(ctx context.Context, bytes int64) (e Eviction, err error) {
	return e, c.call(ctx, http.MethodGet, "/api/v1/evict", url.Values{"bytes": {strconv.FormatInt(bytes, 10)}}, &e)
}

// Images gives each image that is known to each, as they come.
func (c *Client) Images(ctx context.Context, each func(cache.ImageInfo) error) error {
	body, err := c.open(ctx, http.MethodGet, "/api/v1/images", nil)
	if err != nil {
		return err
	}
	defer body.Close()
	for dec := json.NewDecoder(body); ; {
		var line struct {
			cache.ImageInfo
			failure
		}
		switch err := dec.Decode(&line); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("read answer of %s: %w", c.address, err)
		case line.Error != "":
			return errors.New(line.Error)
		}
		if err := each(line.ImageInfo); err != nil {
			return err
		}
	}
}

// Healthy asks whether the daemon lives, and nothing more.
func (c *Client) Healthy(ctx context.Context) error {
	return c.call(ctx, http.MethodGet, "/healthz", nil, nil)
}

// call makes one request and reads its answer into out, if there is one.
func (c *Client) call(ctx context.Context, method, path string, query url.Values, out any) error {
	answer, err := c.open(ctx, method, path, query)
	if err != nil {
		return err
	}
	defer answer.Close()
	return c.decode(answer, out)
}

// decode reads an answer into out, if there is one.
func (c *Client) decode(answer io.Reader, out any) error {
	body, err := io.ReadAll(io.LimitReader(answer, maxAnswer))
	if err != nil {
		return fmt.Errorf("read answer of %s: %w", c.address, err)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("what answers at %s is not cistern's admin listener, or another version of it: %w", c.address, err)
	}
	return nil
}

// open makes one request and gives the body of its answer, if that is a good one.
func (c *Client) open(ctx context.Context, method, path string, query url.Values) (io.ReadCloser, error) {
	target := c.base + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, target, nil)
	if err != nil {
		return nil, fmt.Errorf("admin address %s: %w", c.address, err)
	}
	return c.send(req)
}

// send sends a request and gives the body of its answer, if that is a good one.
func (c *Client) send(req *http.Request) (io.ReadCloser, error) {
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("read answer of %s: %w", c.address, err)
	}
	return nil, c.refused(resp, body)
}

// unreachable explains why nothing answered.
func (c *Client) unreachable(err error) error {
	var cause *url.Error
	if errors.As(err, &cause) {
		err = cause.Err
	}
	var up *net.OpError
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("is cistern running? nothing listens at %s; --admin or CISTERN_ADMIN names another address", c.address)
	case errors.As(err, &up) && up.Op == "dial":
		return fmt.Errorf("is cistern running? cannot reach %s: %w; --admin or CISTERN_ADMIN names another address", c.address, up.Err)
	}
	return fmt.Errorf("ask %s: %w", c.address, err)
}

// refused turns an answer other than 200 into an error.
func (c *Client) refused(resp *http.Response, body []byte) error {
	var f failure
	if json.Unmarshal(body, &f) == nil && f.Error != "" {
		return said(resp.StatusCode, f.Error)
	}
	what, _, _ := bytes.Cut(bytes.TrimSpace(body), []byte("\n"))
	return fmt.Errorf("%s answered %s to %s: %s", c.address, resp.Status, resp.Request.URL.Path, cut(string(what)))
}
