package lazy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"strings"
)

// errWrong is what no fault excuses: an answer that is not the truth and says nothing of it.
var errWrong = errors.New("WRONG ANSWER")

// A reply is an answer whose header is as it should be, and whose body is to be read.
type reply struct {
	*http.Response
	want []byte
	stop func()
}

// close ends the reading, and the connection with it unless all was read.
func (a *reply) close() {
	_ = a.Body.Close()
	a.stop()
}

// ask sends a GET of the blob, with a Range header unless spec is empty, and checks the header of the answer: 206 with exact
// numbers to a range and 200 to the rest. Other answers are errors, and wrong ones where they mean to be good.
func (r *rig) ask(b *blob, spec string, want span, header ...string) (*reply, error) {
	ctx, stop := r.ctx()
	a, err := r.open(ctx, b, spec, header)
	if err == nil {
		a.stop, a.want = stop, b.data[want.off:want.end]
		err = a.fits(b, spec, want)
		if err != nil {
			_ = a.Body.Close()
		}
	}
	if err != nil {
		stop()
		return nil, fmt.Errorf("range %q of %d bytes: %w", spec, b.size(), err)
	}
	return a, nil
}

// open sends a GET as it is.
func (r *rig) open(ctx context.Context, b *blob, spec string, header []string) (*reply, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.daemon.URL+b.path(), nil)
	if err != nil {
		return nil, err
	}
	if spec != "" {
		req.Header.Set("Range", "bytes="+spec)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, err
	}
	return &reply{Response: resp}, nil
}

// fits checks the header of an answer.
func (a *reply) fits(b *blob, spec string, want span) error {
	status, contentRange := http.StatusOK, ""
	if spec != "" {
		status, contentRange = http.StatusPartialContent, fmt.Sprintf("bytes %d-%d/%d", want.off, want.end-1, b.size())
	}
	got := a.Header.Get("Content-Range")
	switch {
	case a.StatusCode >= 400:
		return errors.New(a.Status)
	case a.StatusCode != status || got != contentRange:
		return fmt.Errorf("%w: %s with the Content-Range %q instead of %q", errWrong, a.Status, got, contentRange)
	case a.ContentLength != want.end-want.off:
		return fmt.Errorf("%w: Content-Length %d for %d bytes", errWrong, a.ContentLength, want.end-want.off)
	case a.Header.Get("Content-Type") == "" || a.Header.Get("Location") != "" || a.Header.Get("Content-Encoding") != "":
		return fmt.Errorf("%w: header %v", errWrong, a.Header)
	}
	return nil
}

// read compares the next n bytes of the body with the truth. Where they are the last ones the body must end there.
func (a *reply) read(n int64) error {
	buf := make([]byte, 64*kib)
	for n > 0 {
		m, err := a.Body.Read(buf[:min(int64(len(buf)), n)])
		if !bytes.Equal(buf[:m], a.want[:m]) {
			return fmt.Errorf("%w: other bytes, %d before the end", errWrong, len(a.want))
		}
		a.want = a.want[m:]
		n -= int64(m)
		if err == io.EOF && n > 0 {
			return fmt.Errorf("%w: it ends as if it were whole, with %d bytes to come", errWrong, len(a.want))
		}
		if err != nil && err != io.EOF {
			return fmt.Errorf("%d bytes before the end: %w", len(a.want), err)
		}
	}
	if len(a.want) > 0 {
		return nil
	}
	if m, err := a.Body.Read(buf); m > 0 || err != io.EOF {
		return fmt.Errorf("%w: the body goes on behind its end: %d bytes, %v", errWrong, m, err)
	}
	return nil
}

// get asks for the bytes of a range and reads all of them.
func (r *rig) get(b *blob, spec string, want span) error {
	return r.begin(b, spec, want, want.end-want.off)
}

// begin asks for the bytes of a range, reads the first n of them, and leaves.
func (r *rig) begin(b *blob, spec string, want span, n int64) error {
	a, err := r.ask(b, spec, want, "Accept-Encoding", "identity")
	if err != nil {
		return err
	}
	defer a.close()
	if err := a.read(n); err != nil {
		return fmt.Errorf("range %q of %d bytes: %w", spec, b.size(), err)
	}
	return nil
}

// closed asks for the bytes of a closed range.
func (r *rig) closed(b *blob, s span) error { return r.get(b, closedSpec(s), s) }

func closedSpec(s span) string { return fmt.Sprintf("%d-%d", s.off, s.end-1) }

// from asks for the bytes from off to the end, and reads n of them.
func (r *rig) from(b *blob, off, n int64) error {
	return r.begin(b, fmt.Sprintf("%d-", off), span{off, b.size()}, min(n, b.size()-off))
}

// whole is a plain GET. It tells where the answer came from.
func (r *rig) whole(b *blob) (state string, err error) {
	a, err := r.ask(b, "", span{0, b.size()})
	if err != nil {
		return "", err
	}
	defer a.close()
	return a.Header.Get("Cache-Status"), a.read(b.size())
}

// head is a HEAD, which tells the size.
func (r *rig) head(b *blob) error {
	req, err := http.NewRequestWithContext(r.t.Context(), http.MethodHead, r.daemon.URL+b.path(), nil)
	if err != nil {
		return err
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return err
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.ContentLength != b.size() || resp.Header.Get("Accept-Ranges") != "bytes" {
		return fmt.Errorf("%w: HEAD of %d bytes: %s, %v", errWrong, b.size(), resp.Status, resp.Header)
	}
	return nil
}

// several asks for several ranges at once. The answer must have one part for each, in the order in which they were asked for.
func (r *rig) several(b *blob, want []span) error {
	specs := make([]string, len(want))
	for i, s := range want {
		specs[i] = closedSpec(s)
	}
	ctx, stop := r.ctx()
	defer stop()
	a, err := r.open(ctx, b, strings.Join(specs, ","), []string{"Accept-Encoding", "identity"})
	if err != nil {
		return err
	}
	defer a.Body.Close()
	media, params, err := mime.ParseMediaType(a.Header.Get("Content-Type"))
	if err != nil || a.StatusCode != http.StatusPartialContent || media != "multipart/byteranges" {
		return fmt.Errorf("%w: %s to %d ranges, with the type %q", errWrong, a.Status, len(want), a.Header.Get("Content-Type"))
	}
	parts := multipart.NewReader(a.Body, params["boundary"])
	for i, s := range want {
		part, err := parts.NextRawPart()
		if err != nil {
			return fmt.Errorf("part %d of %d: %w", i, len(want), err)
		}
		if got, exact := part.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-%d/%d", s.off, s.end-1, b.size()); got != exact {
			return fmt.Errorf("%w: part %d is %q instead of %q", errWrong, i, got, exact)
		}
		got, err := io.ReadAll(part)
		if err != nil {
			return fmt.Errorf("part %d of %d: %w", i, len(want), err)
		}
		if !bytes.Equal(got, b.data[s.off:s.end]) {
			return fmt.Errorf("%w: other bytes in part %d", errWrong, i)
		}
	}
	if _, err := parts.NextRawPart(); err != io.EOF {
		return fmt.Errorf("%w: more than %d parts (%v)", errWrong, len(want), err)
	}
	return nil
}
