package lazy_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cistern/test/lab"
)

const (
	kib        = 1 << 10
	mib        = 1 << 20
	piece      = mib // what upstream is asked for is made of these
	repository = "lab/app"
)

// pool is random bytes that all blobs are windows into: they take no memory of their own, and each differs from every other at
// each of its bytes.
var pool = sync.OnceValue(func() []byte {
	b := make([]byte, 80*mib)
	_, _ = rand.NewChaCha8(sha256.Sum256([]byte("cistern test/lazy"))).Read(b)
	return b
})

// A blob is something that the origin has.
type blob struct {
	digest string
	data   []byte
}

func (b *blob) path() string { return "/v2/" + repository + "/blobs/" + b.digest }
func (b *blob) size() int64  { return int64(len(b.data)) }

// A span is the bytes [off, end) of a blob.
type span struct{ off, end int64 }

// pieces are the bytes of the n pieces from the one with number i on.
func pieces(i, n int64) span { return span{i * piece, (i + n) * piece} }

// An ask is a GET of a blob's bytes as it reached the origin: at the registry, or where that has redirected to.
type ask struct {
	blob   *blob
	header string // Range
	span          // what it asks for of the blob
	sent   atomic.Int64
}

// A fault answers a request instead of the honest origin.
type fault func(w http.ResponseWriter, r *http.Request, a *ask)

// An origin is the upstream: honest, but for the faults that it is given.
type origin struct {
	addr   string
	offset atomic.Int64
	ended  chan struct{} // closed when the test is over: ends what stands still

	mu       sync.Mutex // guards what follows
	blobs    map[string]*blob
	asks     []*ask
	heads    map[*blob]int
	faults   map[*blob][]fault // of the next GETs of each blob, in their order
	always   map[*blob]fault   // of all others
	signed   bool              // blobs lie elsewhere, behind URLs that expire
	token    int               // the one that is good there
	redirect int               // answers with such a URL
	refused  int               // requests with one that has expired
	refuse   fault             // how they are answered
}

// startOrigin serves on every loopback address until the test is over.
func startOrigin(t testing.TB) *origin {
	t.Helper()
	o := &origin{
		addr: lab.Addr(), blobs: map[string]*blob{}, heads: map[*blob]int{}, ended: make(chan struct{}),
		faults: map[*blob][]fault{}, always: map[*blob]fault{},
	}
	_, port, err := net.SplitHostPort(o.addr)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp4", ":"+port)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: o}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		close(o.ended)
		_ = s.Close()
		<-done
	})
	return o
}

// blob makes a blob of so many bytes.
func (o *origin) blob(size int) *blob {
	at := int(o.offset.Add(1)) * 61 % (len(pool()) - size)
	b := &blob{data: pool()[at : at+size]}
	b.digest = fmt.Sprintf("sha256:%x", sha256.Sum256(b.data))
	o.put(b)
	return b
}

// put has the origin serve a blob, whatever its bytes are.
func (o *origin) put(b *blob) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.blobs[b.digest] = b
}

// fail has the next GETs of the blob's bytes answered by these, one each.
func (o *origin) fail(b *blob, faults ...fault) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.faults[b] = faults
}

// keep has all GETs of the blob's bytes answered by f, or honestly again if it is nil.
func (o *origin) keep(b *blob, f fault) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.always[b] = f
}

// sign has blobs lie elsewhere from now on, behind URLs that expire.
func (o *origin) sign() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.signed = true
}

// expire makes signed URLs that were given out so far useless: they are answered by how.
func (o *origin) expire(how fault) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.token++
	o.refuse = how
}

// asked are the GETs of the blob's bytes so far.
func (o *origin) asked(b *blob) []*ask {
	o.mu.Lock()
	defer o.mu.Unlock()
	var of []*ask
	for _, a := range o.asks {
		if a.blob == b {
			of = append(of, a)
		}
	}
	return of
}

// sent is how many bytes of the blob left the origin.
func (o *origin) sent(b *blob) (n int64) {
	for _, a := range o.asked(b) {
		n += a.sent.Load()
	}
	return n
}

