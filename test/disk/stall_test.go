package disk_test

import (
	"syscall"
	"testing"
)

// never is a fault that lasts until it is released.
const never = "delay_enter=300s"

// reading begins to read a blob to its end, and gives what came of it.
func (r *rig) reading(b *blob) <-chan answer {
	done := make(chan answer, 1)
	go func() { done <- r.get(b) }()
	return done
}

// TestWriteStalls is FAULTS row 38 for a write: the disk does not come back from the first bytes of a blob, or from those in its
// middle. Who reads it goes on from upstream, hits of other files are served, new blobs are streamed, and the daemon says so; when
// the disk is back it keeps blobs again.
func TestWriteStalls(t *testing.T) {
	atWrites(t, never, func(r *rig, b *blob, old []*blob, fault *injection) {
		r.metric("cistern_disk_stalls_total", equal(1))
		r.isNot("did not answer")
		r.says("waiting for the disk")
		r.hits(old...)
		another := r.blob(2 * mib)
		r.misses(b, another, another, r.blob(900))
		if fault.met() != 1 {
			r.t.Error("something else was written to the file that stalls")
		}
		fault.release()
		r.keeps(b, another)
		r.isReady()
	})
}

// TestSyncStalls is FAULTS row 38 for an fsync, of a blob's file and of the index: no request waits for it. Blobs come, are hits
// and are evicted; nothing is recorded, and all of it is once the disk is back.
func TestSyncStalls(t *testing.T) {
	for _, name := range []string{"a file", "the index"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t, settings{cap: 32 * mib})
			old := r.blob(300_000)
			r.recorded(old)
			b := r.blob(2 * mib)
			path, calls := b.file("fills"), "fsync"
			if name == "the index" {
				path, calls = "index.db", "fdatasync"
			}
			fault := r.inject(r.in(path), calls, never)
			r.misses(b)
			fault.meets()
			was := r.daemon.Metric(t, "cistern_checkpoints_total")
			r.hits(b, old)
			var last *blob
			for range 20 { // more than fits
				last = r.blob(2 * mib)
				r.misses(last)
				r.hits(last)
			}
			if n := r.daemon.Metric(t, "cistern_evicted_blobs_total"); n < 5 {
				t.Errorf("%v were evicted", n)
			}
			if n := r.daemon.Metric(t, "cistern_checkpoints_total"); n != was || fault.met() != 1 {
				t.Errorf("%v checkpoints have ended meanwhile, and %d calls were begun", n-was, fault.met())
			}
			r.isReady()
			fault.release()
			r.recorded(last)
			r.accounts()
		})
	}
}

// TestReadStalls is FAULTS row 38 for a read: who reads the file that stalls waits, for the disk may come back, and nobody else does.
func TestReadStalls(t *testing.T) {
	t.Parallel()
	r := start(t, settings{})
	stuck, large, small := r.blob(5*mib), r.blob(5*mib), r.blob(20_000)
	r.recorded(stuck, large, small)
	fault := r.inject(r.in(stuck.file("blobs")), "sendfile,pread64,read", never)
	one, two := r.reading(stuck), r.reading(stuck)
	fault.meets()
	for range 3 {
		r.hits(large, small)
		r.pull(r.blob(2*mib), r.blob(900))
	}
	r.keeps(r.blob(mib))
	select {
	case a := <-one:
		t.Errorf("nothing has stalled: %+v", a)
	case a := <-two:
		t.Errorf("nothing has stalled: %+v", a)
	default:
	}
	fault.release()
	for _, done := range []<-chan answer{one, two} {
		if a := <-done; !a.hit() {
			t.Errorf("%q: %v", a.outcome, a.err)
		}
	}
}

// TestStopsWhileTheDiskStalls is FAULTS row 38 at the end of a run: a disk that does not answer does not keep the process. What was
// not recorded is proven at the next start.
func TestStopsWhileTheDiskStalls(t *testing.T) {
	t.Parallel()
	r := start(t, settings{})
	old, b := r.blob(300_000), r.blob(2*mib)
	r.recorded(old)
	fault := r.inject(r.in(b.file("fills")), "fsync", never)
	r.misses(b)
	fault.meets()
	if err := r.daemon.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	r.says("the disk did not answer within 10s")
	r.down = true
	fault.strace.Kill() // a process goes when the kernel has come back from its last call, and not before; its tracer does not end in order while it goes
	<-r.daemon.Exited()
	if code := r.daemon.ExitCode(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	r.restart()
	r.off.Store(true)
	r.hits(old, b)
	r.off.Store(false)
	r.recorded(b)
	r.accounts()
}
