package crash_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cistern/test/lab"
)

const (
	drain     = 8 * time.Second // what responses get to finish in
	drainMost = drain + 6*time.Second
	watchdog  = 4 * time.Second // within which systemd wants to hear of it, here
)

// TestTerm is FAULTS row 42: SIGTERM under load, and SIGTERM twice. New connections are refused from then on; a response that
// ends within the drain is whole, one that does not is cut when it is over, and its fill goes on where it stood after the next
// start; systemd hears that it stops, and that it lives until it has ended.
func TestTerm(t *testing.T) {
	t.Parallel()
	for _, twice := range []bool{false, true} {
		t.Run(fmt.Sprintf("twice=%v", twice), func(t *testing.T) {
			t.Parallel()
			s := set(t, ext4(""), large)
			news := s.listen()
			s.start()
			news.expect("READY=1")
			s.pull(s.blobs(20, 100*kib)...)
			ends, cut := s.blobs(1, 4*mib)[0], s.blobs(1, 12*mib)[0]
			endsAt, cutAt := s.origin.hold(ends, mib), s.origin.hold(cut, 8*mib)
			whole, part := s.begin(ends), s.begin(cut)
			await(t, endsAt.there, "upstream is asked")
			await(t, cutAt.there, "upstream is asked")
			s.until(func() error { return s.readers(2) })
			stopLoad := s.load()

			began := time.Now()
			s.signal(syscall.SIGTERM)
			news.expect("STOPPING=1")
			s.until(func() error { return refused(s.daemon.Addr) })
			close(endsAt.gate)
			if r := <-whole; r.err != nil {
				t.Errorf("what ends within the drain: %v", r.err)
			}
			code, least, most := 0, drain-time.Second, drainMost
			if twice {
				s.signal(syscall.SIGTERM)
				code, least, most = 1, 0, drain-2*time.Second
			}
			await(t, s.daemon.Exited(), "the daemon ends")
			took := time.Since(began)
			stopLoad()
			if got := s.daemon.ExitCode(); got != code || took < least || took > most {
				t.Errorf("exit code %d after %v, want %d after %v to %v", got, took, code, least, most)
			}
			r := <-part
			if r.err == nil || errors.Is(r.err, errWrong) || r.n < 7*mib {
				t.Errorf("what does not end within the drain: %d bytes, %v", r.n, r.err)
			}
			close(cutAt.gate)
			news.lived(took)
			s.after(cut, r.n, ends)
		})
	}
}

// after starts the daemon anew: what was delivered is there without upstream, and of what was cut no more is fetched than is
// missing.
func (s *scene) after(cut *thing, had int64, whole *thing) {
	s.t.Helper()
	s.start()
	s.origin.off.Store(true)
	if hits := s.pull(whole); hits != 1 {
		s.t.Error("what was delivered is no hit")
	}
	s.origin.off.Store(false)
	s.origin.sentSince()
	s.pull(cut)
	if n := s.origin.sentSince()[cut]; float64(n) > 1.02*float64(cut.size()-had) {
		s.t.Errorf("upstream sent %d bytes, %d of %d were there", n, had, cut.size())
	}
}

// readers tells whether so many follow fills.
func (s *scene) readers(want float64) error {
	if n := s.daemon.Metric(s.t, "cistern_flight_readers"); n != want {
		return fmt.Errorf("%v readers of fills", n)
	}
	return nil
}

// load puts the daemon under load until stop is called, and is done with when that returns. What it is answered may fail, and
// may not be wrong.
func (s *scene) load() (stop func()) {
	ctx, cancel := context.WithCancel(s.t.Context())
	l := &load{t: s.t, client: s.client, world: s.world, ledger: newLedger(), rng: rand.New(rand.NewPCG(s.rng.Uint64(), 5))}
	l.ending.Store(true)
	l.over = func() bool { return ctx.Err() != nil }
	var running sync.WaitGroup
	running.Go(func() {
		_, wait := l.run(ctx, 1<<30)
		wait()
	})
	s.until(func() error {
		if l.done.Load() < 50 {
			return errors.New("no load")
		}
		return nil
	})
	return func() { cancel(); running.Wait() }
}

// refused tells whether nobody accepts there any more.
func refused(addr string) error {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err == nil {
		c.Close()
		return errors.New("it accepts connections")
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return err
	}
	return nil
}

// A notifier is systemd's end of the socket on which a service says how it is.
type notifier struct {
	t     *testing.T
	words chan string

	mu   sync.Mutex // guards what follows
	last time.Time  // of any word
	gap  time.Duration
	n    int // words of the watchdog
}

