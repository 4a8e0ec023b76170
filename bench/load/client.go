package load

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Options are what a client is.
type Options struct {
	// Base is the registry's or proxy's URL, with a path when the registry has one.
	Base string
	// Tokens is shared by clients that are one and the same for a token service,
	// as the downloads of one container engine are; nil: each client its own.
	Tokens *Tokens
	// ReceiveBuffer of the sockets in bytes; 0 = the kernel's choice.
	ReceiveBuffer int
}

// Client pulls over one keep-alive connection to each host. Not safe for
// concurrent use: a benchmark has one for each of its clients.
type Client struct {
	opts  Options
	base  *url.URL
	conns map[string]*conn
	buf   []byte
}

// New returns a client that has not connected yet.
func New(o Options) (*Client, error) {
	u, err := url.Parse(o.Base)
	if err != nil {
		return nil, fmt.Errorf("base URL: %w", err)
	}
	if u.Scheme != "http" || u.Host == "" {
		return nil, fmt.Errorf("base URL %q: want http://host:port", o.Base)
	}
	if o.Tokens == nil {
		o.Tokens = &Tokens{}
	}
	return &Client{opts: o, base: u, conns: map[string]*conn{}}, nil
}

// Close closes the connections.
func (c *Client) Close() {
	for host := range c.conns {
		c.drop(host)
	}
}

func (c *Client) drop(host string) {
	// Nothing is written that a failing close could lose.
	_ = c.conns[host].tcp.Close()
	delete(c.conns, host)
}

// Request is one GET or HEAD below the base URL.
type Request struct {
	Method string // "" = GET
	Path   string // "/v2/..."
	Accept string // "" = anything
	Range  string // value of the header
}

// maxHops bounds redirects and token fetches of one request.
const maxHops = 6

// Do sends a request, follows redirects, answers a bearer challenge and returns
// the answer with its body unread; the body must be drained, or the client closed.
func (c *Client) Do(ctx context.Context, r Request) (*Response, error) {
	target := *c.base
	target.Path = strings.TrimSuffix(c.base.Path, "/") + r.Path
	u, token, tried := &target, c.opts.Tokens.get(r.Path), false
	for range maxHops {
		if u.Host != c.base.Host {
			token = ""
		}
		resp, err := c.send(ctx, u, r, token)
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", u.Host, u.Path, err)
		}
		switch {
		case resp.Status == 401 && !tried && u.Host == c.base.Host:
			tried = true
			challenge := resp.Header("WWW-Authenticate")
			if _, err := c.Drain(ctx, resp, Sink{}); err != nil {
				return nil, err
			}
			if token, err = c.fetchToken(ctx, challenge, r.Path); err != nil {
				return nil, err
			}
		case resp.Status == 301 || resp.Status == 302 || resp.Status == 307 || resp.Status == 308:
			if u, err = u.Parse(resp.Header("Location")); err != nil {
				return nil, fmt.Errorf("redirect: %w", err)
			}
			if _, err := c.Drain(ctx, resp, Sink{}); err != nil {
				return nil, err
			}
		default:
			return resp, nil
		}
	}
	return nil, fmt.Errorf("GET %s: more than %d redirects", r.Path, maxHops)
}

func (c *Client) send(ctx context.Context, u *url.URL, r Request, token string) (*Response, error) {
	method := r.Method
	if method == "" {
		method = "GET"
	}
	b := append(c.buf[:0], method...)
	b = append(append(append(b, ' '), u.RequestURI()...), " HTTP/1.1\r\nHost: "...)
	b = append(append(b, u.Host...), "\r\nUser-Agent: cistern-bench\r\n"...)
	for _, f := range [...][2]string{{"Accept", r.Accept}, {"Range", r.Range}, {"Authorization", token}} {
		if f[1] != "" {
			b = append(append(append(append(b, f[0]...), ": "...), f[1]...), "\r\n"...)
		}
	}
	b = append(b, "\r\n"...)
	c.buf = b
	cn := c.conns[u.Host]
	if cn == nil {
		var err error
		if cn, err = dial(ctx, u.Host, c.opts.ReceiveBuffer); err != nil {
			return nil, err
		}
		c.conns[u.Host] = cn
	}
	stop := cn.watch(ctx)
	defer stop()
	resp, err := cn.roundTrip(b, method == "HEAD")
	if err != nil {
		c.drop(u.Host)
		return nil, errors.Join(err, ctx.Err())
	}
	return resp, nil
}

