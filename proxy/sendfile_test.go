package proxy

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"

	"cistern/internal/oci"
	"cistern/internal/registrytest"
)

// files is a ResponseWriter that notes how its body arrives: net/http's own
// uses sendfile when its ReadFrom gets an io.LimitedReader of an *os.File.
type files struct {
	*httptest.ResponseRecorder
	fromFile, copied int64
}

func (w *files) Write(p []byte) (int, error) {
	w.copied += int64(len(p))
	return w.ResponseRecorder.Write(p)
}

func (w *files) ReadFrom(src io.Reader) (int64, error) {
	n, err := io.Copy(w.Body, src)
	if lr, ok := src.(*io.LimitedReader); ok {
		if _, ok := lr.R.(*os.File); ok {
			w.fromFile += n
			return n, err
		}
	}
	w.copied += n
	return n, err
}

// TestLeavesBySendfile: a large blob goes out of a file, warm, as a range, and
// while it is still growing.
func TestLeavesBySendfile(t *testing.T) {
	t.Parallel()
	g := registrytest.New(t)
	d := g.Put("library/app", noise(5<<20, 20))
	r := newRig(t, setup{upstreams: map[string]*registrytest.Registry{"docker.io": g}})
	for _, spec := range []string{"", "bytes=1000-4000000", ""} {
		req := httptest.NewRequest("GET", "/v2/library/app/blobs/"+d.String(), nil)
		req.URL.Host, req.Host = "", "cistern"
		want := int64(5 << 20)
		if spec != "" {
			req.Header.Set("Range", spec)
			want = 3999001
		}
		w := &files{ResponseRecorder: httptest.NewRecorder()}
		r.handler.ServeHTTP(w, req)
		if w.fromFile != want || w.copied != 0 {
			t.Errorf("range %q: %d bytes from a file, %d copied, want %d", spec, w.fromFile, w.copied, want)
		}
		if spec == "" && (w.Code != http.StatusOK || oci.FromBytes(w.Body.Bytes()) != d) {
			t.Errorf("status %d, wrong bytes", w.Code)
		}
	}
}
