// Package load is the client side of the bench: a registry client that costs the
// machine as little as it can, because load and proxy share its cores. It speaks
// just enough HTTP/1.1 for GET and HEAD, follows redirects and fetches bearer
// tokens. It is no client for use elsewhere: it trusts its servers.
package load

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httputil"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// conn is one keep-alive connection. Not safe for concurrent use.
type conn struct {
	tcp  *net.TCPConn
	br   *bufio.Reader
	head []byte // the last answer's header block, reused
}

// headerBuffer is what is read ahead of a body: small, so that large bodies are
// read (or dropped) straight from the socket.
const headerBuffer = 8 << 10

// dial connects to addr. A receive buffer other than 0 is set before the
// handshake, so that the window is never larger.
func dial(ctx context.Context, addr string, receiveBuffer int) (*conn, error) {
	d := net.Dialer{Timeout: 10 * time.Second}
	if receiveBuffer > 0 {
		d.Control = func(_, _ string, raw syscall.RawConn) error {
			var err error
			cerr := raw.Control(func(fd uintptr) {
				err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, receiveBuffer)
			})
			return errors.Join(cerr, err)
		}
	}
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("dialling: %w", err)
	}
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return nil, fmt.Errorf("dialling %s: a %T is no TCP connection", addr, c)
	}
	return &conn{tcp: tcp, br: bufio.NewReaderSize(tcp, headerBuffer)}, nil
}

// Response is an answer whose body has not been read. It and its header are
// valid until the next request on the same client.
type Response struct {
	Status int
	// Length is the body's length; -1 when it is not announced.
	Length int64

	conn    *conn
	header  []byte
	body    io.Reader
	started time.Time
	closes  bool
	none    bool // there is no body, whatever its length
}

// Header returns the first value of a header field, "" when there is none.
func (r *Response) Header(name string) string {
	for line := range bytes.Lines(r.header) {
		if len(line) > len(name) && line[len(name)] == ':' && strings.EqualFold(string(line[:len(name)]), name) {
			return string(bytes.TrimSpace(line[len(name)+1:]))
		}
	}
	return ""
}

// roundTrip sends a whole request and reads the header of its answer.
func (c *conn) roundTrip(request []byte, head bool) (*Response, error) {
	r := &Response{conn: c, Length: -1, started: time.Now()}
	if _, err := c.tcp.Write(request); err != nil {
		return nil, fmt.Errorf("sending the request: %w", err)
	}
	c.head = c.head[:0]
	for {
		line, err := c.br.ReadSlice('\n')
		if err != nil {
			return nil, fmt.Errorf("reading the header: %w", err)
		}
		if len(bytes.TrimRight(line, "\r\n")) == 0 {
			break
		}
		c.head = append(c.head, line...)
	}
	r.header = c.head
	if err := r.parse(); err != nil {
		return nil, err
	}
	switch {
	case head || r.Status == 204 || r.Status == 304:
		r.body, r.none = strings.NewReader(""), true
	case strings.EqualFold(r.Header("Transfer-Encoding"), "chunked"):
		r.body, r.Length = httputil.NewChunkedReader(c.br), -1
	case r.Length < 0:
		r.body, r.closes = c.br, true
	}
	return r, nil
}

func (r *Response) parse() error {
	line, _, _ := bytes.Cut(r.header, []byte("\r\n"))
	if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.")) {
		return fmt.Errorf("reading the header: %q is no status line", line)
	}
	var err error
	if r.Status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return fmt.Errorf("reading the header: %w", err)
	}
	if l := r.Header("Content-Length"); l != "" {
		if r.Length, err = strconv.ParseInt(l, 10, 64); err != nil {
			return fmt.Errorf("reading the header: %w", err)
		}
	}
	r.closes = strings.EqualFold(r.Header("Connection"), "close") || bytes.HasPrefix(line, []byte("HTTP/1.0"))
	return nil
}
