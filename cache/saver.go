package cache

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"cistern/cache/blob"
)

// A large fill is put on stable storage step by step, so that it can be gone on with
// after a power cut. What is less, or has come in less time, is fetched anew sooner
// than it would be worth the checksums and fsyncs.
const (
	saveStep  = 16 << 20
	saveEvery = 2 * time.Second
)

// saver puts a growing fill on stable storage, step by step, beside its writing:
// nothing waits for an fsync. It is for one goroutine, which calls wait before it
// ends the fill.
type saver struct {
	in   *blob.Ingest
	due  atomic.Int64 // with how many bytes the next step begins
	last time.Time    // when the one before began, or the fill did
	over func()       // called when one has ended
	done chan error   // of the one that runs; nil if none does
}

// step begins the next one if it is due, have of size bytes being there. It gives the error
// of the one before: what is in the file is unknown then.
func (s *saver) step(have, size int64) error {
	if s.done != nil {
		select {
		case err := <-s.done:
			s.done = nil
			if err = s.judge(err); err != nil {
				return err
			}
		default:
			return nil
		}
	}
	if have < s.due.Load() || size < 0 {
		return nil
	}
	if time.Since(s.last) < saveEvery {
		s.due.Store(have + blob.PieceSize) // look again then
		return nil
	}
	s.last = time.Now()
	s.in.Track(size)
	s.due.Store(have + saveStep)
	s.done = make(chan error, 1)
	go func() {
		defer s.over()
		defer func() {
			if p := recover(); p != nil {
				s.done <- fmt.Errorf("syncing a fill: panic: %v", p)
			}
		}()
		// Whoever stops the fill keeps it: the step runs to its end.
		s.done <- s.in.SyncPieces(context.Background())
	}()
	return nil
}

// runs tells whether a step is under way.
func (s *saver) runs() bool { return s.done != nil }

// wait ends the step that runs and gives its error.
func (s *saver) wait() error {
	if s.done == nil {
		return nil
	}
	err := <-s.done
	s.done = nil
	return s.judge(err)
}

// judge tells what a failed step means: where there was no room to note what is
// there, the fill goes on without.
func (s *saver) judge(err error) error {
	if errors.Is(err, blob.ErrNoSpace) {
		s.due.Store(math.MaxInt64)
		return nil
	}
	return err
}
