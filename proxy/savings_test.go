package proxy

import (
	"fmt"
	"testing"

	"cistern/internal/oci"
	"cistern/internal/registrytest"
	"cistern/proxy/savings"
)

// put is what is put down to a repository, to the others with "". One connection serves
// the ping after the requests before it, which are at their end then.
func (r *rig) put(repo string) savings.Tally {
	r.get("/v2/")
	for _, u := range r.handler.routes.book.Report().Total.Upstreams {
		for _, x := range u.Repositories {
			if x.Name == repo {
				return x.Tally
			}
		}
		if repo == "" {
			return u.Others
		}
	}
	return savings.Tally{}
}

// TestSavings: each byte and each pull is put down to the repository that was asked for,
// once.
func TestSavings(t *testing.T) {
	t.Parallel()
	g := registrytest.New(t)
	layer := noise(3<<20, 1)
	d := g.Put("library/app", layer)
	m := g.PutImage("library/app", "v1", layer)
	g.PutImage("team/app", "v1", layer)
	r := newRig(t, setup{upstreams: map[string]*registrytest.Registry{"docker.io": g}})
	var size uint64 // of the manifest
	for round := range uint64(3) {
		a := r.get("/v2/library/app/manifests/v1")
		size = uint64(len(a.body))
		if b := r.get("/v2/library/app/blobs/" + d.String()); a.status != 200 || b.status != 200 || len(b.body) != len(layer) {
			t.Fatal(a.status, b.status)
		}
		want := savings.Tally{Sent: (round + 1) * (size + 3<<20), Received: size + 3<<20, Asked: round + 1, Spent: 1}
		if got := r.put("library/app"); got != want {
			t.Errorf("round %d: %+v, want %+v", round, got, want)
		}
	}
	before := r.put("library/app")

	// What neither asks for a manifest nor sends anything, and what fails.
	r.do("HEAD", "/v2/library/app/manifests/v1")
	r.do("HEAD", "/v2/library/app/blobs/"+d.String())
	r.get("/v2/library/app/manifests/v2")
	r.get("/v2/library/app/blobs/" + oci.FromBytes(nil).String())
	r.get("/v2/not/there/manifests/v1")
	if got := r.put("library/app"); got != before {
		t.Errorf("%+v, before it was %+v", got, before)
	}

	r.get("/v2/library/app/manifests/"+m.String(), "If-None-Match", `"`+m.String()+`"`)
	r.get("/v2/library/app/blobs/"+d.String(), "Range", "bytes=10-19")
	before.Asked, before.Sent = before.Asked+1, before.Sent+10
	if got := r.put("library/app"); got != before {
		t.Errorf("one that the client has, and a part: %+v, want %+v", got, before)
	}

	// The same layer elsewhere comes from here; names of the client's own do not count apart.
	other := uint64(len(r.get("/v2/team/app/manifests/v1").body))
	r.get("/v2/team/app/blobs/" + d.String())
	if got, want := r.put("team/app"), (savings.Tally{Sent: other + 3<<20, Received: other, Asked: 1, Spent: 1}); got != want {
		t.Errorf("team/app: %+v, want %+v", got, want)
	}
	for i := range 10 {
		r.get(fmt.Sprintf("/v2/made/up%d/blobs/%s", i, d))
		r.get(fmt.Sprintf("/v2/made/up%d/manifests/%s", i, m))
	}
	if got, want := r.put(""), (savings.Tally{Sent: 10 * (size + 3<<20), Asked: 10}); got != want || r.put("made/up1") != (savings.Tally{}) {
		t.Errorf("the others: %+v, want %+v", got, want)
	}

	tags := uint64(len(r.get("/v2/library/app/tags/list").body))
	if got := r.put("library/app"); tags == 0 || got.Sent != before.Sent+tags || got.Received <= before.Received {
		t.Errorf("a list of tags: %+v", got)
	}
	report := r.handler.routes.book.Report().Total
	if received := r.handler.routes.upstreams[0].Client.Stats().Received; received != report.Received {
		t.Errorf("upstream counts %d bytes, the book %d", received, report.Received)
	}
	if spent := g.Count("GET", oci.KindManifest) - 2; spent != int(report.Spent) { // two were not there
		t.Errorf("the registry counts %d manifests, the book %d", spent, report.Spent)
	}
}
