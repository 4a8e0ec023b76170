package upstream

import (
	"bufio"
	"bytes"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// framer follows the responses of one HTTP/1.1 connection, byte by byte as
// they arrive, to know where each one ends. net/http does not tell: it reads
// ahead, and takes what lies behind a response for the answer to the next
// request if that is quick enough (FAULTS.md 3b, "response splitting, reuse").
type framer struct {
	state  frameState
	method string
	line   []byte        // of the part that is being collected
	left   int64         // of a body or chunk
	head   *bufio.Reader // of whole headers; kept for its buffer
}

type frameState uint8

const (
	frameDone    frameState = iota // no response is due
	frameHead                      // collecting the header
	frameBody                      // left bytes of it
	frameSize                      // collecting a chunk's size line
	frameChunk                     // left bytes of it, its line end included
	frameTrailer                   // collecting a line behind the last chunk
	frameRest                      // everything up to the end of the connection
)

// maxFrameLine is more than net/http reads of a header; what is longer ends as
// an error there.
const maxFrameLine = 512 << 10

// begin expects the response to a request.
func (f *framer) begin(method string) {
	*f = framer{state: frameHead, method: method, line: f.line[:0], head: f.head}
}

func (f *framer) done() bool { return f.state == frameDone }

// take consumes what belongs to the response and returns its length; less
// than all of b is surplus.
func (f *framer) take(b []byte) int {
	n := 0
	for n < len(b) && f.state != frameDone {
		switch f.state {
		case frameRest:
			return len(b)
		case frameBody, frameChunk:
			step := min(f.left, int64(len(b)-n))
			n += int(step)
			f.left -= step
			switch {
			case f.left > 0:
			case f.state == frameBody:
				f.state = frameDone
			default:
				f.state = frameSize
			}
		default:
			n += f.collect(b[n:])
		}
	}
	return n
}

// collect adds to the line or header under way, and acts on it when complete.
func (f *framer) collect(b []byte) int {
	i := bytes.IndexByte(b, '\n')
	if i < 0 {
		i = len(b) - 1
	}
	f.line = append(f.line, b[:i+1]...)
	if len(f.line) > maxFrameLine {
		f.state = frameRest
	}
	if b[i] != '\n' {
		return i + 1
	}
	switch f.state {
	case frameHead:
		if bytes.HasSuffix(f.line, []byte("\r\n\r\n")) || bytes.HasSuffix(f.line, []byte("\n\n")) {
			f.header()
		}
	case frameSize:
		f.size()
	case frameTrailer:
		if len(bytes.TrimRight(f.line, "\r\n")) == 0 {
			f.state = frameDone
		}
		f.line = f.line[:0]
	}
	return i + 1
}

// header decides by net/http's own reading how the body is delimited.
func (f *framer) header() {
	if f.head == nil {
		f.head = bufio.NewReader(nil)
	}
	f.head.Reset(bytes.NewReader(f.line))
	resp, err := http.ReadResponse(f.head, &http.Request{Method: f.method})
	f.line = f.line[:0]
	switch {
	case err != nil:
		f.state = frameRest
	case resp.StatusCode < 200 && resp.StatusCode != http.StatusSwitchingProtocols: // the answer is still to come
	case f.method == http.MethodHead, resp.StatusCode == http.StatusNoContent, resp.StatusCode == http.StatusNotModified, resp.ContentLength == 0:
		f.state = frameDone
	case slices.Contains(resp.TransferEncoding, "chunked"):
		f.state = frameSize
	case resp.ContentLength > 0:
		f.state, f.left = frameBody, resp.ContentLength
	default:
		f.state = frameRest
	}
}

// size reads a chunk's size line.
func (f *framer) size() {
	text, _, _ := strings.Cut(strings.TrimRight(string(f.line), "\r\n"), ";")
	n, err := strconv.ParseUint(strings.TrimSpace(text), 16, 62)
	f.line = f.line[:0]
	switch {
	case err != nil:
		f.state = frameRest
	case n == 0:
		f.state = frameTrailer
	default:
		f.state, f.left = frameChunk, int64(n)+2
	}
}
