package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"cistern/cache"
	"cistern/cache/blob"
	"cistern/cache/index"
)

// verifyFunc verifies, somewhere.
type verifyFunc func(ctx context.Context, v cache.Verification) (cache.VerifyProgress, error)

// verifyCommand is `cistern verify`.
func (a *app) verifyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "verify", Short: "Hash all that is cached, and say what is damaged; exit with 3 if anything is", Args: noArgs,
		Long: "Hash all that is cached, and say what is damaged; exit with 3 if anything is, repaired or not.\n" +
			"What is damaged is set aside in the folder damaged/ of the cache directory, and fetched again when it is asked for, or at once with --repair.\n" +
			"The running daemon does it, beside serving; with --cache-dir this process does, in a directory that no daemon uses.",
	}
	repair := cmd.Flags().Bool("repair", false, "fetch at once what is damaged")
	dir := cmd.Flags().String("cache-dir", "", "verify this `DIR`, without a daemon")
	output, connect := outputFlag(cmd), a.adminFlags(cmd)
	cmd.RunE = failing(func(cmd *cobra.Command, _ []string) error {
		switch {
		case *output != "" && *output != "json":
			return usageError("-o %s: only json is known", *output)
		case *repair && *dir != "":
			return usageError("--repair needs a daemon, which knows where blobs come from: start it, and leave --cache-dir out")
		case cmd.Flags().Changed("cache-dir"):
			return a.verify(*output, func(ctx context.Context, v cache.Verification) (cache.VerifyProgress, error) {
				return verifyDir(ctx, *dir, v)
			})
		}
		c, _, err := connect()
		if err != nil {
			return err
		}
		return a.verify(*output, func(ctx context.Context, v cache.Verification) (cache.VerifyProgress, error) {
			return c.Verify(ctx, *repair, v)
		})
	})
	return cmd
}

// verify shows how it goes, and what was found.
func (a *app) verify(output string, run verifyFunc) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	var found []cache.Finding
	repaired := 0
	enc := json.NewEncoder(a.stdout)
	show, end := a.showProgress()
	done, err := run(ctx, cache.Verification{Progress: show, Found: func(f cache.Finding) {
		if f.Repaired {
			repaired++
		}
		if output == "json" { // a line each, as they come
			_ = enc.Encode(f) // a closed pipe; nobody reads
		} else {
			found = append(found, f)
		}
	}})
	end()
	if len(found) > 0 {
		table(a.stdout, []string{"DIGEST", "SIZE", "UPSTREAM", "FIRST BAD BYTE", "WHAT", "THEN"}, findingRows(found))
	}
	if err != nil {
		return err
	}
	if output == "" {
		fmt.Fprintf(a.stdout, "%s blobs, %s on disk, were verified: %s\n", count(uint64(done.Blobs)), size(uint64(max(0, done.Bytes))), outcome(done.Findings, repaired))
	}
	if done.Findings > 0 {
		return &exitError{exitFound, errors.New("")}
	}
	return nil
}

func outcome(found int64, repaired int) string {
	if found == 0 {
		return "all are right"
	}
	return fmt.Sprintf("%s findings, %s of them repaired", count(uint64(found)), count(uint64(repaired)))
}

func findingRows(found []cache.Finding) (rows [][]string) {
	for _, f := range found {
		at := "unknown"
		if f.FirstBad >= 0 {
			at = strconv.FormatInt(f.FirstBad, 10)
		}
		rows = append(rows, []string{f.Digest, size(uint64(max(0, f.Size))), f.Upstream, at, f.What, f.Then})
	}
	return rows
}

// progressEvery is how often a line tells how far it is, where no person looks on.
const progressEvery = 10 * time.Second

// showProgress shows on standard error how far a verification has come: by a bar on a
// terminal, by a line now and then elsewhere.
func (a *app) showProgress() (show func(cache.VerifyProgress), end func()) {
	if f, ok := a.stderr.(*os.File); ok && isTerminal(f) {
		return bar(f)
	}
	told := time.Now()
	return func(p cache.VerifyProgress) {
		if time.Since(told) >= progressEvery {
			told = time.Now()
			fmt.Fprintf(a.stderr, "%s of %s blobs verified, %s of %s, %d findings\n", count(uint64(p.Blobs)), count(uint64(p.OfBlobs)),
				size(uint64(max(0, p.Bytes))), size(uint64(max(0, p.OfBytes))), p.Findings)
		}
	}, func() {}
}

func bar(to io.Writer) (show func(cache.VerifyProgress), end func()) {
	bars := mpb.New(mpb.WithOutput(to), mpb.WithWidth(40))
	b := bars.AddBar(0, mpb.BarRemoveOnComplete(),
		mpb.PrependDecorators(decor.CountersKibiByte("% .1f / % .1f")), mpb.AppendDecorators(decor.Percentage()))
	return func(p cache.VerifyProgress) {
			b.SetTotal(p.OfBytes, false)
			b.SetCurrent(min(p.Bytes, p.OfBytes))
		}, func() {
			b.Abort(true)
			bars.Wait()
		}
}

// verifyDir verifies a directory that no daemon uses.
func verifyDir(ctx context.Context, dir string, v cache.Verification) (done cache.VerifyProgress, err error) {
	fi, err := os.Stat(filepath.Join(dir, "VERSION"))
	if err != nil {
		return done, usageError("--cache-dir %s: no cache of cistern is there: %w", dir, err)
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
		return done, usageError("--cache-dir %s belongs to user %d, who could not use what others write there: run this as that user", dir, st.Uid)
	}
	c, err := cache.Open(cache.Options{Dir: dir})
	switch {
	case errors.Is(err, blob.ErrLocked), errors.Is(err, index.ErrLocked):
		return done, usageError("%w; to have the daemon verify it, leave --cache-dir out", err)
	case errors.Is(err, blob.ErrVersion), errors.Is(err, index.ErrVersion):
		return done, usageError("--cache-dir %s: %w", dir, err)
	}
	if err != nil {
		return done, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	return c.Verify(ctx, v)
}
