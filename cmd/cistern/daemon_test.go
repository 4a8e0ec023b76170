package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cistern/config"
	"cistern/internal/oci"
	"cistern/internal/registrytest"
)

// inProcess is a daemon in this process.
type inProcess struct {
	*daemon
	url     string
	signals chan os.Signal
	ended   chan error
	log     string
	gone    chan struct{} // closed when it has ended and its log is written
}

// stopAndWait ends it now rather than with the test.
func (p *inProcess) stopAndWait(t *testing.T) {
	t.Helper()
	p.signals <- syscall.SIGTERM
	select {
	case <-p.gone:
	case <-time.After(patience):
		t.Fatal("the daemon has not ended")
	}
}

// startInProcess runs the real daemon on a configuration of the test's.
func startInProcess(t *testing.T, args ...string) *inProcess {
	t.Helper()
	dir := t.TempDir()
	flags := map[string][]string{"listen": {"127.0.0.1:0"}, "admin-listen": {"127.0.0.1:0"}, "cache-dir": {filepath.Join(dir, "cache")}, "cache-size": {"1GiB"}}
	for _, a := range args {
		name, value, _ := strings.Cut(a, "=")
		flags[name] = append(flags[name], value)
	}
	load := func() (*config.Config, error) { return loadConfig(config.Sources{Flags: flags, WorkDir: dir}) }
	conf, err := load()
	if err != nil {
		t.Fatal(err)
	}
	p := &inProcess{signals: make(chan os.Signal, 4), ended: make(chan error, 1), log: filepath.Join(dir, "log"), gone: make(chan struct{})}
	f, err := os.Create(p.log)
	if err != nil {
		t.Fatal(err)
	}
	log, err := newLogger(f, conf.Log.Level, "json")
	if err != nil {
		t.Fatal(err)
	}
	if p.daemon, err = newDaemon(conf, log, func(string) string { return "" }); err != nil {
		t.Fatal(err)
	}
	p.url = "http://" + p.registry.Addr().String()
	go func() {
		defer close(p.gone)
		p.ended <- p.run(p.signals, load)
		log.flush()
		f.Close()
	}()
	t.Cleanup(func() {
		select {
		case p.signals <- syscall.SIGTERM:
		default:
		}
		<-p.gone
		<-p.closed // after a second signal it goes on behind run's back
	})
	return p
}

func TestDrainLetsAPullFinish(t *testing.T) {
	t.Parallel()
	reg := registrytest.New(t)
	blob := bytes.Repeat([]byte("0123456789abcdef"), 2<<20) // 32 MiB: more than all buffers hold
	digest := reg.Put("team/app", blob)
	p := startInProcess(t, "upstream=lab="+reg.URL, "default-upstream=lab")

	resp, err := http.Get(p.url + "/v2/team/app/blobs/" + digest.String())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	sum := sha256.New()
	if _, err := io.CopyN(sum, resp.Body, 1<<20); err != nil {
		t.Fatal(err)
	}
	p.signals <- syscall.SIGTERM
	until(t, "the listener to be closed", func() bool {
		c, err := net.Dial("tcp", p.registry.Addr().String())
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	// The admin listener still answers, and says no.
	ready, err := http.Get("http://" + p.adminAt.Addr().String() + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	ready.Body.Close()
	if ready.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("readyz while stopping: %s", ready.Status)
	}
	if _, err := io.Copy(sum, resp.Body); err != nil {
		t.Errorf("the pull was cut: %v", err)
	}
	if got := fmt.Sprintf("sha256:%x", sum.Sum(nil)); got != digest.String() {
		t.Errorf("got %s, want %s", got, digest)
	}
	select {
	case err := <-p.ended:
		if err != nil {
			t.Errorf("run: %v", err)
		}
	case <-time.After(patience):
		t.Error("the daemon has not ended")
	}
}

func TestSecondSignalEndsAtOnce(t *testing.T) {
	t.Parallel()
	reg := registrytest.New(t)
	digest := reg.Put("team/app", bytes.Repeat([]byte("0123456789abcdef"), 2<<20))
	p := startInProcess(t, "upstream=lab="+reg.URL, "default-upstream=lab")
	resp, err := http.Get(p.url + "/v2/team/app/blobs/" + digest.String())
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	p.signals <- syscall.SIGTERM
	p.signals <- syscall.SIGTERM
	if err := <-p.ended; err == nil || !strings.Contains(err.Error(), "second signal") {
		t.Errorf("run: %v", err)
	}
	if took := time.Since(began); took > drainTime/2 {
		t.Errorf("ended after %v", took)
	}
	resp.Body.Close() // lets the drain, which goes on in this process, end
}

func TestManyClientsOneFetchThroughTheDaemon(t *testing.T) {
	t.Parallel()
	reg := registrytest.New(t)
	digest := reg.Put("team/app", bytes.Repeat([]byte("abcdefghijklmnop"), 1<<18))
	p := startInProcess(t, "upstream=lab="+reg.URL, "default-upstream=lab")
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			resp, err := http.Get(p.url + "/v2/team/app/blobs/" + digest.String())
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			sum := sha256.New()
			if _, err := io.Copy(sum, resp.Body); err != nil || fmt.Sprintf("sha256:%x", sum.Sum(nil)) != digest.String() {
				t.Errorf("a client got something else: %v", err)
			}
		})
	}
	all.Wait()
	if n := reg.Count(http.MethodGet, oci.KindBlob); n != 1 {
		t.Errorf("upstream was asked %d times", n)
	}
}

func TestSystemdIsToldThatWeLive(t *testing.T) { // not parallel: the environment is the process's
	dir, err := os.MkdirTemp("", "c") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "s"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	t.Setenv("NOTIFY_SOCKET", filepath.Join(dir, "s"))
	t.Setenv("WATCHDOG_USEC", "20000")
	t.Setenv("WATCHDOG_PID", fmt.Sprint(os.Getpid()))
	log, err := newLogger(os.Stderr, "error", "json")
	if err != nil {
		t.Fatal(err)
	}
	defer log.flush()
	stop := (&daemon{log: log}).feedWatchdog()
	defer stop()
	b := make([]byte, 64)
	if err := socket.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if n, err := socket.Read(b); err != nil || string(b[:n]) != "WATCHDOG=1" {
		t.Errorf("systemd heard %q, %v", b[:n], err)
	}
}

func TestAFailedStartLeavesNothing(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	conf, err := config.Load(config.Sources{WorkDir: t.TempDir(), Flags: map[string][]string{
		"listen": {"127.0.0.1:0"}, "admin-listen": {taken.Addr().String()}, "cache-dir": {"cache"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	log, err := newLogger(os.Stderr, "error", "json")
	if err != nil {
		t.Fatal(err)
	}
	defer log.flush()
	if _, err := newDaemon(conf, log, func(string) string { return "" }); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(conf.Cache.Dir); err == nil {
		t.Error("the cache directory was made for nothing")
	}
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(patience); !ok(); {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
