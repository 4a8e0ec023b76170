package script

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// An Origin is an upstream that answers by rules, and honestly where no rule matches. It writes down every request.
type Origin struct {
	Addr string

	content *Content
	events  *events

	mu       sync.Mutex // guards what follows
	rules    []Rule
	used     []int // how often each rule was used
	seen     []Seen
	listener net.Listener // nil while down
	conns    map[net.Conn]bool
	closed   chan struct{} // closed when the origin goes down: ends stalls

	running sync.WaitGroup
}

// Seen is a request as an origin got it.
type Seen struct {
	Method, URI string
	Header      http.Header
}

// String is "METHOD URI", as rules match it.
func (s Seen) String() string { return s.Method + " " + s.URI }

// headers are the header lines as rules match them.
func (s Seen) headers() []string {
	var lines []string
	for name, values := range s.Header {
		for _, v := range values {
			lines = append(lines, name+": "+v)
		}
	}
	return lines
}

// Up makes the origin listen at its port on every loopback address, so that the lab's other host names lead to it too.
func (o *Origin) Up() error {
	_, port, err := net.SplitHostPort(o.Addr)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp4", ":"+port)
	if err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.listener, o.closed, o.conns = l, make(chan struct{}), map[net.Conn]bool{}
	closed := o.closed
	o.running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if !o.keep(c) {
				_ = c.Close()
				return
			}
			o.running.Go(func() {
				o.serve(c, closed)
				o.mu.Lock()
				defer o.mu.Unlock()
				delete(o.conns, c)
			})
		}
	})
	return nil
}

func (o *Origin) keep(c net.Conn) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.listener == nil {
		return false
	}
	o.conns[c] = true
	return true
}

// Down makes the address refuse connections, cuts the open ones and waits until nothing runs any more.
func (o *Origin) Down() {
	o.mu.Lock()
	if o.listener != nil {
		_ = o.listener.Close()
		close(o.closed)
		o.listener = nil
		for c := range o.conns {
			_ = c.Close()
		}
	}
	o.mu.Unlock()
	o.running.Wait()
}

// Script replaces the rules.
func (o *Origin) Script(rules []Rule) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.rules, o.used = rules, make([]int, len(rules))
}

// Requests are all requests since the origin was made.
func (o *Origin) Requests() []Seen {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.seen)
}

// serve answers the requests of one connection, until a step closes it or the other side does.
func (o *Origin) serve(c net.Conn, closed <-chan struct{}) {
	defer c.Close()
	in := bufio.NewReader(c)
	for {
		req, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		seen := Seen{Method: req.Method, URI: req.RequestURI, Header: req.Header}
		seen.Header.Set("Host", req.Host)
		body, _ := io.ReadAll(req.Body)
		if len(body) > 0 {
			seen.Header.Set("X-Lab-Body", string(body))
		}
		p := player{conn: c, content: o.content, events: o.events, closed: closed, req: req}
		if err := p.play(o.choose(seen)); err != nil || req.Close {
			return
		}
	}
}

// choose writes the request down and finds the steps for it.
func (o *Origin) choose(s Seen) []Step {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.seen = append(o.seen, s)
	for i, r := range o.rules {
		if !r.Match.MatchString(s.String()) || r.Times > 0 && o.used[i] >= r.Times {
			continue
		}
		if r.Unless != nil && slices.ContainsFunc(s.headers(), r.Unless.MatchString) {
			continue
		}
		o.used[i]++
		return r.Steps
	}
	return []Step{{Verb: "honest"}}
}

// A player does steps on one connection.
type player struct {
	conn    net.Conn
	content *Content
	events  *events
	closed  <-chan struct{}
	req     *http.Request // what is being answered; nil for a client
	in      *bufio.Reader // what a client reads from
}

// errClosed says that a step has ended the connection.
var errClosed = fmt.Errorf("the script has closed the connection")

func (p *player) play(steps []Step) error {
	for _, s := range steps {
		if err := p.step(s); err != nil {
			return fmt.Errorf("step in line %d (%s): %w", s.Line, s.Verb, err)
		}
	}
	return nil
}

