package cache

import (
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"cistern/internal/durable/durabletest"
)

// TestCompare: where a blob was wrong is looked for at the rate of the scrub, and only
// while nobody is served; in between nothing is open.
func TestCompare(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var reads atomic.Int32
		core, logs := observer.New(zap.InfoLevel)
		c := faultyRig(t, Options{ScrubRate: 100 << 10, Log: zap.New(core)}, func(op durabletest.Op) *durabletest.Fault {
			if op.Kind == "readat" && strings.HasPrefix(op.Name, "damaged/") {
				reads.Add(1)
			}
			return nil
		})
		o := newOrigin()
		layers, _ := kept(t, c, o)
		hex := layers[0].Hex()
		f, err := c.o.fs.OpenFile("blobs/sha256/"+hex[:2]+"/"+hex, os.O_RDWR, 0)
		must(t, err)
		_, err = f.WriteAt([]byte("wrong"), 2*mib+17)
		must(t, err)
		must(t, f.Close())
		rec, _ := c.findStored(layers[0])
		if !c.spoil(rec, flaw{errWrong, unknown, false}) {
			t.Fatal("it stays")
		}
		c.want(o.repo("library/app"), layers[0], OutcomeMiss)
		for range 60 {
			time.Sleep(time.Second)
			c.want(o.repo("library/app"), layers[1], OutcomeHit)
		}
		if n := reads.Load(); n > 0 {
			t.Errorf("%d reads while somebody is served", n)
		}
		time.Sleep(2 * scrubQuiet)
		if n := reads.Load(); n != 1 || c.store.Opened() {
			t.Errorf("%d reads, open: %v", n, c.store.Opened())
		}
		time.Sleep(time.Minute)
		if l := logs.FilterMessageSnippet("tells what was wrong").All(); len(l) != 1 || l[0].ContextMap()["first_bad_offset"] != int64(2*mib+17) || reads.Load() != 3 {
			t.Errorf("%d reads, %+v", reads.Load(), l)
		}
		c.close()
	})
}

// TestUnlocated: what left nothing to compare does not wait for it.
func TestUnlocated(t *testing.T) {
	t.Parallel()
	o, c := newOrigin(), open(t, Options{Limit: 1 << 30})
	layers, _ := kept(t, c, o)
	for _, d := range stock(t, c, o, mostUnlocated) {
		rec, _ := c.findStored(d)
		must(t, os.Remove(c.fileOf(d)))
		c.damaged(rec, errNoFile)
	}
	flip(t, c.fileOf(layers[0]), 5)
	c.verify(nil)
	c.want(o.repo("library/app"), layers[0], OutcomeMiss)
	c.idle()
	m, ok := c.toCompare()
	if !ok || m.d != layers[0] {
		t.Errorf("%+v, %v", m, ok)
	}
}

// TestReadTwice: bytes that are wrong in memory, and right when they are read again from
// the disk, are told in the log, and are no damage.
func TestReadTwice(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.InfoLevel)
	c := faultyRig(t, Options{Log: zap.New(core)}, func(durabletest.Op) *durabletest.Fault { return nil })
	ds := stock(t, c, newOrigin(), 1)
	rec, _ := c.findStored(ds[0])
	hex := ds[0].Hex()
	f, err := c.o.fs.OpenFile("blobs/sha256/"+hex[:2]+"/"+hex, syscall.O_RDWR, 0)
	must(t, err)
	was := make([]byte, 1)
	_, err = f.ReadAt(was, 100)
	must(t, err)
	_, err = f.WriteAt([]byte{was[0] ^ 1}, 100)
	must(t, err)
	e, buf := newExam(rec), make([]byte, mib)
	if n, over, bad := c.step(e, buf); n != 2000 || over || bad != nil {
		t.Fatalf("%d, %v, %+v", n, over, bad)
	}
	_, err = f.WriteAt(was, 100)
	must(t, err)
	must(t, f.Close())
	if n, over, bad := c.step(e, buf); n != 2000 || !over || bad != nil || !e.right {
		t.Errorf("%d, %v, %+v", n, over, bad)
	}
	if n := logs.FilterMessageSnippet("was wrong in memory").Len(); n != 1 {
		t.Errorf("it is told %d times", n)
	}
}
