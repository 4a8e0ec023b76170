package load_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cistern/bench/load"
)

func body() []byte { return bytes.Repeat([]byte("0123456789abcdef"), 20_000) }

func newClient(t *testing.T, base string) *load.Client {
	t.Helper()
	c, err := load.New(load.Options{Base: base})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// server answers in every way that a body can be framed.
func server(t *testing.T) (*httptest.Server, *atomic.Int64) {
	var conns atomic.Int64
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/length":
			w.Header().Set("Content-Length", fmt.Sprint(len(body())))
			_, _ = w.Write(body())
		case "/chunked":
			_, _ = w.Write(body()[:1000])
			w.(http.Flusher).Flush()
			_, _ = w.Write(body()[1000:])
		case "/close":
			w.Header().Set("Connection", "close")
			_, _ = w.Write(body())
		case "/short":
			w.Header().Set("Content-Length", fmt.Sprint(len(body())))
			_, _ = w.Write(body()[:5000])
			panic(http.ErrAbortHandler)
		case "/empty":
		case "/stall":
			w.Header().Set("Content-Length", "10")
			_, _ = w.Write([]byte("x"))
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		default:
			http.NotFound(w, r)
		}
	}))
	s.Config.ConnState = func(_ net.Conn, st http.ConnState) {
		if st == http.StateNew {
			conns.Add(1)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	return s, &conns
}

func TestBodies(t *testing.T) {
	t.Parallel()
	s, conns := server(t)
	c := newClient(t, s.URL)
	sum := sha256.Sum256(body())
	crc := crc32.Checksum(body(), crc32.MakeTable(crc32.Castagnoli))
	for i, path := range []string{"/length", "/chunked", "/length", "/close", "/length", "/empty", "/chunked"} {
		for _, sink := range []load.Sink{{CRC: true, SHA256: true}, {Truncate: true}} {
			resp, err := c.Do(t.Context(), load.Request{Path: path})
			if err != nil {
				t.Fatalf("%d %s: %v", i, path, err)
			}
			got, err := c.Drain(t.Context(), resp, sink)
			want := int64(len(body()))
			if path == "/empty" {
				want = 0
			}
			if err != nil || resp.Status != 200 || got.Bytes != want {
				t.Errorf("%d %s: %d, %d bytes, %v", i, path, resp.Status, got.Bytes, err)
			}
			if want > 0 && sink.CRC && (got.CRC != crc || got.SHA256 != "sha256:"+hex.EncodeToString(sum[:])) {
				t.Errorf("%d %s: wrong checksums", i, path)
			}
			if want > 0 && got.First.IsZero() {
				t.Errorf("%d %s: no time of the first byte", i, path)
			}
		}
	}
	if n := conns.Load(); n != 3 {
		t.Errorf("%d connections, want one and one more after each close", n)
	}
}

func TestReadAllAndSkip(t *testing.T) {
	t.Parallel()
	s, conns := server(t)
	c := newClient(t, s.URL)
	for _, path := range []string{"/length", "/chunked", "/empty"} {
		resp, err := c.Do(t.Context(), load.Request{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		data, err := c.ReadAll(t.Context(), resp, 1<<20)
		if err != nil || path != "/empty" && !bytes.Equal(data, body()) {
			t.Errorf("%s: %d bytes, %v", path, len(data), err)
		}
		if resp, err = c.Do(t.Context(), load.Request{Path: path}); err != nil {
			t.Fatal(err)
		}
		if err := c.Skip(t.Context(), resp); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	resp, err := c.Do(t.Context(), load.Request{Method: "HEAD", Path: "/length"})
	if err != nil || resp.Length != int64(len(body())) {
		t.Fatalf("HEAD: %v, length %d", err, resp.Length)
	}
	if got, err := c.Drain(t.Context(), resp, load.Sink{}); err != nil || got.Bytes != 0 {
		t.Errorf("HEAD: %d bytes, %v", got.Bytes, err)
	}
	if resp, err = c.Do(t.Context(), load.Request{Path: "/length"}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ReadAll(t.Context(), resp, 100); err == nil {
		t.Error("a body over the limit was read")
	}
	if n := conns.Load(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}

func TestBrokenBodies(t *testing.T) {
	t.Parallel()
	s, _ := server(t)
	for _, sink := range []load.Sink{{}, {Truncate: true}} {
		c := newClient(t, s.URL)
		resp, err := c.Do(t.Context(), load.Request{Path: "/short"})
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.Drain(t.Context(), resp, sink)
		if !errors.Is(err, io.ErrUnexpectedEOF) || got.Bytes != 5000 {
			t.Errorf("short body: %d bytes, %v", got.Bytes, err)
		}
		// The client is good for the next request.
		if resp, err = c.Do(t.Context(), load.Request{Path: "/length"}); err != nil {
			t.Fatal(err)
		}
		if got, err = c.Drain(t.Context(), resp, load.Sink{Stop: 777, Truncate: sink.Truncate}); err != nil || got.Bytes != 777 {
			t.Errorf("stopped early: %d bytes, %v", got.Bytes, err)
		}
		if resp, err = c.Do(t.Context(), load.Request{Path: "/length"}); err != nil {
			t.Fatal(err)
		}
		if got, err = c.Drain(t.Context(), resp, sink); err != nil || got.Bytes != int64(len(body())) {
			t.Errorf("after stopping early: %d bytes, %v", got.Bytes, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		if resp, err = c.Do(ctx, load.Request{Path: "/stall"}); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(20*time.Millisecond, cancel)
		if _, err = c.Drain(ctx, resp, sink); !errors.Is(err, context.Canceled) {
			t.Errorf("stalled body: %v", err)
		}
	}
}

func TestRate(t *testing.T) {
	t.Parallel()
	s, _ := server(t)
	c := newClient(t, s.URL)
	resp, err := c.Do(t.Context(), load.Request{Path: "/length"})
	if err != nil {
		t.Fatal(err)
	}
	var progress atomic.Int64
	start := time.Now()
	got, err := c.Drain(t.Context(), resp, load.Sink{Rate: 2e6, Stop: 200_000, Progress: &progress})
	// Late is the machine's business; early would be the reader's.
	if took := time.Since(start); err != nil || got.Bytes != 200_000 || progress.Load() != 200_000 || took < 90*time.Millisecond {
		t.Errorf("%d bytes (%d counted) at 2 MB/s in %s, %v", got.Bytes, progress.Load(), took, err)
	}
}

func TestTokensAndRedirects(t *testing.T) {
	t.Parallel()
	cdn := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" || r.URL.RawQuery != "sig=a%20b" {
			w.WriteHeader(http.StatusBadRequest)
		}
		_, _ = io.WriteString(w, "from afar")
	}))
	defer cdn.Close()
	var tokens atomic.Int64
	reg := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/token":
			tokens.Add(1)
			_, _ = io.WriteString(w, `{"token":"`+r.URL.Query().Get("scope")+`"}`)
		case r.Header.Get("Authorization") != "Bearer s1":
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+r.Host+`/token",service="s",scope="s1"`)
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, `{"errors":[]}`)
		case strings.HasSuffix(r.URL.Path, "/loop"):
			http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
		default:
			http.Redirect(w, r, cdn.URL+"/x?sig=a%20b", http.StatusTemporaryRedirect)
		}
	}))
	defer reg.Close()
	shared := &load.Tokens{}
	for range 3 {
		c, err := load.New(load.Options{Base: reg.URL, Tokens: shared})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for range 2 {
			resp, err := c.Do(t.Context(), load.Request{Path: "/v2/a/blobs/x"})
			if err != nil {
				t.Fatal(err)
			}
			if data, err := c.ReadAll(t.Context(), resp, 100); err != nil || string(data) != "from afar" || resp.Status != 200 {
				t.Errorf("%d %q, %v", resp.Status, data, err)
			}
		}
	}
	if n := tokens.Load(); n != 1 {
		t.Errorf("%d tokens fetched by clients that share them", n)
	}
	c := newClient(t, reg.URL)
	if _, err := c.Do(t.Context(), load.Request{Path: "/v2/a/blobs/loop"}); err == nil {
		t.Error("a redirect without end is followed")
	}
}

func TestBadBase(t *testing.T) {
	t.Parallel()
	for _, base := range []string{"", "localhost:5000", "https://x", "http://", "http://%zz"} {
		if _, err := load.New(load.Options{Base: base}); err == nil {
			t.Errorf("base %q is taken", base)
		}
	}
}