// listen has the daemon believe that systemd runs it, and wants to hear of it.
func (s *scene) listen() *notifier {
	s.t.Helper()
	path := filepath.Join(lab.Dir(s.t), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		s.t.Fatal(err)
	}
	s.env = []string{"NOTIFY_SOCKET=" + path, "WATCHDOG_USEC=" + strconv.FormatInt(watchdog.Microseconds(), 10)}
	n := &notifier{t: s.t, words: make(chan string, 100)}
	var reading sync.WaitGroup
	reading.Go(func() {
		b := make([]byte, 4096)
		for {
			m, err := conn.Read(b)
			if err != nil {
				return
			}
			n.heard(string(b[:m]))
		}
	})
	s.t.Cleanup(func() {
		conn.Close()
		reading.Wait()
	})
	return n
}

func (n *notifier) heard(word string) {
	if word != "WATCHDOG=1" {
		n.words <- word
		if word != "READY=1" {
			return
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.last.IsZero() {
		n.gap = max(n.gap, time.Since(n.last))
		n.n++
	}
	n.last = time.Now()
}

// expect waits for the next word that is not the watchdog's.
func (n *notifier) expect(word string) {
	n.t.Helper()
	select {
	case got := <-n.words:
		if got != word {
			n.t.Errorf("systemd hears %q, not %q", got, word)
		}
	case <-time.After(20 * time.Second):
		n.t.Fatalf("systemd does not hear %q", word)
	}
}

// lived tells that the watchdog never went hungry, up to a moment ago; drain is how long the end took.
func (n *notifier) lived(drain time.Duration) {
	n.t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	if gap := max(n.gap, time.Since(n.last)); gap > watchdog || time.Duration(n.n+1)*watchdog/2 < drain-watchdog/2 {
		n.t.Errorf("the watchdog heard of it %d times, after %v at most", n.n, gap)
	}
}

// starts is how many starts are broken off.
const starts = 20

// TestTermAtStart is FAULTS row 42: SIGTERM during the start-up, at random moments and while the disk keeps it waiting. It ends in
// order and in time, or as by default where it has done nothing yet; what is on record is there afterwards.
func TestTermAtStart(t *testing.T) {
	t.Parallel()
	s := stage(t, ext4(""), large)
	things := s.blobs(100, 100*kib)
	s.pull(things...)
	s.recorded()
	s.daemon.Kill()
	inOrder := 0
	for i := range starts {
		var under []string
		if i%4 == 0 { // a disk on which each sync takes its time
			under = []string{lab.Tool(t, "strace"), "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync",
				"-e", "inject=fsync,fdatasync:delay_enter=300000"}
		}
		d := s.launch(under)
		if under == nil {
			<-time.After(time.Duration(s.rng.IntN(60)) * time.Millisecond)
		} else {
			lab.Eventually(t, 20*time.Second, d.Process, func() error { return holds(s.dir, d.PID()) })
		}
		began := time.Now()
		terminate(t, s.dir, d, under != nil)
		await(t, d.Exited(), "the daemon ends")
		switch code, took := d.ExitCode(), time.Since(began); {
		case took > drain:
			t.Errorf("it ends after %v", took)
		case code == 0:
			inOrder++
		case code != -1 || under != nil || strings.Contains(d.Output(), "listens on"):
			t.Errorf("exit code %d, %s", code, d.Output())
		}
	}
	if inOrder < starts/4 {
		t.Errorf("void: %d of %d ended in order", inOrder, starts)
	}
	s.start()
	s.origin.off.Store(true)
	if hits := s.pull(things...); hits != len(things) {
		t.Errorf("%d of %d are there", hits, len(things))
	}
	s.counted()
}

// launch starts a daemon and does not wait.
func (s *scene) launch(under []string) *lab.Cistern {
	s.t.Helper()
	defer setBoot(s.t, s.boot)()
	o := s.options()
	o.Under = under
	return lab.LaunchCistern(s.t, o)
}

// holder is the process that has locked the directory, as the lock's file says; 0 if it does not.
func holder(dir string) int {
	text, err := os.ReadFile(filepath.Join(dir, "cistern.lock"))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0
	}
	return pid
}

// holds tells whether the directory is locked by a child of a process.
func holds(dir string, parent int) error {
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", parent))
	if err != nil {
		return err
	}
	if strings.TrimSpace(string(children)) != strconv.Itoa(holder(dir)) {
		return fmt.Errorf("process %d has the directory, not %s", holder(dir), children)
	}
	return nil
}

// terminate sends the daemon SIGTERM, and not its tracer.
func terminate(t *testing.T, dir string, d *lab.Cistern, traced bool) {
	t.Helper()
	var err error
	if traced {
		err = syscall.Kill(holder(dir), syscall.SIGTERM)
	} else {
		err = d.Signal(syscall.SIGTERM)
	}
	if err != nil {
		t.Fatal(err)
	}
}
