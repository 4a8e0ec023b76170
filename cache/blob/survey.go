package blob

import (
	"encoding/hex"
	"errors"
	"io/fs"
	"iter"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"cistern/internal/durable"
	"cistern/internal/oci"
)

// survey counts at Open what lies in the directory, blobs aside: they are in
// Options.Used. What is not ours is left alone.
func (s *Store) survey() error {
	entries, err := s.fs.ReadDir(".")
	if err != nil {
		return diskError("list", err)
	}
	for _, e := range entries {
		if fi, err := e.Info(); err == nil && !strings.HasPrefix(e.Name(), indexName) && !e.IsDir() {
			s.countBeside(e.Name(), durable.Allocated(fi))
		}
	}
	for _, tree := range []string{fillsDir, blobsDir} {
		if err := s.surveyTree(tree); err != nil {
			return diskError("look through "+tree, err)
		}
	}
	if err := s.surveyAside(); err != nil {
		return diskError("look through "+asideDir, err)
	}
	for d, k := range s.kept {
		if k.pieces {
			k.allocated = s.sparseAllocated(d, k.allocated)
			s.kept[d] = k
		}
		s.ledger.addUsed(k.allocated, false)
		s.ledger.found(k.allocated)
	}
	return nil
}

// sparseAllocated is what a fill with piece state takes: less than its length says. As
// much as that where it cannot be told.
func (s *Store) sparseAllocated(d oci.Digest, most int64) int64 {
	fi, err := s.fs.Lstat(place(fillsDir, d))
	if err != nil {
		return most
	}
	ps, err := s.loadPieces(d)
	if ps == nil || err != nil {
		return most
	}
	return most - s.allocated(fi) + s.allocatedOf(fi, ps.bytes())
}

func (s *Store) surveyTree(tree string) error {
	s.lookAt(tree)
	// An earlier process may have made folders that it never came to sync.
	for _, dir := range []string{".", tree, tree + "/sha256", tree + "/sha512"} {
		s.unsynced[dir] = true
	}
	return s.shards(tree, func(alg, shard string) error {
		dir := path.Join(tree, alg, shard)
		s.lookAt(dir)
		if tree == blobsDir {
			s.shardsSeen = true
			return nil
		}
		return s.files(dir, func(d oci.Digest, fi fs.FileInfo) {
			k := s.keptAs(fi)
			if strings.HasSuffix(fi.Name(), sideSuffix) {
				k.size, k.pieces, k.public = 0, true, false
			}
			s.kept[d] = s.kept[d].and(k)
		})
	})
}

// and is the two files of one fill together, in whatever order they are met.
func (k keptFile) and(other keptFile) keptFile {
	k.size, k.allocated = k.size+other.size, k.allocated+other.allocated
	k.public, k.pieces = k.public || other.public, k.pieces || other.pieces
	if other.touched.After(k.touched) {
		k.touched = other.touched
	}
	return k
}

// shards calls f for each shard folder of a tree; a tree that is missing has none.
func (s *Store) shards(tree string, f func(alg, shard string) error) error {
	for _, alg := range []string{"sha256", "sha512"} {
		entries, err := s.fs.ReadDir(path.Join(tree, alg))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		s.lookAt(path.Join(tree, alg))
		for _, e := range entries {
			if !e.IsDir() || !isShard(e.Name()) {
				s.counters.foreign.Add(1)
				continue
			}
			if err := f(alg, e.Name()); err != nil {
				return err
			}
		}
	}
	return nil
}

func isShard(name string) bool {
	return len(name) == 2 && strings.Trim(name, "0123456789abcdef") == ""
}

