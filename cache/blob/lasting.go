package blob

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"runtime/debug"
	"slices"
	"sync"

	"cistern/internal/durable"
	"cistern/internal/oci"
)

const (
	// syncWorkers is how many fsyncs run at once: the file system groups them,
	// and syncfs, which would be one call, flushes strangers' data and cannot
	// name the file that failed.
	syncWorkers = 8
	// syncAtOnce is how many files are begun before the first is waited for: on
	// ext4, 512 of 64 KiB take five journal commits so instead of 130, and half
	// the time. Each is an open file meanwhile.
	syncAtOnce = 128
)

// Sync puts committed fills and their names on stable storage, so that a
// record of them may be written. It gives the error of each that failed: that
// one's content is unknown from now on, a second Sync would lie, Remove it.
// Blobs promoted already are fine. One Sync runs at a time.
//
//	open(file) fstat sync_file_range...   for each of up to 128: begins to write it
//	fsync close                           for each of these, eight at once
//	open(folder) fsync close              for each folder of theirs, and those above that got a new one
func (s *Store) Sync(ds []oci.Digest) map[oci.Digest]error {
	failed := map[oci.Digest]error{}
	var mu sync.Mutex // guards failed
	for part := range slices.Chunk(ds, syncAtOnce) {
		begun := make([]begunFill, len(part))
		for i, d := range part {
			begun[i] = s.beginFill(d)
		}
		each(begun, s.syncFill, func(b begunFill, err error) {
			mu.Lock()
			failed[b.d] = err
			mu.Unlock()
		})
	}
	byFolder := map[string][]oci.Digest{}
	for _, d := range ds {
		dir := path.Dir(place(fillsDir, d))
		byFolder[dir] = append(byFolder[dir], d)
	}
	var folders []string
	for dir := range byFolder {
		folders = append(folders, dir)
	}
	each(folders, s.syncFolder, func(dir string, err error) {
		mu.Lock()
		defer mu.Unlock()
		for _, d := range byFolder[dir] {
			failed[d] = errors.Join(failed[d], err)
		}
	})
	if err := s.syncParents(); err != nil {
		for _, d := range ds {
			failed[d] = errors.Join(failed[d], err)
		}
	}
	s.lookAgain(folders)
	return failed
}

// each runs f over all with eight workers and reports those that failed; a
// panic in f is an error of that one.
func each[T any](all []T, f func(T) error, report func(T, error)) {
	work := make(chan T)
	var wg sync.WaitGroup
	for range min(syncWorkers, len(all)) {
		wg.Go(func() {
			for t := range work {
				if err := calm(func() error { return f(t) }); err != nil {
					report(t, err)
				}
			}
		})
	}
	for _, t := range all {
		work <- t
	}
	close(work)
	wg.Wait()
}

func calm(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return f()
}

// SyncRemoved makes removals from blobs/ durable, so that the records of the
// removed may be deleted: a file that comes back after a power cut must not be
// one that nobody counts. It gives those whose folder failed.
//
//	open(folder) fsync close     for each folder of theirs
func (s *Store) SyncRemoved(ds []oci.Digest) map[oci.Digest]error {
	failed := map[oci.Digest]error{}
	var mu sync.Mutex // guards failed
	byFolder := map[string][]oci.Digest{}
	for _, d := range ds {
		dir := path.Dir(place(blobsDir, d))
		byFolder[dir] = append(byFolder[dir], d)
	}
	each(slices.Collect(maps.Keys(byFolder)), s.syncFolder, func(dir string, err error) {
		mu.Lock()
		defer mu.Unlock()
		for _, d := range byFolder[dir] {
			failed[d] = err
		}
	})
	return failed
}

// begunFill is a fill that is being written out. It counts as a reader: the
// file may be removed meanwhile, and takes its space until it is closed.
type begunFill struct {
	d    oci.Digest
	of   *opened
	file durable.File // nil if err is not
	err  error
}

func (s *Store) beginFill(d oci.Digest) begunFill {
	for {
		b := begunFill{d: d, of: s.opens.add(d)}
		b.err = calm(func() (err error) {
			b.file, err = durable.Begin(s.fs, place(fillsDir, d))
			return err
		})
		if b.err != nil || s.opens.stands(d, b.of) { // as OpenFile has it
			return b
		}
		_ = b.file.Close() // nothing was written
		s.drop(d, b.of)
	}
}

