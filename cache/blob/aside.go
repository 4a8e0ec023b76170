package blob

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"cistern/internal/durable"
	"cistern/internal/oci"
)

// What was damaged lies in damaged/ for a person to look at: the last few, of a share of
// the cap, which they count against.
const (
	asideDir   = "damaged"
	asideMost  = 16
	asideShare = 20      // of the cap: one in so many bytes
	asideBytes = 1 << 30 // where there is none
)

// asides are the damaged files.
type asides struct {
	mu  sync.Mutex // guards all below, and held while one of the files is moved or removed; before Store.mu
	all []aside    // the oldest first
}

// aside is one damaged file.
type aside struct {
	d         oci.Digest
	allocated int64
	of        *opened // who read it when it was set aside; nil: nobody
	at        time.Time
}

// asidePlace is flat: there are few, and people look there.
func asidePlace(d oci.Digest) string { return asideDir + "/" + d.Algorithm() + "-" + d.Hex() }

// asideMax is what they may take together.
func (s *Store) asideMax() int64 {
	if s.ledger.limit == 0 {
		return asideBytes
	}
	return s.ledger.limit / asideShare
}

// SetAside is Remove for a file that is damaged: it is moved into damaged/, where it
// counts as used until others push it out or DropAside takes it; readers are not
// disturbed. What is too large for that, or cannot be moved, is removed.
//
//	fstatat rename(blobs/.., damaged/..)
func (s *Store) SetAside(d oci.Digest, allocated int64) error {
	s.asides.mu.Lock()
	defer s.asides.mu.Unlock()
	from, fi := s.fileOf(d)
	if fi == nil || s.allocated(fi) > s.asideMax() {
		return s.Remove(d, allocated)
	}
	for i, a := range s.asides.all {
		if a.d != d {
			continue
		}
		if err := s.dropAside(i); err != nil {
			return s.Remove(d, allocated)
		}
		break
	}
	to := asidePlace(d)
	if err := s.withFolder(to, func() error { return s.fs.Rename(from, to) }); err != nil {
		return s.Remove(d, allocated)
	}
	if strings.HasPrefix(from, fillsDir) {
		allocated += s.takeKept(d)
	}
	a := aside{d: d, allocated: s.allocated(fi), of: s.opens.part(d), at: time.Now()}
	s.asides.all = append(s.asides.all, a)
	s.ledger.addUsed(a.allocated-max(allocated, 0), false)
	s.trimAsides()
	return nil
}

// fileOf finds the file of a digest, as Remove does; nil if there is none of ours.
func (s *Store) fileOf(d oci.Digest) (name string, fi fs.FileInfo) {
	for _, tree := range []string{blobsDir, fillsDir} {
		name := place(tree, d)
		if fi, err := s.fs.Lstat(name); err == nil && fi.Mode().IsRegular() {
			return name, fi
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", nil // something else is there, or the disk does not say
		}
	}
	return "", nil
}

// trimAsides drops the oldest of what is too much. asides.mu is held.
func (s *Store) trimAsides() {
	sum := int64(0)
	for _, a := range s.asides.all {
		sum += a.allocated
	}
	for n := len(s.asides.all); n > 0 && (n > asideMost || sum > s.asideMax()); n-- {
		first := s.asides.all[0].allocated
		if s.dropAside(0) != nil {
			return
		}
		sum -= first
	}
}

// DropAside removes the oldest of what is set aside, for its space; false if there is
// none, or if it does not go.
func (s *Store) DropAside() bool {
	s.asides.mu.Lock()
	defer s.asides.mu.Unlock()
	return len(s.asides.all) > 0 && s.dropAside(0) == nil
}

// dropAside removes the i-th; asides.mu is held. One that somebody else has taken is gone,
// too.
func (s *Store) dropAside(i int) error {
	a := s.asides.all[i]
	rest, err := s.unlink(asidePlace(a.d))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return diskError("remove what is set aside of "+a.d.String(), err)
	}
	s.asides.all = slices.Delete(s.asides.all, i, i+1)
	if s.opens.leave(a.of, a.allocated, rest) {
		s.ledger.unlinked(a.allocated)
		return nil
	}
	rest.vacate()
	s.ledger.addUsed(-a.allocated, false)
	return nil
}

// Aside is the name, in the directory, of what is set aside of a digest; "" if nothing is.
func (s *Store) Aside(d oci.Digest) string {
	s.asides.mu.Lock()
	defer s.asides.mu.Unlock()
	if !slices.ContainsFunc(s.asides.all, func(a aside) bool { return a.d == d }) {
		return ""
	}
	return asidePlace(d)
}

// OpenAside opens what is set aside of a digest; fs.ErrNotExist if nothing is. It is not
// to be held for long: its space counts as given back once it is dropped.
func (s *Store) OpenAside(d oci.Digest) (durable.File, int64, error) {
	f, fi, err := s.openRegular(asidePlace(d), os.O_RDONLY)
	if err != nil {
		return nil, 0, err
	}
	return f, fi.Size(), nil
}

// surveyAside counts at Open what earlier processes have set aside, and drops what the
// cap has no room for any more.
func (s *Store) surveyAside() error {
	entries, err := s.fs.ReadDir(asideDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if foreign(err) {
		s.counters.foreign.Add(1)
		return nil
	}
	if err != nil {
		return err
	}
	s.lookAt(asideDir)
	for _, e := range entries {
		fi, err := e.Info()
		if err != nil {
			continue // gone since
		}
		alg, hex, _ := strings.Cut(e.Name(), "-")
		d, ok := digestOf(alg, hex[:min(len(hex), 2)], hex)
		if !ok || !fi.Mode().IsRegular() {
			s.counters.foreign.Add(1)
			continue
		}
		s.asides.all = append(s.asides.all, aside{d: d, allocated: s.allocated(fi), at: durable.Changed(fi)})
		s.ledger.addUsed(s.allocated(fi), false)
	}
	slices.SortFunc(s.asides.all, func(a, b aside) int { return a.at.Compare(b.at) })
	if !s.readOnly {
		s.trimAsides()
	}
	return nil
}

// part takes a generation out, without a word to its uses; nil if there are none.
func (o *opens) part(d oci.Digest) *opened {
	o.mu.Lock()
	defer o.mu.Unlock()
	of := o.m[d]
	delete(o.m, d)
	return of
}

// leave hands allocated bytes and rest to the uses of a generation that was taken out;
// false if there are none any more.
func (o *opens) leave(of *opened, allocated int64, rest *remnant) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if of == nil || of.uses == 0 {
		return false
	}
	of.evicted, of.rest = of.evicted+allocated, rest
	return true
}