// ServeHTTP answers as a registry does, and under /signed/ as the storage behind one.
func (o *origin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/v2/":
		return
	case "/login": // of a portal
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, page)
		return
	}
	o.mu.Lock()
	b, signed := o.blobs[path.Base(r.URL.Path)], o.signed
	o.mu.Unlock()
	switch stored := strings.HasPrefix(r.URL.Path, "/signed/"); {
	case b == nil:
		http.NotFound(w, r)
	case r.Method == http.MethodHead && !stored:
		o.mu.Lock()
		o.heads[b]++
		o.mu.Unlock()
		serve(w, r, &ask{blob: b})
	case stored && !o.admits(w, r):
	case signed && !stored:
		o.mu.Lock()
		o.redirect++
		to := fmt.Sprintf("http://cdn.lab.test:%s/signed/%s?token=%d", o.addr[strings.Index(o.addr, ":")+1:], b.digest, o.token)
		o.mu.Unlock()
		http.Redirect(w, r, to, http.StatusTemporaryRedirect)
	default:
		a, f := o.note(r, b)
		f(w, r, a)
	}
}

// admits tells whether a signed URL is good, and answers if it is not.
func (o *origin) admits(w http.ResponseWriter, r *http.Request) bool {
	o.mu.Lock()
	good := r.Method == http.MethodGet && r.URL.Query().Get("token") == strconv.Itoa(o.token)
	if !good {
		o.refused++
	}
	how := o.refuse
	o.mu.Unlock()
	switch {
	case good:
	case how != nil:
		how(w, r, nil)
	default:
		http.Error(w, "this URL is for GET alone", http.StatusForbidden)
	}
	return good
}

// note writes a GET down and finds who answers it.
func (o *origin) note(r *http.Request, b *blob) (*ask, fault) {
	a := &ask{blob: b, header: r.Header.Get("Range"), span: span{0, b.size()}}
	if from, to, ok := strings.Cut(strings.TrimPrefix(a.header, "bytes="), "-"); ok && !strings.Contains(to, ",") {
		first, err1 := strconv.ParseInt(from, 10, 64)
		last, err2 := strconv.ParseInt(to, 10, 64)
		switch {
		case err1 == nil && err2 == nil:
			a.off, a.end = first, last+1
		case err1 == nil:
			a.off = first
		case err2 == nil:
			a.off = b.size() - last
		}
		a.off, a.end = min(a.off, b.size()), min(a.end, b.size())
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.asks = append(o.asks, a)
	if next := o.faults[b]; len(next) > 0 {
		o.faults[b] = next[1:]
		return a, next[0]
	}
	if f := o.always[b]; f != nil {
		return a, f
	}
	return a, serve
}

// serve is the honest answer.
func serve(w http.ResponseWriter, r *http.Request, a *ask) { serveBytes(w, r, a, a.blob.data) }

// serveBytes is an honest answer with what may be another content.
func serveBytes(w http.ResponseWriter, r *http.Request, a *ask, data []byte) {
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Docker-Content-Digest", a.blob.digest)
	http.ServeContent(&counted{ResponseWriter: w, a: a}, r, "", time.Time{}, bytes.NewReader(data))
}

// counted counts the bytes of a body before they are sent: what a client has was counted.
type counted struct {
	http.ResponseWriter
	a *ask
}

// Write implements io.Writer.
func (c *counted) Write(p []byte) (int, error) {
	c.a.sent.Add(int64(len(p)))
	return c.ResponseWriter.Write(p)
}

// merged sorts spans and joins those that touch; twice are the bytes that are in more than one of them.
func merged(all []span) (out []span, twice int64) {
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b span) int { return int(a.off - b.off) })
	for _, s := range all {
		if n := len(out); n > 0 && s.off <= out[n-1].end {
			twice += min(s.end, out[n-1].end) - s.off
			out[n-1].end = max(out[n-1].end, s.end)
			continue
		}
		if s.end > s.off {
			out = append(out, s)
		}
	}
	return out, twice
}

// headsOf is how many HEADs of the blob there were.
func (o *origin) headsOf(b *blob) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.heads[b]
}
