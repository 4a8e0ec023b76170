package listener

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPortInUseNamesItsHolder(t *testing.T) {
	t.Parallel()
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	_, err = Listen(Options{Address: other.Addr().String()})
	if err == nil {
		t.Fatal("no error")
	}
	if want := fmt.Sprintf("(pid %d)", os.Getpid()); !strings.Contains(err.Error(), want) {
		t.Errorf("%q lacks %q", err, want)
	}
}

func TestPortInUseByAnUnknown(t *testing.T) {
	t.Parallel()
	proc := t.TempDir()
	if err := os.MkdirAll(filepath.Join(proc, "net"), 0o700); err != nil {
		t.Fatal(err)
	}
	table := "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n" +
		"   0: 0100007F:1388 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 x\n"
	if err := os.WriteFile(filepath.Join(proc, "net", "tcp"), []byte(table), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := holder(proc, 5000); got != "" {
		t.Errorf("holder = %q without any process", got)
	}
	fd := filepath.Join(proc, "99", "fd")
	if err := os.MkdirAll(fd, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("socket:[4711]", filepath.Join(fd, "3")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(proc, "99", "comm"), []byte("ngi\nnx\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, want := holder(proc, 5000), `ngi\nnx (pid 99)`; got != want {
		t.Errorf("holder = %q, want %q", got, want)
	}
	if got := holder(proc, 5001); got != "" {
		t.Errorf("holder of another port = %q", got)
	}
}

func TestAddressErrorsSayWhatToDo(t *testing.T) {
	t.Parallel()
	_, err := Listen(Options{Address: "192.0.2.1:0"})
	if err == nil || !strings.Contains(err.Error(), "no interface of this machine") {
		t.Errorf("foreign address: %v", err)
	}
	if _, err = Listen(Options{Address: "127.0.0.1:notaport"}); err == nil {
		t.Error("no error for a port that is none")
	}
}

func TestUnixSocket(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "admin.sock")
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()

	l := start(t, Options{Address: UnixPrefix + path}, answer("ok"))
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if perm := st.Mode().Perm(); perm&0o077 != 0 {
		t.Errorf("socket mode %v is open to others", perm)
	}
	c := dial(t, l)
	send(t, c, get)
	if _, body := response(t, c); body != "ok" {
		t.Errorf("body %q", body)
	}

	if _, err := Listen(Options{Address: UnixPrefix + path}); err == nil || !strings.Contains(err.Error(), "another process listens") {
		t.Errorf("second listener: %v", err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(Options{Address: UnixPrefix + file}); err == nil || !strings.Contains(err.Error(), "something else than a socket") {
		t.Errorf("listener over a file: %v", err)
	}
}

func FuzzListening(f *testing.F) {
	f.Add("   0: 0100007F:1388 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 x\n")
	f.Add(": : : 0A\n\x00")
	f.Fuzz(func(t *testing.T, table string) {
		inodes := map[string]bool{}
		listening(strings.NewReader(table), 5000, inodes)
		for in := range inodes {
			if !strings.HasPrefix(in, "socket:[") || strings.ContainsAny(in, " \n") {
				t.Errorf("inode %q", in)
			}
		}
	})
}
