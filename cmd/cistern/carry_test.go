package main

import (
	"encoding/json"
	"io"
	"net/http"

	"github.com/rogpeppe/go-internal/testscript"

	"cistern/internal/oci"
)

// pull gets an image whole: pull URL REPOSITORY TAG.
func pull(ts *testscript.TestScript, neg bool, args []string) {
	base := args[0] + "/v2/" + args[1]
	var m struct {
		Config struct{ Digest oci.Digest }
		Layers []struct{ Digest oci.Digest }
	}
	body, ok := fetch(ts, base+"/manifests/"+args[2])
	if ok {
		ts.Check(json.Unmarshal(body, &m))
		for _, l := range append(m.Layers, m.Config) {
			b, here := fetch(ts, base+"/blobs/"+l.Digest.String())
			ok = ok && here && l.Digest.Verify(b)
		}
	}
	if ok == neg {
		ts.Fatalf("pulled %s: %v", args[1], ok)
	}
}

func fetch(ts *testscript.TestScript, url string) ([]byte, bool) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	resp, err := client.Get(url)
	ts.Check(err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	ts.Check(err)
	return b, resp.StatusCode == http.StatusOK
}
