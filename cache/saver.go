package cache

import (
	"context"
	"errors"
	"fmt"
	"math"

	"cistern/cache/blob"
)

// saveStep is how much of a large fill is put on stable storage at a time, so that
// it can be gone on with after a power cut. Less is fetched anew sooner than it
// would be worth the fsyncs.
const saveStep = 16 << 20

// saver puts a growing fill on stable storage, step by step, beside its writing:
// nothing waits for an fsync. It is for one goroutine, which calls wait before it
// ends the fill.
type saver struct {
	in   *blob.Ingest
	due  int64      // where the next step begins
	done chan error // of the one that runs; nil if none does
}

// step begins the next one if it is due. It gives the error of the one before:
// what is in the file is unknown then.
func (s *saver) step(size int64) error {
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
	if s.in.Front() < s.due || size < 0 {
		return nil
	}
	if err := s.in.Track(size); err != nil {
		return err
	}
	s.due = s.in.Front() + saveStep
	s.done = make(chan error, 1)
	go func() {
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
		s.due = math.MaxInt64
		return nil
	}
	return err
}
