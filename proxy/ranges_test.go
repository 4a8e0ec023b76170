package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"cistern/internal/oci"
)

// serveRange is what a blob's GET does with a Range header.
func serveRange(header string, data []byte) *http.Response {
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Range", header)
	w := httptest.NewRecorder()
	w.Header().Set("Content-Type", "application/octet-stream")
	if err := filterRange(r, int64(len(data))); err != nil {
		var e *oci.Error
		if errors.As(err, &e) {
			w.WriteHeader(e.Status())
		}
		return w.Result()
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	return w.Result()
}

// FuzzRange holds the filter together with http.ServeContent to what is right:
// never an error of ours, never more than the blob and its parts' headers, and
// a 206 that is the slice it says.
func FuzzRange(f *testing.F) {
	for _, s := range []string{
		"bytes=0-", "bytes=0-0", "bytes=-1", "bytes=-0", "bytes=5-2", "bytes=0-1,3-4", "bytes=0-1, -2 ,", "bytes=,", "bytes=", "bytes", "",
		"lines=1-2", "bytes=9999999999999999999999-", "bytes=0-9223372036854775807", "bytes=-9223372036854775808", "bytes=--1", "bytes=+1-2",
		"bytes=1", "Bytes=0-1", "bytes=0-1;q=1", "bytes = 0-1", "bytes=0 - 1", "bytes=0x1-2", "bytes=\t1-2", strings.Repeat("bytes=0-0,", 3), "bytes=" + strings.Repeat("0-0,", 2000),
	} {
		f.Add(s, uint16(1000))
		f.Add(s, uint16(0))
	}
	f.Fuzz(func(t *testing.T, header string, size uint16) {
		data := make([]byte, size)
		for i := range data {
			data[i] = byte(i * 7)
		}
		resp := serveRange(header, data)
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if most := int(size) + 256*(1+strings.Count(header, ",")); len(body) > most {
			t.Fatalf("%q: %d bytes of a blob of %d", header, len(body), size)
		}
		switch resp.StatusCode {
		case 200:
			if !bytes.Equal(body, data) {
				t.Fatalf("%q: 200 with %d bytes", header, len(body))
			}
		case 206:
			checkPartial(t, header, resp, body, data)
		case 416:
		default:
			t.Fatalf("%q: %d", header, resp.StatusCode)
		}
	})
}

func checkPartial(t *testing.T, header string, resp *http.Response, body, data []byte) {
	t.Helper()
	slice := func(contentRange string, body []byte) {
		var a, b, n int
		if _, err := fmt.Sscanf(contentRange, "bytes %d-%d/%d", &a, &b, &n); err != nil || a > b || n != len(data) || b >= n || !bytes.Equal(body, data[a:b+1]) {
			t.Fatalf("%q: Content-Range %q with %d bytes (%v)", header, contentRange, len(body), err)
		}
	}
	kind, params, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/byteranges" {
		slice(resp.Header.Get("Content-Range"), body)
		return
	}
	parts := multipart.NewReader(bytes.NewReader(body), params["boundary"])
	n := 0
	for ; ; n++ {
		p, err := parts.NextPart()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(p)
		if err != nil {
			t.Fatal(err)
		}
		slice(p.Header.Get("Content-Range"), got)
	}
	if n < 2 || n > maxRanges {
		t.Fatalf("%q: %d parts", header, n)
	}
}

// TestRange is the table of what the filter decides (P 3.17, FAULTS 0.7).
func TestRange(t *testing.T) {
	t.Parallel()
	data := noise(1000, 40)
	many := func(n int) string { return "bytes=" + strings.TrimSuffix(strings.Repeat("0-0,", n), ",") }
	for header, want := range map[string]int{
		"bytes=0-": 206, "bytes=0-999": 206, "bytes=999-": 206, "bytes=0-99999": 206, "bytes=-1": 206, "bytes=-5000": 206, "bytes=0-1,5-6": 206,
		"bytes=5-6,99999-": 206, "bytes=0-0,-0": 206, // what cannot be satisfied is left out
		"bytes=1000-": 416, "bytes=-0": 416, "bytes=5-4": 416, "bytes=500-0": 416, "bytes=x": 416, "bytes=": 416, "bytes=-": 416,
		"bytes=99999999999999999999-": 416, "bytes=0-99999999999999999999": 416, "bytes=--5": 416, "bytes=+1-2": 416,
		"lines=0-1": 200, "none": 200, many(1024): 200, many(1025): 200, many(200000): 200,
		"bytes=0-999,0-999": 200, // more than the whole
	} {
		if header == many(1024) {
			want = 200 // 1,024 bytes of 1,000 are more than the whole
		}
		if resp := serveRange(header, data); resp.StatusCode != want {
			t.Errorf("%.40q: %d, want %d", header, resp.StatusCode, want)
		}
	}
	if resp := serveRange(many(1024), noise(5000, 41)); resp.StatusCode != 206 {
		t.Errorf("1,024 ranges: %d", resp.StatusCode)
	}
}
