package cache

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"cistern/internal/durable/durabletest"
	"cistern/internal/oci"
)

// stock has n blobs of 2,000 bytes in a cache, all recorded.
func stock(t testing.TB, c *rig, o *origin, n int) (ds []oci.Digest) {
	t.Helper()
	for i := range n {
		d := o.put(noise(2000, uint64(720+i)))
		c.want(o.repo("library/app"), d, OutcomeMiss)
		ds = append(ds, d)
	}
	c.idle()
	if !c.checkpoint() {
		t.Fatal("nothing is recorded")
	}
	for _, d := range ds {
		c.hot.remove(d)
	}
	return ds
}

// flaky is a disk that fails so many reads of blobs from here on; of one alone, if only
// is set to the end of its name.
type flaky struct {
	left atomic.Int32
	only atomic.Pointer[string]
}

func (f *flaky) choose(op durabletest.Op) *durabletest.Fault {
	name := f.only.Load()
	if op.Kind != "readat" || !strings.HasPrefix(op.Name, "blobs/") || name != nil && !strings.HasSuffix(op.Name, *name) {
		return nil
	}
	if f.left.Add(-1) >= 0 {
		return &durabletest.Fault{Err: syscall.EIO}
	}
	return nil
}

// nothing verifies a cache in which nothing may be found, nor dropped.
func (r *rig) nothing() error {
	r.t.Helper()
	before := r.Stats().Blobs
	_, err := r.Verify(r.t.Context(), Verification{Found: func(f Finding) { r.t.Errorf("%+v", f) }, Progress: func(VerifyProgress) {}})
	if n := r.Stats().Blobs; n != before {
		r.t.Errorf("%d blobs of %d are left", n, before)
	}
	return err
}

// TestVerifyUnreadable: what the disk does not give, and not when it is asked once more
// after another blob was read, is damaged from the first byte on that it does not give;
// also if there is no blob behind it.
func TestVerifyUnreadable(t *testing.T) {
	t.Parallel()
	for _, which := range []int{0, 5, 9} {
		t.Run(fmt.Sprint(which), func(t *testing.T) {
			t.Parallel()
			var f flaky
			c := faultyRig(t, Options{}, f.choose)
			ds := stock(t, c, newOrigin(), 10)
			slices.SortFunc(ds, func(a, b oci.Digest) int { return strings.Compare(a.Hex(), b.Hex()) })
			hex := ds[which].Hex()
			f.only.Store(&hex)
			for _, passing := range []int32{1, 2, 3} { // each exam reads twice
				f.left.Store(passing)
				if err := c.nothing(); err != nil {
					t.Error(err)
				}
			}
			f.left.Store(4)
			found := c.verify(nil)
			if f := found[ds[which].String()]; len(found) != 1 || f.FirstBad != 0 || !strings.Contains(f.What, "cannot be read") {
				t.Errorf("%+v", found)
			}
		})
	}
}

// TestVerifyDeadDisk: of a disk that gives nothing nothing is dropped, however little is
// cached, and whatever it says of its files.
func TestVerifyDeadDisk(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		kind string
		err  error
	}{"reads": {"readat", syscall.EIO}, "opens": {"open", syscall.EIO}, "nothing is there": {"open", syscall.ENOENT}, "links": {"open", syscall.ELOOP}} {
		for _, n := range []int{1, mostUnreadable - 1, 5 * mostUnreadable} {
			t.Run(fmt.Sprint(name, " ", n), func(t *testing.T) {
				t.Parallel()
				var dead atomic.Bool
				c := faultyRig(t, Options{}, func(op durabletest.Op) *durabletest.Fault {
					if dead.Load() && op.Kind == tc.kind && strings.HasPrefix(op.Name, "blobs/") && strings.Count(op.Name, "/") == 3 {
						return &durabletest.Fault{Err: tc.err}
					}
					return nil
				})
				stock(t, c, newOrigin(), n)
				dead.Store(true)
				if err := c.nothing(); !errors.Is(err, errUnread) {
					t.Error(err)
				}
			})
		}
	}
}

// TestVerifyDiskComesBack: what a disk has not given while it was away for a moment stays;
// also if it is away again just when that is looked at once more.
func TestVerifyDiskComesBack(t *testing.T) {
	t.Parallel()
	const n = 60
	for name, away := range map[string]func(read int) bool{
		"once":  func(read int) bool { return read < 2*(mostUnreadable-1) },
		"twice": func(read int) bool { return read < 10 || read > 10 && read <= 10+10+1 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var on atomic.Bool
			var reads atomic.Int32
			c := faultyRig(t, Options{}, func(op durabletest.Op) *durabletest.Fault {
				if on.Load() && op.Kind == "readat" && strings.HasPrefix(op.Name, "blobs/") && away(int(reads.Add(1)-1)) {
					return &durabletest.Fault{Err: syscall.EIO}
				}
				return nil
			})
			stock(t, c, newOrigin(), n)
			on.Store(true)
			if err := c.nothing(); err != nil {
				t.Error(err)
			}
			if n := int(reads.Load()); n < 60+2*15 && name == "once" {
				t.Errorf("%d reads", n)
			}
		})
	}
}