func (s *Store) syncFill(b begunFill) error {
	d, err := b.d, b.err
	defer s.drop(d, b.of)
	if err == nil {
		err = b.file.Sync()
		err = errors.Join(err, b.file.Close())
	}
	s.counters.filesSynced.Add(1)
	if errors.Is(err, fs.ErrNotExist) {
		if _, serr := s.fs.Lstat(place(blobsDir, d)); serr == nil {
			return nil // only what Sync let pass is promoted
		}
		return fmt.Errorf("sync fill %s: %w", d, err)
	}
	if err != nil {
		s.counters.syncFailures.Add(1)
	}
	return diskError("sync fill "+d.String(), err)
}

func (s *Store) syncFolder(dir string) error {
	err := s.fs.SyncDir(dir)
	s.counters.foldersSynced.Add(1)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // then so are its files, and they said so
	}
	if err != nil {
		s.counters.syncFailures.Add(1)
	}
	return diskError("sync folder "+dir, err)
}

// syncParents makes the names of folders made since the last time durable.
func (s *Store) syncParents() error {
	s.mu.Lock()
	dirs := s.unsynced
	s.unsynced = map[string]bool{}
	s.mu.Unlock()
	var err error
	// From above: a file that was renamed into a folder whose own name is not
	// durable yet could be lost with it.
	for _, dir := range slices.Sorted(maps.Keys(dirs)) {
		derr := s.syncFolder(dir)
		if derr != nil {
			s.mu.Lock()
			s.unsynced[dir] = true // nothing below it is to pass before it did
			s.mu.Unlock()
		}
		err = errors.Join(err, derr)
	}
	return err
}

// lookAgain counts the growth of the folders that changed.
func (s *Store) lookAgain(folders []string) {
	s.mu.Lock()
	looked := s.looked
	s.looked = map[string]bool{}
	s.mu.Unlock()
	for _, dir := range folders {
		looked[dir] = true
	}
	for dir := range looked {
		s.lookAt(dir)
	}
}

// Promote moves a recorded fill into blobs/. It is fine if it is there already,
// and fs.ErrNotExist if it is nowhere. It waits for no disk: after a crash the
// file is in one of the two places, and OpenFile looks in both.
//
//	rename(fills/.., blobs/..)
func (s *Store) Promote(d oci.Digest) error {
	from, to := place(fillsDir, d), place(blobsDir, d)
	err := s.withFolder(to, func() error { return s.fs.Rename(from, to) })
	if errors.Is(err, fs.ErrNotExist) {
		if _, serr := s.fs.Lstat(to); serr == nil {
			return nil
		}
		return fmt.Errorf("promote %s: %w", d, err)
	}
	if err != nil {
		return diskError("promote "+d.String(), err)
	}
	if kept := s.takeKept(d); kept > 0 {
		s.ledger.addUsed(-kept, false) // its record counts it
	}
	s.mu.Lock()
	s.looked[path.Dir(to)] = true
	s.mu.Unlock()
	return nil
}

// Remove unlinks a digest's file, in blobs/ or else in fills/, and gives its
// allocated bytes back, at once or when its last reader closes; readers are not
// disturbed. That there is no file is fine, and so is something else in its
// place, which may stay there. After an error, an ErrDisk, the file is there and
// counted as before. No Ingest of d may be running.
func (s *Store) Remove(d oci.Digest, allocated int64) error {
	rest, err := s.unlink(place(blobsDir, d))
	if errors.Is(err, fs.ErrNotExist) {
		if rest, err = s.unlink(place(fillsDir, d)); err == nil || errors.Is(err, fs.ErrNotExist) {
			allocated += s.takeKept(d)
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return diskError("remove "+d.String(), err)
	}
	s.giveBack(d, allocated, rest)
	return nil
}

// unlink removes a file; what cannot be one of ours and does not go, a full
// folder, or a file or link where the folder belongs, is as good as absent.
func (s *Store) unlink(name string) (*remnant, error) {
	rest, err := s.removeHolding(name)
	if foreign(err) {
		s.counters.foreign.Add(1)
		return nil, fmt.Errorf("%w: %s (%w)", ErrForeign, name, err)
	}
	return rest, err
}

// giveBack returns the space of an unlinked file, or leaves that to its readers.
func (s *Store) giveBack(d oci.Digest, allocated int64, rest *remnant) {
	allocated = max(allocated, 0)
	switch {
	case allocated == 0 && rest == nil:
	case s.opens.detach(d, allocated, rest):
		s.ledger.unlinked(allocated)
	default:
		rest.vacate()
		s.ledger.addUsed(-allocated, false)
	}
}