func (p *player) step(s Step) error {
	switch s.Verb {
	case ">":
		return p.send([]byte(s.Args[0] + "\r\n"))
	case "text":
		return p.send([]byte(s.Args[0]))
	case "body":
		b, err := p.slice(s.Args)
		if err != nil {
			return err
		}
		return p.send(b)
	case "zeros", "repeat", "hex":
		return p.generate(s)
	case "answer":
		return p.answer(s.Args)
	case "honest":
		return p.honest(s.Args)
	case "expect", "drain", "eof":
		return p.read(s)
	default:
		return p.wait(s)
	}
}

// send writes. A client goes on when the other side has closed: it may have answered before that.
func (p *player) send(b []byte) error {
	_, err := p.conn.Write(b)
	if p.req == nil {
		return nil
	}
	return err
}

func (p *player) generate(s Step) error {
	if s.Verb == "hex" {
		b, err := hex.DecodeString(s.Args[0])
		if err != nil {
			return err
		}
		return p.send(b)
	}
	n, err := strconv.Atoi(s.Args[0])
	if err != nil {
		return err
	}
	text := "\x00"
	if s.Verb == "repeat" {
		text = s.Args[1]
	}
	return p.send(bytes.Repeat([]byte(text), n))
}

// slice is the part of a blob that "body N [A [B]]" names.
func (p *player) slice(args []string) ([]byte, error) {
	b, ok := p.content.Blob(args[0])
	if !ok {
		return nil, fmt.Errorf("no blob %q", args[0])
	}
	bounds := [2]int{0, len(b)}
	for i, a := range args[1:] {
		n, err := strconv.Atoi(a)
		if err != nil {
			return nil, err
		}
		if n < 0 {
			n += len(b)
		}
		bounds[i] = min(n, len(b))
	}
	return b[bounds[0]:bounds[1]], nil
}

func (p *player) answer(args []string) error {
	status, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	body := `{"errors":[{"code":"SCRIPTED","message":"scripted"}]}`
	if p.req != nil && p.req.Method == http.MethodHead {
		body = ""
	}
	head := fmt.Sprintf("HTTP/1.1 %d %s\r\nContent-Length: %d\r\n", status, http.StatusText(status), len(body))
	for _, h := range append([]string{"Content-Type: application/json"}, args[1:]...) {
		head += h + "\r\n"
	}
	return p.send([]byte(head + "\r\n" + body))
}

func (p *player) honest(headers []string) error {
	rec := httptest.NewRecorder()
	p.content.ServeHTTP(rec, p.req)
	resp := rec.Result()
	if resp.ContentLength < 0 {
		resp.ContentLength = int64(rec.Body.Len())
	}
	resp.Request = p.req
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		resp.Header.Set(name, value)
	}
	return resp.Write(p.conn)
}

// wait does the steps that take time or end the connection.
func (p *player) wait(s Step) error {
	switch s.Verb {
	case "pause":
		d, err := time.ParseDuration(s.Args[0])
		if err != nil {
			return err
		}
		select {
		case <-time.After(d):
		case <-p.closed:
		}
		return nil
	case "await":
		select {
		case <-p.events.of(s.Args[0]):
		case <-p.closed:
		}
		return nil
	case "stall":
		<-p.closed
		return errClosed
	case "fin":
		_ = p.conn.Close()
		return errClosed
	case "rst":
		if c, ok := p.conn.(*net.TCPConn); ok {
			_ = c.SetLinger(0)
		}
		_ = p.conn.Close()
		return errClosed
	}
	return fmt.Errorf("no such step: %s", s.Verb)
}

// events are the names that "release" makes known to those who await them.
type events struct {
	mu    sync.Mutex // guards named
	named map[string]chan struct{}
}

func (e *events) of(name string) chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.named == nil {
		e.named = map[string]chan struct{}{}
	}
	if e.named[name] == nil {
		e.named[name] = make(chan struct{})
	}
	return e.named[name]
}