// files calls f for each file of a shard folder that is named as a blob, or in
// fills/ as the piece state of one.
func (s *Store) files(dir string, f func(oci.Digest, fs.FileInfo)) error {
	entries, err := s.fs.ReadDir(dir)
	if err != nil {
		return err
	}
	alg, shard := path.Base(path.Dir(dir)), path.Base(dir)
	for _, e := range entries {
		fi, err := e.Info()
		if err != nil {
			continue // gone since
		}
		name := e.Name()
		if strings.HasPrefix(dir, fillsDir) {
			name = strings.TrimSuffix(name, sideSuffix)
		}
		d, ok := digestOf(alg, shard, name)
		if !ok || !fi.Mode().IsRegular() {
			s.counters.foreign.Add(1)
			continue
		}
		f(d, fi)
	}
	return nil
}

// digestOf reads back what place has made, the folders of it and the name; false
// for anything else.
func digestOf(alg, shard, name string) (oci.Digest, bool) {
	sum, err := hex.DecodeString(name)
	d, ok := oci.FromSum(sum)
	return d, err == nil && ok && d.Algorithm() == alg && d.Hex() == name && name[:2] == shard
}

// Fills yields what lies in fills/ beyond the work of this process, with its
// size in bytes: fills that an earlier process left, and those put aside by
// Keep. It reads memory, not the disk, and what it yields may be promoted,
// resumed or removed meanwhile.
func (s *Store) Fills() iter.Seq2[oci.Digest, int64] {
	s.mu.Lock()
	kept := maps.Clone(s.kept)
	s.mu.Unlock()
	return func(yield func(oci.Digest, int64) bool) {
		for d, k := range kept {
			if !yield(d, k.size) {
				return
			}
		}
	}
}

// Untouched gives what Fills yields, as far as nobody has touched it since: it was
// not written to, going by its modification time, and this process did not go on
// with it. It reads memory, too.
func (s *Store) Untouched(since time.Time) (ds []oci.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for d, k := range s.kept {
		if k.touched.Before(since) {
			ds = append(ds, d)
		}
	}
	return ds
}

// Touched is when a fill that is kept was touched last, as Untouched has it; false
// if none is kept.
func (s *Store) Touched(d oci.Digest) (at time.Time, kept bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, kept := s.kept[d]
	return k.touched, kept
}

// Blobs walks blobs/ and yields the files of one folder after the other, in the
// order of their digests, with their sizes and allocated bytes: the raw material
// when the index was lost. A folder that cannot be read ends the walk with an
// error. What it yields is not counted unless it was in Options.Used: see AddUsed.
func (s *Store) Blobs() iter.Seq2[[]Found, error] {
	return func(yield func([]Found, error) bool) {
		stop := errors.New("enough")
		err := s.shards(blobsDir, func(alg, shard string) error {
			var here []Found
			err := s.files(path.Join(blobsDir, alg, shard), func(d oci.Digest, fi fs.FileInfo) {
				here = append(here, s.found(d, fi))
			})
			slices.SortFunc(here, func(a, b Found) int { return strings.Compare(a.Digest.String(), b.Digest.String()) })
			if len(here) > 0 && !yield(here, nil) {
				return stop
			}
			return err
		})
		if err != nil && !errors.Is(err, stop) {
			yield(nil, diskError("look through "+blobsDir, err))
		}
	}
}

// Found is a file met in blobs/.
type Found struct {
	Digest          oci.Digest
	Size, Allocated int64     // bytes
	Public          bool      // it was made by CreatePublic
	Made            time.Time // when it was written
	Lasting         bool      // on stable storage, see SyncAll
}

// lookAt counts what a folder takes now.
func (s *Store) lookAt(dir string) {
	fi, err := s.fs.Lstat(dir)
	if err != nil {
		return // it will be looked at again when something is put there
	}
	now := durable.Allocated(fi)
	s.mu.Lock()
	delta := now - s.folders[dir]
	s.folders[dir] = now
	s.mu.Unlock()
	if delta != 0 {
		s.ledger.addUsed(delta, true)
	}
}

// noteFolders counts folders just made and has Sync make their names durable.
func (s *Store) noteFolders(made []string) {
	for _, dir := range made {
		s.lookAt(dir)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, dir := range made {
		s.unsynced[path.Dir(dir)] = true
	}
}
