package lab

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// inside marks the environment of the test binary once it runs in its own namespaces.
const inside = "CISTERN_LAB_INSIDE"

// Names are host names that lead to loopback addresses inside the lab, for tests that need an upstream,
// a token service or a stranger on "another host". No other name resolves.
var names = map[string]string{
	"localhost":         "127.0.0.1",
	"registry.lab.test": "127.0.0.1",
	"token.lab.test":    "127.0.0.1",
	"cdn.lab.test":      "127.0.0.3",
	"evil.test":         "127.0.0.2",
}

// Main runs the tests of a package in network, mount and process namespaces of their own: loopback is the
// only interface, no resolver is configured, and the kernel ends every process of the lab when the test
// binary is gone, also after a panic or a timeout. It needs root, and takes it with sudo if it has to.
// The package fails if a test leaves a process behind.
func Main(m *testing.M) {
	if os.Getenv(inside) == "" {
		os.Exit(reexec())
	}
	if err := furnish(); err != nil {
		fmt.Fprintln(os.Stderr, "lab: cannot set up the namespaces:", err)
		os.Exit(1)
	}
	code := m.Run()
	if left := leftover(); len(left) > 0 {
		fmt.Fprintf(os.Stderr, "lab: processes left behind by the tests: %s\n", strings.Join(left, ", "))
		code = max(code, 1)
	}
	os.Exit(code)
}

// reexec starts this test binary again as the first process of new namespaces and returns its exit code.
func reexec() int {
	if os.Geteuid() != 0 {
		return again(exec.Command("sudo", append([]string{"-n", "-E", "/proc/self/exe"}, os.Args[1:]...)...),
			"these tests need root: run them as root, or make `sudo -n true` work")
	}
	// The death signal belongs to the thread that starts the child.
	runtime.LockOSThread()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
	}
	return again(cmd, "cannot make namespaces (network, mount, pid): a container needs --privileged for this")
}

func again(cmd *exec.Cmd, hint string) int {
	if exe, err := os.Executable(); err == nil {
		for i, a := range cmd.Args {
			if a == "/proc/self/exe" && i > 0 {
				cmd.Args[i] = exe
			}
		}
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		return exit.ExitCode()
	default:
		fmt.Fprintf(os.Stderr, "lab: %v: %s\n", err, hint)
		return 1
	}
}

// furnish brings loopback up and gives the mount namespace its own /proc, /run, /dev/shm and name service files.
func furnish() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	for _, dir := range []string{"/run", "/dev/shm"} {
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"); err != nil {
			return fmt.Errorf("mount %s: %w", dir, err)
		}
	}
	var hosts strings.Builder
	for name, addr := range names {
		fmt.Fprintf(&hosts, "%s %s\n", addr, name)
	}
	for path, text := range map[string]string{"/etc/resolv.conf": "", "/etc/hosts": hosts.String()} {
		if err := replace(path, text); err != nil {
			return err
		}
	}
	if err := loopbackUp(); err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	return alone()
}

// replace covers the file at path with one that holds text, in this mount namespace only.
func replace(path, text string) error {
	cover := filepath.Join("/run", filepath.Base(path))
	if err := os.WriteFile(cover, []byte(text), 0o644); err != nil {
		return err
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	if err := unix.Mount(cover, path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("cover %s: %w", path, err)
	}
	return nil
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, req); err != nil {
		return err
	}
	req.SetUint16(req.Uint16() | unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}

// NarrowBuffers keeps the kernel's buffers for each connection of this lab small from now on: what lies in them when one is given
// up was sent and read by nobody, and is in what an origin counts.
func NarrowBuffers(t testing.TB) {
	t.Helper()
	for _, name := range []string{"tcp_rmem", "tcp_wmem"} {
		if err := os.WriteFile("/proc/sys/net/ipv4/"+name, []byte("4096 131072 262144"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// alone proves that nothing but loopback can be reached from here.
func alone() error {
	ifs, err := net.Interfaces()
	if err != nil {
		return err
	}
	for _, i := range ifs {
		if i.Flags&net.FlagLoopback == 0 && i.Flags&net.FlagUp != 0 {
			return fmt.Errorf("interface %s is up: the lab must hold loopback only", i.Name)
		}
	}
	if c, err := net.Dial("tcp", "192.0.2.1:443"); !errors.Is(err, unix.ENETUNREACH) {
		if err == nil {
			err = c.Close()
		}
		return fmt.Errorf("an address outside answered %v instead of ENETUNREACH", err)
	}
	return nil
}

// leftover names the live processes of the lab beside the test binary itself, and collects the dead ones
// that were handed to it as the first process of its namespace.
func leftover() []string {
	for {
		var status syscall.WaitStatus
		if pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil); pid <= 0 || err != nil {
			break
		}
	}
	var left []string
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		pid := filepath.Base(dir)
		if pid == "1" || pid == fmt.Sprint(os.Getpid()) {
			continue
		}
		name, err := os.ReadFile(filepath.Join(dir, "comm"))
		if err == nil {
			left = append(left, strings.TrimSpace(string(name))+" ("+pid+")")
		}
	}
	return left
}
