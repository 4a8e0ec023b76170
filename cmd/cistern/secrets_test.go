package main

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cistern/internal/oci"
	"cistern/internal/registrytest"
)

// TestSecretsAppearNowhere pulls with an account, well and badly, and looks for
// the password and the token in all that the daemon shows or keeps.
func TestSecretsAppearNowhere(t *testing.T) {
	t.Parallel()
	reg := registrytest.New(t)
	reg.Password = canary
	digest := reg.PutImage("team/app", "v1", []byte("layer"))
	dir := t.TempDir()
	secret := writeFile(t, filepath.Join(dir, "password"), canary+"\n", 0o600)
	conf := writeFile(t, filepath.Join(dir, "cistern.yaml"), `
cache: { min_free: 0B }
log: { level: debug }
default_upstream: good
upstreams:
  good: { endpoints: ["`+reg.URL+`"], username: user, password_file: "`+secret+`" }
  bad: { endpoints: ["`+reg.URL+`"], username: stranger, password_file: "`+secret+`" }
`, 0o600)
	p := startInProcess(t, "config="+conf)
	admin := "http://" + p.adminAt.Addr().String()

	var shown strings.Builder
	ask := func(url string, want int) {
		t.Helper()
		resp, err := http.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		_ = resp.Header.Write(&shown)
		if _, err := io.Copy(&shown, resp.Body); err != nil {
			t.Fatal(err)
		}
		if want != 0 && resp.StatusCode != want {
			t.Errorf("%s: %s", url, resp.Status)
		}
	}
	ask(p.url+"/v2/team/app/manifests/v1", http.StatusOK)
	ask(p.url+"/v2/team/app/manifests/v1?ns=bad", 0)
	ask(p.url+"/v2/team/app/blobs/"+digest.String()+"?ns=bad", 0)
	ask(p.url+"/", http.StatusOK)
	for _, path := range []string{"/metrics", "/readyz", "/api/v1/status", "/api/v1/upstreams", "/api/v1/clients", "/api/v1/fills", "/debug/pprof/goroutine?debug=2", "/debug/pprof/cmdline"} {
		ask(admin+path, http.StatusOK)
	}
	if reg.Count(http.MethodGet, oci.KindManifest) == 0 {
		t.Error("nothing was pulled")
	}
	p.announce(&shown)
	shown.WriteString(configText(p.conf))
	p.warn(func(string) string { return canary })
	p.stopAndWait(t)

	kept := map[string]string{"answers": shown.String()}
	for _, file := range []string{p.log, filepath.Join(p.conf.Cache.Dir, "index.db")} {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		kept[file] = string(b)
	}
	for where, text := range kept {
		for _, s := range []string{canary, "Bearer good"} {
			if i := strings.Index(text, s); i >= 0 {
				t.Errorf("%s holds a secret: %q", where, text[max(0, i-100):min(len(text), i+100)])
			}
		}
	}
	if !strings.Contains(kept[p.log], "everyone who reaches") {
		t.Error("the log does not say who reads what")
	}
}