// watch makes what waits on the connection end with ctx.
func (c *conn) watch(ctx context.Context) (stop func() bool) {
	return context.AfterFunc(ctx, func() {
		// The connection is given up: whatever waits on it must return.
		_ = c.tcp.SetDeadline(time.Unix(1, 0))
	})
}

// Tokens keeps bearer tokens by repository. Safe for concurrent use, the zero
// value is ready. Tokens are never renewed: a benchmark is shorter than they last.
type Tokens struct {
	mu sync.Mutex
	m  map[string]string // Authorization values by repository; guarded by mu
}

func (t *Tokens) get(path string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.m[repository(path)]
}

func (t *Tokens) put(path, value string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.m == nil {
		t.m = map[string]string{}
	}
	t.m[repository(path)] = value
}

// repository is the name in a /v2 path of a blob or manifest.
func repository(path string) string {
	for _, kind := range []string{"/blobs/", "/manifests/"} {
		if i := strings.LastIndex(path, kind); i >= 0 {
			return path[:i]
		}
	}
	return path
}

// fetchToken asks the service of a challenge, unless somebody with the same
// tokens has just done so.
func (c *Client) fetchToken(ctx context.Context, challenge, path string) (string, error) {
	realm, err := url.Parse(parameter(challenge, "realm"))
	if err != nil || realm.Host == "" {
		return "", fmt.Errorf("challenge %q: no usable realm", challenge)
	}
	realm.RawQuery = url.Values{"service": {parameter(challenge, "service")}, "scope": {parameter(challenge, "scope")}}.Encode()
	resp, err := c.send(ctx, realm, Request{}, "")
	if err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	data, err := c.ReadAll(ctx, resp, 1<<20)
	if err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	var t struct {
		Token string `json:"token"`
	}
	if err := json.Unmarshal(data, &t); err != nil || t.Token == "" {
		return "", fmt.Errorf("token: status %s without a token", strconv.Itoa(resp.Status))
	}
	c.opts.Tokens.put(path, "Bearer "+t.Token)
	return "Bearer " + t.Token, nil
}

// parameter reads a quoted parameter of a challenge.
func parameter(challenge, name string) string {
	_, rest, _ := strings.Cut(challenge, name+`="`)
	value, _, _ := strings.Cut(rest, `"`)
	return value
}

// ReadAll returns a body of at most limit bytes.
func (c *Client) ReadAll(ctx context.Context, r *Response, limit int64) ([]byte, error) {
	stop := r.conn.watch(ctx)
	defer stop()
	var src io.Reader = r.conn.br
	if r.body != nil {
		src = r.body
	} else if src = io.LimitReader(src, r.Length); r.Length > limit {
		return nil, fmt.Errorf("a body of %d bytes, want at most %d", r.Length, limit)
	}
	data, err := io.ReadAll(io.LimitReader(src, limit))
	if err == nil && r.body == nil && int64(len(data)) < r.Length {
		err = io.ErrUnexpectedEOF
	}
	if err == nil {
		err = c.finish(r)
	}
	return data, errors.Join(err, ctx.Err())
}

// finish makes the connection ready for the next request, or drops it.
func (c *Client) finish(r *Response) error {
	if r.Length < 0 && !r.closes && !r.none {
		// A chunked body ends with an empty line that its reader leaves.
		if _, err := r.conn.br.ReadSlice('\n'); err != nil {
			return fmt.Errorf("reading the trailer: %w", err)
		}
	}
	if r.closes {
		for host, cn := range c.conns {
			if cn == r.conn {
				c.drop(host)
			}
		}
	}
	return nil
}
