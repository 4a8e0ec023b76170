package cache

import (
	"cmp"
	"context"
	"errors"
	"time"

	"cistern/cache/blob"
	"cistern/cache/index"
	"cistern/internal/oci"
)

// Finding is a blob that was damaged, or a file without a record.
type Finding struct {
	Digest   string `json:"digest"`
	Size     int64  `json:"size"` // bytes, as its record says
	Upstream string `json:"upstream,omitempty"`
	What     string `json:"what"`
	FirstBad int64  `json:"first_bad_offset"`    // -1: not known
	SetAside string `json:"set_aside,omitempty"` // where it lies in the cache directory; "": it was too large, or there is nothing
	Then     string `json:"then"`                // what was done, or will be
	Repaired bool   `json:"repaired,omitempty"`
}

// VerifyProgress is how far a Verify has come, and how much there was when it began.
type VerifyProgress struct {
	Blobs    int64 `json:"blobs"`
	OfBlobs  int64 `json:"of_blobs"`
	Bytes    int64 `json:"bytes"` // on disk
	OfBytes  int64 `json:"of_bytes"`
	Findings int64 `json:"findings"`
}

// Verification is who wants to know. Neither function is called at the same time as the
// other, or after Verify has returned.
type Verification struct {
	// Repository is where a blob comes from, if it is to be fetched at once; false: its
	// upstream is not known any more. nil: nothing is fetched.
	Repository func(oci.Repository) (*Repository, bool)
	Found      func(Finding)
	Progress   func(VerifyProgress) // about once a second
}

// ErrVerifying says that one Verify runs.
var ErrVerifying = errors.New("the blobs are being verified for somebody else: wait until that has ended")

// verification is one Verify.
type verification struct {
	Verification
	c        *Cache
	progress VerifyProgress
	told     time.Time
	lost     map[oci.Digest]lost // to be repaired
}

// lost is a blob that is to be repaired.
type lost struct {
	Finding
	rec index.Record
}

// repairAt is how many damaged blobs do not wait for the end to be fetched: all tags are
// looked through for them.
const repairAt = 4096

// Verify hashes all blobs that are recorded, and looks for files without a record. What is
// damaged is set aside and, if the Verification says where to, fetched again. It goes as
// fast as it can while nobody is served, and else takes a sixteenth of a processor.
// It ends early with ctx. One runs at a time, and no scrub beside it.
func (c *Cache) Verify(ctx context.Context, o Verification) (VerifyProgress, error) {
	if c.store == nil {
		return VerifyProgress{}, errors.New(c.Stats().Degraded)
	}
	if !c.begin() {
		return VerifyProgress{}, errClosed
	}
	defer c.work.Done()
	if !c.scrubbed.verifying.CompareAndSwap(false, true) {
		return VerifyProgress{}, ErrVerifying
	}
	defer c.scrubbed.verifying.Store(false)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()
	v := verification{Verification: o, c: c, lost: map[oci.Digest]lost{}}
	err := v.run(ctx)
	if c.ctx.Err() != nil {
		err = errClosed
	}
	return v.progress, err
}

func (v *verification) run(ctx context.Context) error {
	c := v.c
	if err := c.rebuilt(ctx); err != nil {
		return err
	}
	if c.writable() {
		c.checkpoint() // what has come is recorded
	}
	v.progress.OfBlobs, v.progress.OfBytes = c.idx.Load().Totals().Sum()
	v.Progress(v.progress)
	v.disowned()
	w := walk{c: c}
	err := v.hash(ctx, &w)
	if err == nil && !w.stopped {
		err = v.strays(ctx)
	}
	v.repair(ctx) // what was set aside by then is told in any case
	v.Progress(v.progress)
	return errors.Join(w.err, cmp.Or(err, ctx.Err()))
}

// hash looks at one blob after the other.
func (v *verification) hash(ctx context.Context, w *walk) error {
	buf := v.c.spans.Get().(*[span]byte)
	defer v.c.spans.Put(buf)
	for {
		e, err := w.next()
		if e == nil || err != nil {
			return err
		}
		bad, err := v.look(ctx, e, buf[:])
		if err != nil {
			return err
		}
		v.sure(w.took(e, bad))
		if len(v.lost) >= repairAt {
			v.repair(ctx)
		}
		if !e.second {
			v.progress.Blobs++
			v.progress.Bytes += e.rec.Allocated
		}
		v.tell()
	}
}

