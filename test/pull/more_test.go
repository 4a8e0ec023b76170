package pull_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"cistern/test/client"
	"cistern/test/image"
	"cistern/test/lab"
)

// TestBig pulls layers of some hundred MB, by two clients at once and cold, then with the origin gone.
func TestBig(t *testing.T) {
	t.Parallel()
	o := fill(t, image.Big())
	front := lab.NewFront(t, o.url)
	cistern := lab.StartCistern(t, lab.CisternOptions{Upstreams: map[string]string{"docker.io": front.URL}})
	docker := client.StartDocker(t, []string{"http://" + cistern.Addr}, client.DockerOptions{})
	skopeo := client.NewSkopeo(t, mirrors(cistern.Addr))
	p := o.images[0]
	name := "docker.io/" + p.Name
	errs := make(chan error, 2)
	for _, c := range []client.Engine{docker, skopeo} {
		go func() { errs <- c.Pull(t.Context(), name) }()
	}
	for range 2 {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	if _, bytes := front.Bodies(); bytes != p.Bytes {
		t.Errorf("two cold pulls of %d bytes cost the origin %d", p.Bytes, bytes)
	}
	front.Down()
	for _, c := range []client.Engine{docker, skopeo} {
		held, err := c.Holds(t.Context(), name)
		if err == nil {
			err = held.Compare(p)
		}
		if err == nil {
			err = c.Forget(t.Context(), name)
		}
		if err == nil {
			err = c.Pull(t.Context(), name)
		}
		if err != nil {
			t.Error(err)
		}
	}
}

// TestPrivate pulls from a registry that asks for a password: Cistern has it, the clients need none, the password goes nowhere else, and the
// start-up log says who can read what.
func TestPrivate(t *testing.T) {
	t.Parallel()
	registry := lab.StartRegistry(t, lab.RegistryOptions{Username: "ci-bot", Password: "pa55word"})
	p, err := image.Push(lab.Dir(t), registry.Addr, image.Set()[1], &authn.Basic{Username: "ci-bot", Password: "pa55word"})
	if err != nil {
		t.Fatal(err)
	}
	front := lab.NewFront(t, registry.URL)
	secret := filepath.Join(lab.Dir(t), "secret")
	lab.Write(t, secret, "pa55word\n")
	cistern := lab.StartCistern(t, lab.CisternOptions{Config: fmt.Sprintf(
		"cache: { max_size: 1GiB, min_free: 0B }\nupstreams:\n  docker.io:\n    endpoints: [%q]\n    username: ci-bot\n    password_file: %s\n", front.URL, secret)})
	c := client.StartContainerd(t, client.Mirrors{"docker.io": cistern.Addr}, client.ContainerdOptions{})
	for range 2 {
		pull(t, c, "docker.io/"+p.Name, p)
	}
	gets, _ := front.Bodies()
	for _, b := range p.Blobs() {
		if gets[b] != 1 {
			t.Errorf("blob %s was fetched %d times", b, gets[b])
		}
	}
	if out := cistern.Output(); strings.Contains(out, "pa55word") || !strings.Contains(out, "everyone who reaches") {
		t.Errorf("the start-up log does not warn, or holds the password:\n%s", out)
	}
}

// TestArtifact reads an artifact with a subject, and the fallback tag of a registry without the referrers API, through the proxy.
func TestArtifact(t *testing.T) {
	t.Parallel()
	o := fill(t, image.Set()[0])
	digest, err := image.PushArtifact(o.addr, "library/tiny:sbom", "library/tiny:1")
	if err != nil {
		t.Fatal(err)
	}
	front := lab.NewFront(t, o.url)
	cistern := lab.StartCistern(t, lab.CisternOptions{Upstreams: map[string]string{"docker.io": front.URL}})
	crane := client.NewCrane(t)
	// A single-segment name means library/ at Docker Hub.
	for name, want := range map[string]string{
		"tiny:sbom":         digest,
		"library/tiny:sbom": digest,
		"library/tiny:1":    o.images[0].Digest,
	} {
		if got, err := crane.Run(t.Context(), "digest", cistern.Addr+"/"+name); err != nil || got != want {
			t.Errorf("%s: %s, %v; at the origin %s", name, got, err, want)
		}
	}
	subject := o.images[0].Digest
	if err := lab.Answers(cistern.URL+"/v2/library/tiny/referrers/"+subject, http.StatusNotFound)(); err != nil {
		t.Errorf("a registry without the referrers API: %v", err)
	}
	index, err := crane.Run(t.Context(), "manifest", cistern.Addr+"/library/tiny:"+strings.Replace(subject, ":", "-", 1))
	if err != nil || !strings.Contains(index, digest) {
		t.Errorf("the fallback tag: %v: %s", err, index)
	}
	tags, err := crane.Run(t.Context(), "ls", cistern.Addr+"/library/tiny")
	if err != nil || !strings.Contains(tags, "sbom") {
		t.Errorf("tags: %v: %s", err, tags)
	}
}

// TestSendfile shows that a warm blob leaves by sendfile: nothing of it is read into the daemon.
func TestSendfile(t *testing.T) {
	t.Parallel()
	o := fill(t, image.Set()[1])
	cistern := lab.StartCistern(t, lab.CisternOptions{Upstreams: map[string]string{"docker.io": o.url}})
	p := o.images[0]
	url := cistern.URL + "/v2/lab/six/blobs/" + p.Layers[5]
	get := func() int64 {
		resp, err := http.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		n, err := io.Copy(io.Discard, resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	size := get()
	trace := filepath.Join(lab.Dir(t), "trace")
	strace := lab.Start(t, "strace", exec.Command("strace", "-f", "-qq", "-e", "trace=sendfile,splice", "-o", trace, "-p", fmt.Sprint(cistern.PID())))
	sent := int64(0)
	lab.Eventually(t, 30*time.Second, strace, func() error {
		if get() != size {
			return fmt.Errorf("another length")
		}
		text, err := os.ReadFile(trace)
		sent = moved(string(text))
		if err == nil && sent < size {
			err = fmt.Errorf("%d of %d bytes left by sendfile", sent, size)
		}
		return err
	})
	if err := strace.Signal(syscall.SIGINT); err != nil {
		t.Error(err)
	}
}

// moved adds up what the calls of an strace output returned.
func moved(trace string) int64 {
	sum := int64(0)
	for line := range strings.Lines(trace) {
		var n int64
		if _, result, ok := strings.Cut(line, " = "); ok {
			if _, err := fmt.Sscan(result, &n); err == nil && n > 0 {
				sum += n
			}
		}
	}
	return sum
}
