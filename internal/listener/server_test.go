package listener

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func TestPanicEndsOneConnectionAndIsLoggedOnce(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.DebugLevel)
	l := start(t, Options{Log: zap.New(core)}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/panic" {
			panic("boom")
		}
		if r.URL.Path == "/abort" {
			panic(http.ErrAbortHandler)
		}
	}))
	for _, path := range []string{"/panic", "/abort"} {
		c := dial(t, l)
		send(t, c, "GET "+path+" HTTP/1.1\nHost: x\n\n")
		if _, err := c.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("%s: %v", path, err)
		}
	}
	c := dial(t, l)
	send(t, c, get)
	if resp, _ := response(t, c); resp.StatusCode != http.StatusOK {
		t.Errorf("after the panic: %s", resp.Status)
	}
	lines := logs.FilterLevelExact(zap.ErrorLevel).All()
	if len(lines) != 1 || !strings.Contains(lines[0].Message, "boom") || strings.Contains(lines[0].Message, "\n") {
		t.Errorf("logged: %+v", lines)
	}
}

func TestShutdownLetsResponsesFinish(t *testing.T) {
	t.Parallel()
	entered, release := make(chan struct{}), make(chan struct{})
	l := start(t, Options{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(entered)
		<-release
		_, _ = io.WriteString(w, "done")
	}))
	unused := dial(t, l)
	c := dial(t, l)
	send(t, c, get)
	<-entered
	cut := make(chan bool, 1)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	began := time.Now()
	go func() { cut <- l.Shutdown(ctx) }()
	if _, err := unused.Read(make([]byte, 1)); err == nil {
		t.Error("the unused connection got a byte")
	}
	close(release)
	if _, body := response(t, c); body != "done" {
		t.Errorf("body %q", body)
	}
	if <-cut {
		t.Error("Shutdown says that it cut something")
	}
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("an unused connection held the shutdown up for %v", took)
	}
}

func TestShutdownCutsAfterItsBound(t *testing.T) {
	t.Parallel()
	entered, left := make(chan struct{}), make(chan struct{})
	l := start(t, Options{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000")
		_ = http.NewResponseController(w).Flush()
		close(entered)
		<-r.Context().Done()
		close(left)
	}))
	c := dial(t, l)
	send(t, c, get)
	<-entered
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if !l.Shutdown(ctx) {
		t.Error("Shutdown says that it cut nothing")
	}
	<-left
	if _, err := io.ReadAll(c); err != nil && !strings.Contains(err.Error(), "reset") {
		t.Errorf("client saw %v", err)
	}
}

func TestRequestsOutOfBounds(t *testing.T) {
	t.Parallel()
	l := start(t, Options{}, answer("ok"))
	t.Run("large header", func(t *testing.T) {
		t.Parallel()
		c := dial(t, l)
		send(t, c, "GET / HTTP/1.1\nHost: x\nA: "+strings.Repeat("a", 140<<10)+"\n\n")
		if resp, _ := response(t, c); resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("got %s", resp.Status)
		}
	})
	t.Run("TLS on the plain port", func(t *testing.T) {
		t.Parallel()
		err := tls.Client(dial(t, l), &tls.Config{InsecureSkipVerify: true}).Handshake()
		if err == nil || !strings.Contains(err.Error(), "does not look like a TLS handshake") {
			t.Errorf("handshake: %v", err)
		}
	})
	t.Run("HTTP/2 preface", func(t *testing.T) {
		t.Parallel()
		c := dial(t, l)
		send(t, c, "PRI * HTTP/2.0\n\nSM\n\n")
		got, err := io.ReadAll(c)
		if err != nil || !strings.HasPrefix(string(got), "HTTP/1.1 ") || !strings.Contains(string(got), "Connection: close") {
			t.Errorf("got %q, %v", got, err)
		}
	})
}

func TestBodiesAreDropped(t *testing.T) {
	t.Parallel()
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if n != 0 || err != nil || r.Context().Err() != nil {
			http.Error(w, "the handler saw a body", http.StatusTeapot)
		}
	})
	for name, request := range map[string]string{
		"small":          "GET / HTTP/1.1\nHost: x\nContent-Length: 2\n\nhi" + get,
		"chunked":        "GET / HTTP/1.1\nHost: x\nTransfer-Encoding: chunked\n\n2\nhi\n0\n\n" + get,
		"both":           "GET / HTTP/1.1\nHost: x\nContent-Length: 40\nTransfer-Encoding: chunked\n\n0\n\n" + get,
		"over the bound": "GET / HTTP/1.1\nHost: x\nContent-Length: 1000000\n\n" + strings.Repeat("x", 100_000),
		"announced":      "POST / HTTP/1.1\nHost: x\nContent-Length: 1000000\nExpect: 100-continue\n\n",
		"never sent":     "GET / HTTP/1.1\nHost: x\nContent-Length: 10\n\nhal",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := httptest.NewServer(withoutBody(h, 50*time.Millisecond))
			defer srv.Close()
			c, err := net.Dial("tcp", srv.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(patience))
			send(t, c, request)
			got, err := io.ReadAll(c)
			if err != nil && !strings.Contains(err.Error(), "reset") {
				t.Fatal(err)
			}
			want := "HTTP/1.1 200"
			if name == "never sent" {
				want = "HTTP/1.1 408"
			}
			if n := strings.Count(string(got), "HTTP/1.1 "); n != 1 || !strings.HasPrefix(string(got), want) {
				t.Errorf("%d answers: %q", n, got)
			}
		})
	}
}

// TestUploads: a handler that takes bodies gets those of PUT requests, and no others.
func TestUploads(t *testing.T) {
	t.Parallel()
	for uploads, want := range map[bool]string{false: "", true: "body"} {
		l := start(t, Options{Uploads: uploads}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(w, r.Body)
		}))
		for method, want := range map[string]string{"PUT": want, "POST": "", "GET": ""} {
			c := dial(t, l)
			send(t, c, method+" / HTTP/1.1\nHost: x\nContent-Length: 4\n\nbody")
			if _, body := response(t, c); body != want {
				t.Errorf("uploads %v, %s: %q", uploads, method, body)
			}
		}
	}
}

// TestUploadThatNobodyTakes: what is left of an upload when its answer is ready is not
// waited for.
func TestUploadThatNobodyTakes(t *testing.T) {
	t.Parallel()
	l := start(t, Options{Uploads: true}, answer("no"))
	c := dial(t, l)
	send(t, c, "PUT / HTTP/1.1\nHost: x\nContent-Length: 1000\n\nx")
	if _, body := response(t, c); body != "no" {
		t.Errorf("%q", body)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection stays: %v", err)
	}
}

// TestCloseEndsRequests: also those of which a body is not read yet, where net/http does not
// look whether the client is there.
func TestCloseEndsRequests(t *testing.T) {
	t.Parallel()
	entered := make(chan struct{})
	l := start(t, Options{Uploads: true}, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(entered)
		<-r.Context().Done()
	}))
	send(t, dial(t, l), "PUT / HTTP/1.1\nHost: x\nContent-Length: 1000\n\nx")
	<-entered
	closed := make(chan struct{})
	go func() { l.Close(); close(closed) }()
	select {
	case <-closed:
	case <-time.After(patience):
		t.Fatal("it waits for the handler")
	}
}
