package origin

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

func start(t *testing.T, o Options) (*Server, Control) {
	t.Helper()
	s, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, Control{Base: s.Control()}
}

func madeImage(t *testing.T, c Control, repository, tag string) Image {
	t.Helper()
	im, err := c.Image(t.Context(), repository, tag)
	if err != nil {
		t.Fatal(err)
	}
	return im
}

// client follows no redirects and keeps no connections.
func client(t *testing.T) *http.Client {
	tr := &http.Transport{DisableKeepAlives: true, DisableCompression: true}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

type answer struct {
	*http.Response
	data []byte
	err  error // of the body
}

func ask(t *testing.T, method, url string, header ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := client(t).Do(req)
	if err != nil {
		return answer{err: err}
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return answer{resp, data, err}
}

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func TestRegistryServesWhatItPromises(t *testing.T) {
	t.Parallel()
	s, c := start(t, Options{})
	im := madeImage(t, c, "a/b/2x10k", "v1")
	l := im.Layers[1]
	blob, manifests := s.Registry()+"/v2/a/b/2x10k/blobs/"+l.Digest, s.Registry()+"/v2/a/b/2x10k/manifests/"
	if a := ask(t, "GET", s.Registry()+"/v2/"); a.StatusCode != 200 || string(a.data) != "{}" || a.Header.Get("Docker-Distribution-Api-Version") == "" {
		t.Errorf("ping: %d %q", a.StatusCode, a.data)
	}
	for _, ref := range []string{"v1", im.Digest} {
		for _, method := range []string{"GET", "HEAD"} {
			a := ask(t, method, manifests+ref)
			if a.StatusCode != 200 || a.ContentLength != int64(len(im.Manifest)) || a.Header.Get("Docker-Content-Digest") != im.Digest ||
				a.Header.Get("Content-Type") != "application/vnd.oci.image.manifest.v1+json" {
				t.Errorf("%s manifest %s: %d, %d bytes, %v", method, ref, a.StatusCode, a.ContentLength, a.Header)
			}
			if method == "GET" && digestOf(a.data) != im.Digest {
				t.Errorf("manifest %s: digest %s, want %s", ref, digestOf(a.data), im.Digest)
			}
		}
	}
	whole := ask(t, "GET", blob)
	if whole.StatusCode != 200 || digestOf(whole.data) != l.Digest || whole.Header.Get("Docker-Content-Digest") != l.Digest {
		t.Errorf("blob: %d, digest %s, want %s", whole.StatusCode, digestOf(whole.data), l.Digest)
	}
	if a := ask(t, "HEAD", blob); a.StatusCode != 200 || a.ContentLength != l.Size {
		t.Errorf("HEAD blob: %d, %d bytes", a.StatusCode, a.ContentLength)
	}
	a := ask(t, "GET", blob, "Range", "bytes=100-299")
	if a.StatusCode != 206 || a.Header.Get("Content-Range") != "bytes 100-299/10240" || !bytes.Equal(a.data, whole.data[100:300]) {
		t.Errorf("range: %d %s", a.StatusCode, a.Header.Get("Content-Range"))
	}
	if a := ask(t, "GET", blob, "Range", "bytes=10240-"); a.StatusCode != 416 {
		t.Errorf("range behind the end: %d", a.StatusCode)
	}
	for path, want := range map[string]int{
		"a/b/2x10k/blobs/sha256:" + strings.Repeat("0", 64):     404,
		"a/b/2x10k/manifests/sha256:" + strings.Repeat("0", 64): 404,
		"a/b/2x10k/blobs/" + im.Digest:                          404, // a manifest is no blob
		"other/2x10k/blobs/" + l.Digest:                         404, // nor a blob of another repository's
		"nothing/manifests/v1":                                  404,
		"a/b/2x10k/tags/list":                                   200,
		"nothing/tags/list":                                     404,
		"a/b/2x10k/referrers/" + im.Digest:                      200,
		"bogus":                                                 404,
	} {
		a := ask(t, "GET", s.Registry()+"/v2/"+path)
		if a.StatusCode != want {
			t.Errorf("%s: %d, want %d", path, a.StatusCode, want)
		}
		if want == 404 && !strings.Contains(string(a.data), `"errors"`) {
			t.Errorf("%s: %q is no registry error", path, a.data)
		}
	}
	if a := ask(t, "DELETE", blob); a.StatusCode != 405 {
		t.Errorf("DELETE: %d", a.StatusCode)
	}
}

func TestIndexAndTags(t *testing.T) {
	t.Parallel()
	s, c := start(t, Options{})
	base := s.Registry() + "/v2/x/1x5k/"
	var idx struct {
		MediaType string
		Manifests []struct {
			Digest   string
			Platform struct{ Architecture string }
		}
	}
	if err := json.Unmarshal(ask(t, "GET", base+"manifests/multi").data, &idx); err != nil {
		t.Fatal(err)
	}
	if len(idx.Manifests) != 2 || idx.Manifests[0].Digest == idx.Manifests[1].Digest || idx.Manifests[1].Platform.Architecture != "arm64" {
		t.Errorf("index: %+v", idx)
	}
	for _, m := range idx.Manifests {
		if a := ask(t, "GET", base+"manifests/"+m.Digest); a.StatusCode != 200 || digestOf(a.data) != m.Digest {
			t.Errorf("child: %d", a.StatusCode)
		}
	}
	madeImage(t, c, "x/1x5k", "b")
	madeImage(t, c, "x/1x5k", "a")
	a := ask(t, "GET", base+"tags/list?n=2")
	if !strings.Contains(string(a.data), `["a","b"]`) || a.Header.Get("Link") != `</v2/x/1x5k/tags/list?last=b&n=2>; rel="next"` {
		t.Errorf("first page: %s, %s", a.data, a.Header.Get("Link"))
	}
	if a := ask(t, "GET", base+"tags/list?n=2&last=b"); !strings.Contains(string(a.data), `["multi"]`) || a.Header.Get("Link") != "" {
		t.Errorf("second page: %s, %s", a.data, a.Header.Get("Link"))
	}
}

func TestTokensAndRedirects(t *testing.T) {
	t.Parallel()
	s, c := start(t, Options{Auth: true, Username: "u", Password: "p", Redirect: true, RateLimit: 100})
	im := madeImage(t, c, "r/1x20k", "v1")
	path := s.Registry() + "/v2/r/1x20k/blobs/" + im.Layers[0].Digest
	a := ask(t, "GET", path)
	if a.StatusCode != 401 || a.Header.Get("WWW-Authenticate") != `Bearer realm="`+s.Registry()+`/token",service="bench",scope="repository:r/1x20k:pull"` {
		t.Fatalf("without a token: %d %s", a.StatusCode, a.Header.Get("WWW-Authenticate"))
	}
	realm := s.Registry() + "/token?service=bench&scope=repository:r/1x20k:pull"
	if a := ask(t, "GET", realm, "Authorization", "Basic bm86bm8="); a.StatusCode != 401 {
		t.Errorf("wrong password: %d", a.StatusCode)
	}
	var tok struct {
		Token     string
		ExpiresIn int `json:"expires_in"`
	}
	if err := json.Unmarshal(ask(t, "GET", realm, "Authorization", "Basic dTpw").data, &tok); err != nil || tok.ExpiresIn != 300 {
		t.Fatalf("token: %v, %+v", err, tok)
	}
	auth := []string{"Authorization", "Bearer " + tok.Token}
	if a := ask(t, "GET", s.Registry()+"/v2/other/1x20k/manifests/v1", auth...); a.StatusCode != 401 {
		t.Errorf("a token for another repository: %d", a.StatusCode)
	}
	if a := ask(t, "GET", path, "Authorization", "Bearer "+tok.Token+"x"); a.StatusCode != 401 {
		t.Errorf("a forged token: %d", a.StatusCode)
	}
	if a := ask(t, "GET", s.Registry()+"/v2/r/1x20k/manifests/v1", auth...); a.Header.Get("Ratelimit-Remaining") != "99;w=21600" {
		t.Errorf("rate limit: %v", a.Header)
	}
	a = ask(t, "GET", path, auth...)
	to := a.Header.Get("Location")
	if a.StatusCode != 307 || !strings.HasPrefix(to, s.CDN()+"/cdn/") {
		t.Fatalf("blob: %d to %s", a.StatusCode, to)
	}
	if a := ask(t, "GET", to, auth...); a.StatusCode != 400 {
		t.Errorf("credentials at the CDN: %d", a.StatusCode)
	}
	if n := s.Counters().ForeignAuth; n != 1 {
		t.Errorf("%d foreign credentials counted", n)
	}
	if a := ask(t, "GET", to); a.StatusCode != 200 || digestOf(a.data) != im.Layers[0].Digest {
		t.Errorf("the CDN: %d", a.StatusCode)
	}
	unsigned, _, _ := strings.Cut(to, "?")
	if a := ask(t, "GET", unsigned); a.StatusCode != 403 {
		t.Errorf("the CDN without a signature: %d", a.StatusCode)
	}
}

func TestCounters(t *testing.T) {
	t.Parallel()
	s, c := start(t, Options{})
	im := madeImage(t, c, "n/1x100k", "v1")
	if n := s.Counters(); n.Connections != 0 || len(n.Requests) != 0 || n.BlobBytes != 0 {
		t.Errorf("the control address counts: %+v", n)
	}
	base := s.Registry() + "/v2/n/1x100k/"
	ask(t, "GET", base+"manifests/v1")
	ask(t, "HEAD", base+"manifests/v1")
	ask(t, "GET", base+"blobs/"+im.Layers[0].Digest)
	ask(t, "GET", base+"blobs/"+im.Layers[0].Digest, "Range", "bytes=0-999")
	ask(t, "HEAD", base+"blobs/"+im.Layers[0].Digest)
	ask(t, "GET", base+"blobs/sha256:0")
	n, err := c.Counters(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if n.Connections != 6 || n.Bodies != 2 || n.BlobBytes != 100<<10+1000 || n.Ranges != 1 || n.Faults != 0 ||
		n.Requests["GET manifest"] != 1 || n.Requests["HEAD manifest"] != 1 || n.Requests["GET blob"] != 3 || n.Requests["HEAD blob"] != 1 {
		t.Errorf("counters: %+v", n)
	}
	if n.SentBytes <= n.BlobBytes {
		t.Errorf("%d bytes sent, of which %d of blobs", n.SentBytes, n.BlobBytes)
	}
	if err := c.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := s.Counters(); n.Connections != 0 || n.Bodies != 0 || n.BlobBytes != 0 || n.SentBytes != 0 || len(n.Requests) != 0 {
		t.Errorf("after a reset: %+v", n)
	}
}

func TestFaults(t *testing.T) {
	t.Parallel()
	s, c := start(t, Options{})
	im := madeImage(t, c, "f/1x300k", "v1")
	url := s.Registry() + "/v2/f/1x300k/blobs/" + im.Layers[0].Digest
	good := ask(t, "GET", url)
	set := func(fs ...Fault) {
		t.Helper()
		if err := c.Faults(t.Context(), fs...); err != nil {
			t.Fatal(err)
		}
	}
	set(Fault{Kind: "blob", Action: FaultStatus, Status: 429, RetryAfter: 7, Times: 2})
	for i, want := range []int{429, 429, 200} {
		if a := ask(t, "GET", url); a.StatusCode != want || (want == 429) != (a.Header.Get("Retry-After") == "7") {
			t.Errorf("request %d: %d, Retry-After %q", i, a.StatusCode, a.Header.Get("Retry-After"))
		}
	}
	set(Fault{Kind: "manifest", Action: FaultStatus, Status: 500}, Fault{Match: "nowhere", Action: FaultStatus, Status: 500})
	if a := ask(t, "GET", url); a.StatusCode != 200 {
		t.Errorf("a fault for others: %d", a.StatusCode)
	}
	set(Fault{Action: FaultCut, At: 100_000, Times: 1})
	if a := ask(t, "HEAD", url); a.StatusCode != 200 {
		t.Errorf("HEAD met a cut body: %d", a.StatusCode)
	}
	if a := ask(t, "GET", url); len(a.data) != 100_000 || !errors.Is(a.err, io.ErrUnexpectedEOF) || !bytes.Equal(a.data, good.data[:100_000]) {
		t.Errorf("cut: %d bytes, %v", len(a.data), a.err)
	}
	set(Fault{Action: FaultCut, At: 1000, Times: 1})
	if a := ask(t, "GET", url, "Range", "bytes=50000-99999"); len(a.data) != 1000 || !bytes.Equal(a.data, good.data[50_000:51_000]) {
		t.Errorf("cut range: %d bytes, %v", len(a.data), a.err)
	}
	set(Fault{Action: FaultWrong, At: 12_345, Times: 1})
	a := ask(t, "GET", url)
	if a.err != nil || len(a.data) != len(good.data) || a.data[12_345] == good.data[12_345] {
		t.Fatalf("wrong byte: %d bytes, %v", len(a.data), a.err)
	}
	a.data[12_345] = good.data[12_345]
	if !bytes.Equal(a.data, good.data) {
		t.Error("more than one byte was wrong")
	}
	set(Fault{Action: FaultReset, Times: 1})
	if a := ask(t, "GET", url); !errors.Is(a.err, syscall.ECONNRESET) {
		t.Errorf("reset: %v", a.err)
	}
	if n := s.Counters().Faults; n != 6 {
		t.Errorf("%d faults counted, want 6", n)
	}
	set()
	if a := ask(t, "GET", url); !bytes.Equal(a.data, good.data) {
		t.Error("after all: not the blob")
	}
}

func TestStall(t *testing.T) {
	t.Parallel()
	s, c := start(t, Options{})
	im := madeImage(t, c, "s/1x300k", "v1")
	if err := c.Faults(t.Context(), Fault{Kind: "blob", Action: FaultStall, At: 70_000}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, "GET", s.Registry()+"/v2/s/1x300k/blobs/"+im.Layers[0].Digest, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.CopyN(io.Discard, resp.Body, 70_000); err != nil {
		t.Fatal(err)
	}
	more := make(chan error, 1)
	go func() {
		_, err := resp.Body.Read(make([]byte, 1))
		more <- err
	}()
	select {
	case err := <-more:
		t.Errorf("a byte behind the stall, %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	if n := s.Counters().Active; n != 1 {
		t.Errorf("%d requests active, want 1", n)
	}
	cancel()
	if err := <-more; !errors.Is(err, context.Canceled) {
		t.Errorf("after the client left: %v", err)
	}
}
