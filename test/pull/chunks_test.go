package pull_test

import (
	"os"
	"path"
	"testing"

	"cistern/test/client"
	"cistern/test/image"
	"cistern/test/lab"
)

// TestContainerdChunks pulls a cold image with containerd 2 as it fetches a layer in parallel chunks (P 2.16): each by a range that
// is open at its end, read as far as the chunk goes, and cut. What it holds is right, the daemon has taken each byte once from
// the origin, none of the ranges is an error, and a second pull costs the origin nothing.
func TestContainerdChunks(t *testing.T) {
	if os.Getenv("E2E_FULL") == "0" {
		t.Log("left out because of E2E_FULL=0: only the newest containerd does this")
		return
	}
	t.Parallel()
	lab.NarrowBuffers(t)
	const mib = 1 << 20
	o := fill(t, image.Spec{Name: "lab/chunks:1", Sizes: []int64{5000, 3 * mib, 40 * mib}})
	p := o.images[0]
	origin := lab.NewFront(t, o.url)
	cistern := lab.StartCistern(t, lab.CisternOptions{Upstreams: map[string]string{"docker.io": origin.URL}})
	asked := lab.NewFront(t, cistern.URL) // writes down what the client asks for
	c := client.StartContainerd(t, client.Mirrors{"docker.io": asked.Addr}, client.ContainerdOptions{Path: newest(t), Chunk: 2 * mib})
	for range 2 {
		asked.Reset()
		pull(t, c, "docker.io/"+p.Name, p)
		// Else it shows nothing.
		if n := len(ranges(asked, p.Layers[2])); n < 15 {
			t.Errorf("a layer of 40 MiB was asked for in %d ranges: %v", n, asked.Requests())
		}
	}
	gets, sent := origin.Bodies()
	for _, b := range []string{p.Config, p.Layers[0]} {
		if gets[b] != 1 {
			t.Errorf("blob %s was fetched %d times", b, gets[b])
		}
	}
	// Bytes that were read behind the new end of a stream that left the rest to another, and of those that were sent what lay in
	// its buffers.
	if took := cistern.Metric(t, "cistern_upstream_received_bytes_total"); took < float64(p.Bytes) || took > float64(p.Bytes+mib) {
		t.Errorf("%.0f bytes were taken from the origin for an image of %d: %v", took, p.Bytes, origin.Requests())
	}
	if sent > p.Bytes+8*mib {
		t.Errorf("the origin has sent %d bytes for an image of %d: %v", sent, p.Bytes, origin.Requests())
	}
	if n := cistern.Metric(t, "cistern_requests_total", `outcome="error"`); n > 0 {
		t.Errorf("%v of the ranges are errors", n)
	}
	origin.Down()
	pull(t, c, "docker.io/"+p.Name, p)
}

// pull has a client pull an image, compares what it holds, and has it forget that.
func pull(t *testing.T, c client.Engine, name string, p *image.Pushed) {
	t.Helper()
	if err := c.Pull(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	held, err := c.Holds(t.Context(), name)
	if err == nil {
		err = held.Compare(p)
	}
	if err != nil {
		t.Error(err)
	}
	if err := c.Forget(t.Context(), name); err != nil {
		t.Fatal(err)
	}
}

// ranges are those that a blob was asked for in, without the one from its beginning.
func ranges(f *lab.Front, digest string) (all []string) {
	for _, x := range f.Requests() {
		if r := x.Header.Get("Range"); x.Kind() == "blobs" && path.Base(x.Path) == digest && r != "" && r != "bytes=0-" {
			all = append(all, r)
		}
	}
	return all
}
