package upstream

import (
	"io"
	"sync/atomic"
	"testing"

	"cistern/internal/oci"
	"cistern/internal/registrytest"
)

// TestMeter: the meter has each byte that the upstream's own count has, and the pulls
// that a registry would count.
func TestMeter(t *testing.T) {
	t.Parallel()
	g := registrytest.New(t)
	g.Password = "secret"
	layer := []byte("a layer of forty-two bytes or thereabouts.")
	d := g.Put("a/b", layer)
	m := g.PutImage("a/b", "v1", layer)
	u := open(t, Options{Endpoints: []string{g.URL}, Network: "private", Credentials: static(Credentials{Username: "user", Password: "secret"})})
	var received, pulls atomic.Uint64
	ctx := WithMeter(t.Context(), func(r, p uint64) {
		received.Add(r)
		pulls.Add(p)
	})
	look := func(what string, wantReceived, wantPulls uint64) {
		t.Helper()
		if r, p := received.Swap(0), pulls.Swap(0); r != wantReceived || p != wantPulls {
			t.Errorf("%s: %d bytes and %d pulls, want %d and %d", what, r, p, wantReceived, wantPulls)
		}
	}
	if _, err := u.Resolve(ctx, "a/b", "v1"); err != nil {
		t.Fatal(err)
	}
	look("HEAD of a manifest", 0, 0)
	got, err := u.Manifest(ctx, "a/b", "v1", "")
	if err != nil || got.Digest != m {
		t.Fatal(err)
	}
	size := uint64(len(got.Bytes))
	look("GET by tag", size, 1)
	if _, err := u.Manifest(ctx, "a/b", m.String(), ""); err != nil {
		t.Fatal(err)
	}
	look("GET by digest", size, 1)
	if _, err := u.Manifest(ctx, "a/b", "v2", ""); err == nil {
		t.Fatal("it is there")
	}
	look("GET of what is not there", 0, 0)
	b, err := u.Blob(ctx, "a/b", d, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, b); err != nil {
		t.Fatal(err)
	}
	part, err := b.Again(ctx, 2, 12)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, part); err != nil {
		t.Fatal(err)
	}
	look("a blob, and a part of it", uint64(len(layer))+10, 0)
	if _, err := u.BlobInfo(ctx, "a/b", oci.FromBytes([]byte("none"))); err == nil {
		t.Fatal("it is there")
	}
	look("HEAD of a blob that is not there", 0, 0)
	if want := u.Stats().Received; want != 2*size+uint64(len(layer))+10 {
		t.Errorf("the upstream itself counts %d bytes", want)
	}
}
