package blob

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"syscall"

	"cistern/internal/durable"
	"cistern/internal/oci"
)

// unprovenName is a file that is there while blobs/ may hold files without a
// record: whoever opens the directory next goes on with what it finds.
const unprovenName = "rebuild"

// Unproven tells whether blobs/ may hold files that nobody has a record of:
// because an earlier process lost its index and did not come to the end of
// building a new one, or because the directory is a copy of another.
func (s *Store) Unproven() bool {
	if s.moved {
		return true
	}
	_, err := s.fs.Lstat(unprovenName)
	return err == nil
}

// MarkUnproven notes durably that blobs/ may hold files without a record. It
// comes before whatever loses the records: an index made anew knows nothing of
// what lies here.
func (s *Store) MarkUnproven() error {
	if _, err := s.fs.Lstat(unprovenName); err == nil {
		return nil
	}
	return diskError("mark that blobs are to be recorded", durable.WriteFile(s.fs, unprovenName, nil))
}

// AllProven takes the mark away: each file in blobs/ has a record by now.
func (s *Store) AllProven() error {
	return diskError("note that all blobs are recorded", durable.RemoveDurable(s.fs, unprovenName))
}

// Holds tells whether there is anything in blobs/ at all, cheaply.
func (s *Store) Holds() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shardsSeen
}

// Demote moves a file from blobs/, where it lies without a record, to fills/,
// as if an earlier fill had left it there: Resume goes on with it. Its bytes
// must be counted as used (AddUsed), and stay so. fs.ErrNotExist if there is
// none.
//
//	rename(blobs/.., fills/..)
func (s *Store) Demote(d oci.Digest) error {
	from, to := place(blobsDir, d), place(fillsDir, d)
	fi, err := s.fs.Lstat(from)
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return diskError("demote "+d.String(), err)
	case err != nil || !fi.Mode().IsRegular():
		return fmt.Errorf("demote %s: %w", d, fs.ErrNotExist)
	}
	if err := s.withFolder(to, func() error { return s.fs.Rename(from, to) }); err != nil {
		return diskError("demote "+d.String(), err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept[d] = s.keptAs(fi)
	return nil
}

// Lying describes the file of a digest in blobs/; false if there is none.
func (s *Store) Lying(d oci.Digest) (Found, bool) {
	fi, err := s.fs.Lstat(place(blobsDir, d))
	if err != nil || !fi.Mode().IsRegular() {
		return Found{}, false
	}
	return s.found(d, fi), true
}

// Left is the size of the file of a digest in fills/, of a fill that is under way
// or of an earlier one; 0 if there is none, or if it may have holes.
func (s *Store) Left(d oci.Digest) int64 {
	fi, err := s.fs.Lstat(place(fillsDir, d))
	if err != nil || !fi.Mode().IsRegular() {
		return 0
	}
	if _, err := s.fs.Lstat(sidePlace(d)); err == nil {
		return 0
	}
	return fi.Size()
}

// RemoveLying is Remove for a file in blobs/ that has no record; what lies in
// fills/ stays.
func (s *Store) RemoveLying(d oci.Digest, allocated int64) error {
	rest, err := s.unlink(place(blobsDir, d))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return diskError("remove "+d.String(), err)
	}
	s.giveBack(d, allocated, rest)
	return nil
}

func (s *Store) found(d oci.Digest, fi fs.FileInfo) Found {
	f := Found{Digest: d, Size: fi.Size(), Allocated: s.allocated(fi), Public: fi.Mode()&fs.ModeSticky != 0, Made: fi.ModTime()}
	if synced, changed := s.synced.Load(), durable.Changed(fi); synced != nil && !changed.IsZero() {
		f.Lasting = changed.Before(*synced)
	}
	return f
}

// SyncAll puts all that lies in blobs/ on stable storage. A file there without a
// record may have come from anywhere, and fsync of each asks the device to flush
// its cache a million times. What is Found from here on, and has not changed
// since, is Lasting. Where it fails nothing is, and each file is for SyncLying.
//
// When it began, a file of our own says: the clock is the file system's.
//
//	open(rebuild.tmp) fsync close rename(rebuild)
//	open(folder) fsync close
//	syncfs
func (s *Store) SyncAll() error {
	if err := durable.WriteFile(s.fs, unprovenName, nil); err != nil {
		return diskError("mark when blobs are synced", err)
	}
	fi, err := s.fs.Lstat(unprovenName)
	if err == nil {
		err = s.fs.SyncAll()
	}
	if err != nil {
		return diskError("sync all blobs", err)
	}
	began := durable.Changed(fi)
	s.synced.Store(&began)
	return nil
}

// SyncLying puts a file in blobs/ on stable storage, and its name.
//
//	open(file) fsync close
//	open(folder) fsync close
func (s *Store) SyncLying(d oci.Digest) error {
	name := place(blobsDir, d)
	err := durable.SyncFile(s.fs, name)
	s.counters.filesSynced.Add(1)
	if err != nil {
		s.counters.syncFailures.Add(1)
		return diskError("sync blob "+d.String(), err)
	}
	return s.syncFolder(path.Dir(name))
}

// identity tells this directory from a copy of it: the inode of the lock file,
// which a copy has its own of. A file system that gives no lasting numbers makes
// every start look like a copy's, which costs a walk and is safe.
func (s *Store) identity() string {
	fi, err := s.fs.Lstat(lockName)
	if err != nil {
		return ""
	}
	return inode(fi)
}

// boot names the kernel's boot and the device below the directory: a snapshot,
// on another device, has our inodes and not what we wrote last.
func (s *Store) boot() string {
	id := s.bootID
	if fi, err := s.fs.Lstat(lockName); err == nil {
		if st, ok := fi.Sys().(*syscall.Stat_t); ok {
			id += "@" + strconv.FormatUint(st.Dev, 10)
		}
	}
	return id
}

// Moved tells whether the directory is not the one that the last process here
// has settled in, but a copy.
func (s *Store) Moved() bool { return s.moved }

func inode(fi fs.FileInfo) string {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	return strconv.FormatUint(st.Ino, 10)
}