// TestVerifyDiesBetween: a disk that dies, or is unmounted, after it has given some loses
// nothing either.
func TestVerifyDiesBetween(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]error{"dies": syscall.EIO, "is unmounted": syscall.ENOENT} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var left atomic.Int32
			left.Store(1 << 30)
			c := faultyRig(t, Options{}, func(op durabletest.Op) *durabletest.Fault {
				if op.Kind == "open" && strings.HasPrefix(op.Name, "blobs/") && strings.Count(op.Name, "/") == 3 && left.Add(-1) < 0 {
					return &durabletest.Fault{Err: fault}
				}
				return nil
			})
			stock(t, c, newOrigin(), 10*mostUnreadable)
			left.Store(20)
			if err := c.nothing(); !errors.Is(err, errUnread) {
				t.Error(err)
			}
		})
	}
}

// TestVerifyNoMemory: that there is too little memory to read says nothing of a file.
func TestVerifyNoMemory(t *testing.T) {
	t.Parallel()
	var fail atomic.Bool
	c := faultyRig(t, Options{}, func(op durabletest.Op) *durabletest.Fault {
		if op.Kind == "readat" && fail.Load() {
			return &durabletest.Fault{Err: syscall.ENOMEM}
		}
		return nil
	})
	ds := stock(t, c, newOrigin(), 1)
	rec, _ := c.findStored(ds[0])
	fail.Store(true)
	e, buf := newExam(rec), make([]byte, mib)
	if n, over, bad := c.step(e, buf); n != 0 || over || bad != nil {
		t.Errorf("%d, %v, %+v", n, over, bad)
	}
	fail.Store(false)
	if n, over, bad := c.step(e, buf); n != 2000 || !over || bad != nil || !e.right {
		t.Errorf("afterwards: %d, %v, %+v", n, over, bad)
	}
}

// TestVerifyBadFolder: a folder that gives nothing is told of, nothing in it is dropped,
// and what is damaged behind it is found.
func TestVerifyBadFolder(t *testing.T) {
	t.Parallel()
	var bad atomic.Bool
	c := faultyRig(t, Options{}, func(op durabletest.Op) *durabletest.Fault {
		if bad.Load() && (op.Kind == "open" || op.Kind == "readdir") && strings.HasPrefix(op.Name, "blobs/sha256/40") {
			return &durabletest.Fault{Err: syscall.EIO}
		}
		return nil
	})
	o := newOrigin()
	var last oci.Digest
	n, behind := 0, 0
	for i := 0; n < 20 || behind < 5; i++ {
		data := fmt.Appendf(nil, "blob %d", i)
		switch hex := oci.FromBytes(data).Hex(); {
		case strings.HasPrefix(hex, "40") && n < 20:
			n++
			c.want(o.repo("library/app"), o.put(data), OutcomeMiss)
		case hex > "80" && behind < 5:
			behind++
			last = o.put(data)
			c.want(o.repo("library/app"), last, OutcomeMiss)
		}
	}
	c.idle()
	c.checkpoint()
	must(t, c.o.fs.Remove("blobs/sha256/"+last.Hex()[:2]+"/"+last.Hex()))
	bad.Store(true)
	before, found := c.Stats().Blobs, map[string]bool{}
	_, err := c.Verify(t.Context(), Verification{Found: func(f Finding) { found[f.Digest] = true }, Progress: func(VerifyProgress) {}})
	if !errors.Is(err, errUnread) || !errors.Is(err, syscall.EIO) || len(found) != 1 || !found[last.String()] || c.Stats().Blobs != before-1 {
		t.Errorf("%v, found %v, %d blobs of %d are left", err, found, c.Stats().Blobs, before)
	}
}

// TestVerifyRemoved: what somebody has removed is found, however much it is.
func TestVerifyRemoved(t *testing.T) {
	t.Parallel()
	c := open(t, Options{Limit: 1 << 30})
	ds := stock(t, c, newOrigin(), 5*mostUnreadable)
	slices.SortFunc(ds, func(a, b oci.Digest) int { return strings.Compare(a.Hex(), b.Hex()) })
	for _, d := range ds[1:] {
		must(t, os.Remove(c.fileOf(d)))
	}
	if found := c.verify(nil); len(found) != len(ds)-1 {
		t.Errorf("%d findings", len(found))
	}
}