// While somebody is served, who reads all there is takes small bites, since a hit that comes
// meanwhile waits for its processor, and rests many times as long as it works.
const (
	bite       = 64 << 10
	politeness = 15
)

// manners are how much to read at once, and how many times as long to rest then.
func (v *verification) manners() (size int, rest time.Duration) {
	if v.c.active() {
		return bite, politeness
	}
	return span, 0
}

// look hashes one blob.
func (v *verification) look(ctx context.Context, e *exam, buf []byte) (*flaw, error) {
	for {
		size, rest := v.manners()
		began := time.Now()
		n, over, bad := v.c.step(e, buf[:size])
		v.c.scrubbed.bytes.Add(uint64(n))
		wait := rest * time.Since(began)
		if n == 0 && !over {
			wait = time.Second // no descriptor at the moment
		}
		v.tell()
		if err := waitFor(ctx, wait); over || err != nil {
			return bad, err
		}
	}
}

// waitFor waits, unless ctx ends.
func waitFor(ctx context.Context, d time.Duration) error {
	if d == 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (v *verification) tell() {
	if time.Since(v.told) >= time.Second {
		v.told = time.Now()
		v.Progress(v.progress)
	}
}

// sure sets aside what is damaged, and says so, or puts it down to be repaired.
func (v *verification) sure(all []damage) {
	for _, d := range all {
		f := d.finding()
		gone := v.c.spoil(d.rec, d.flaw)
		f.SetAside = v.c.store.Aside(d.rec.Digest)
		switch {
		case !gone && !v.c.still(d.rec):
			continue // it went meanwhile, or a hit has found it, too
		case !gone:
			f.Then = "it cannot be set aside: the disk does not let it go"
		case v.Repository == nil:
			f.Then = "fetched again at the next pull"
		default:
			v.lost[d.rec.Digest] = lost{f, d.rec}
			continue
		}
		v.found(f)
	}
}

// still tells whether a record stands.
func (c *Cache) still(rec index.Record) bool {
	_, stands := c.current(rec)
	return stands
}

func (v *verification) found(f Finding) {
	v.progress.Findings++
	v.Found(f)
}

func (d damage) finding() Finding {
	return Finding{Digest: d.rec.Digest.String(), Size: d.rec.Size, Upstream: d.rec.Origin, What: d.err.Error(), FirstBad: d.off}
}

// rebuilt waits until each file has its record, where an index is built anew.
func (c *Cache) rebuilt(ctx context.Context) error {
	for c.rebuild.on.Load() {
		if err := waitFor(ctx, proveSoon); err != nil {
			return err
		}
	}
	return nil
}

// strays finds files without a record. Each is proven, as after the loss of an index, and
// recorded, set aside or left where it is.
func (v *verification) strays(ctx context.Context) error {
	c := v.c
	began := time.Now()
	for folder, err := range c.store.Blobs() {
		if err == nil && c.active() {
			err = waitFor(ctx, politeness*time.Since(began))
		}
		if err != nil {
			return cmp.Or(ctx.Err(), err)
		}
		began = time.Now()
		for i, known := range c.known(folder) {
			if known {
				continue
			}
			if err := v.stray(ctx, folder[i]); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

// stray looks at a file that was met without a record.
func (v *verification) stray(ctx context.Context, f blob.Found) error {
	c, d := v.c, f.Digest
	// An index that broke has all files taken up, and this one with them.
	if err := cmp.Or(c.rebuilt(ctx), ctx.Err()); err != nil {
		return err
	}
	if !c.claim(d) {
		return nil // it has come since the folder was read, or goes
	}
	f, lies := c.store.Lying(d)
	_, here := c.findStored(d)
	if lies && !here && c.writable() {
		c.count(f)
	}
	c.release(d)
	if !lies || here {
		return nil
	}
	found := Finding{Digest: d.String(), Size: f.Size, What: "its file has no record", FirstBad: unknown}
	if !c.writable() {
		found.Then = "left alone: nothing can be written"
		v.found(found)
		return nil
	}
	for wait := proveSoon; !c.proveOne(f); wait = min(2*wait, proveAgain) {
		if err := waitFor(ctx, wait); err != nil {
			return err
		}
	}
	v.disowned()
	if _, here = c.findStored(d); here {
		found.Then, found.Repaired = "recorded: its bytes are those of its name", true
		v.found(found)
	} else if why, _ := c.rebuild.unfit.has(d); why != nil {
		found.Then = "left alone: " + why.Error()
		v.found(found)
	}
	return nil
}
