package command

import (
	"errors"
	"fmt"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"cistern/bench/crowd"
)

func populateCommand() *cobra.Command {
	var dir string
	var spec crowd.Spec
	c := &cobra.Command{
		Use:   "populate",
		Short: "Make a cache directory of very many small blobs, without an index",
		Long: `Make a cache directory of very many blobs in DIR/cache, for a daemon to adopt, and the
list of their digests in DIR/list. The same seed makes the same blobs: mostly manifests,
configs and tiny layers, a few up to 1 MiB; a million take 8 GB. What is there is kept.`,
		Example: "  cistern-bench populate --dir /var/tmp/many --blobs 1000000\n  cistern serve --cache-dir /var/tmp/many/cache",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dir == "" {
				return errors.New("--dir is needed")
			}
			members, w, err := crowd.Home{Dir: dir}.Populate(cmd.Context(), spec, func(done int) {
				fmt.Fprintf(cmd.ErrOrStderr(), "%d of %d\n", done, spec.Blobs)
			})
			if err != nil {
				return err
			}
			if w.Blobs == 0 {
				fmt.Fprintf(cmd.OutOrStdout(), "%d blobs are there already\n", len(members))
				return nil
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%d blobs, %s, %s allocated, in %s: %.0f/s\n", w.Blobs, humanize.IBytes(uint64(w.Bytes)),
				humanize.IBytes(uint64(w.Allocated)), w.Took.Round(time.Millisecond), float64(w.Blobs)/w.Took.Seconds())
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&dir, "dir", "", "folder to make it in")
	f.IntVar(&spec.Blobs, "blobs", 1_000_000, "how many")
	f.Uint64Var(&spec.Seed, "seed", 1, "which")
	return c
}
