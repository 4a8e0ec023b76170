package script

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// A request is what "get" is asked to do.
type request struct {
	method string
	url    string
	header http.Header
	leave  int64 // leave after so many bytes of the body; -1: never
	rate   int64 // bytes a second; 0: as fast as they come
	never  bool  // do not read at all until the script is done
}

// A result is how a request ended.
type result struct {
	status int
	header http.Header
	size   int64
	digest string // of the whole body as received
	head   []byte // the first 64 KiB of it
	err    error  // of the connection, or of the body: nil for a complete answer
	first  time.Duration
	took   time.Duration
}

// parseGet reads the flags of "get", see commands.go.
func parseGet(args []string) (request, error) {
	r := request{method: http.MethodGet, header: http.Header{}, leave: -1}
	for len(args) > 1 {
		flag, value := args[0], args[1]
		args = args[2:]
		var err error
		switch flag {
		case "-method":
			r.method = value
		case "-header":
			name, text, _ := strings.Cut(value, ": ")
			r.header.Add(name, text)
		case "-range":
			r.header.Set("Range", "bytes="+value)
		case "-leave":
			r.leave, err = strconv.ParseInt(value, 10, 64)
		case "-rate":
			r.rate, err = strconv.ParseInt(value, 10, 64)
		case "-never":
			r.never = value == "true"
		default:
			err = fmt.Errorf("unknown flag %s", flag)
		}
		if err != nil {
			return r, err
		}
	}
	if len(args) != 1 {
		return r, fmt.Errorf("get wants one path")
	}
	r.url = args[0]
	return r, nil
}

// do sends the request on a connection of its own and reads the answer as told. It ends when done is closed, or after a
// minute, which no answer may take.
func (r request) do(done <-chan struct{}) result {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	go func() {
		select {
		case <-done:
			cancel()
		case <-ctx.Done():
		}
	}()
	start := time.Now()
	transport := &http.Transport{DisableCompression: true, DisableKeepAlives: true, DialContext: smallWindow(r.never)}
	req, err := http.NewRequestWithContext(ctx, r.method, r.url, nil)
	if err != nil {
		return result{err: err}
	}
	req.Header = r.header
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return result{err: err, took: time.Since(start)}
	}
	defer resp.Body.Close()
	res := result{status: resp.StatusCode, header: resp.Header, first: time.Since(start)}
	if r.never {
		<-done
		return res
	}
	sum := sha256.New()
	res.err = r.read(resp.Body, sum, &res)
	res.digest, res.took = fmt.Sprintf("sha256:%x", sum.Sum(nil)), time.Since(start)
	return res
}

// smallWindow makes a client that never reads fill up after a few KiB instead of some MiB.
func smallWindow(small bool) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, addr)
		if tcp, ok := c.(*net.TCPConn); ok && small {
			err = tcp.SetReadBuffer(4096)
		}
		return c, err
	}
}

// read reads the body at the rate asked for, up to the byte where the client leaves.
func (r request) read(body io.Reader, sum hash.Hash, res *result) error {
	buf := make([]byte, 32<<10)
	if r.rate > 0 {
		buf = buf[:min(int64(len(buf)), max(1, r.rate/16))]
	}
	start := time.Now()
	for {
		if r.leave >= 0 && res.size >= r.leave {
			return nil
		}
		part := buf
		if r.leave >= 0 {
			part = buf[:min(int64(len(buf)), r.leave-res.size)]
		}
		n, err := body.Read(part)
		sum.Write(part[:n])
		res.size += int64(n)
		if room := 64<<10 - len(res.head); room > 0 {
			res.head = append(res.head, part[:min(n, room)]...)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if r.rate > 0 {
			// A slow reader is what is being tested: it lags until the clock has caught up with its bytes.
			due := start.Add(time.Duration(float64(res.size) / float64(r.rate) * float64(time.Second)))
			<-time.After(time.Until(due))
		}
	}
}
