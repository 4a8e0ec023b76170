package command

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"cistern/bench/origin"
	"cistern/bench/peer"
)

func upstreamCommand() *cobra.Command {
	var o origin.Options
	c := &cobra.Command{
		Use:   "upstream",
		Short: "Serve the synthetic registry; prints its addresses as JSON",
		Long: `Serve the synthetic registry on free loopback ports and print them as one line of
JSON: registry, cdn (where blobs are redirected to) and control.

Images of any shape exist already: the last part of a repository's name says which
layers it has (any/1x64m, any/6x48m, any/1x30m-2x512k), and each tag is another
image. A tag that begins with "multi" is an index of two platforms.

The control address: GET /counters, POST /reset, POST /link {"rtt":ns,"total":B/s,
"per_connection":B/s}, POST /faults [{"kind":"blob","action":"cut","at":1000,"times":1}],
and the registry itself under /v2/, unshaped and uncounted.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := origin.Start(o)
			if err != nil {
				return err
			}
			err = json.NewEncoder(cmd.OutOrStdout()).Encode(peer.Addresses{Registry: s.Registry(), CDN: s.CDN(), Control: s.Control()})
			if err != nil {
				return fmt.Errorf("printing the addresses: %w", err)
			}
			<-cmd.Context().Done()
			return s.Close()
		},
	}
	f := c.Flags()
	f.Uint64Var(&o.Seed, "seed", 1, "the content: the same seed makes the same digests")
	f.StringVar(&o.DigestCache, "digest-cache", "", "file that keeps computed digests between runs")
	f.BoolVar(&o.Auth, "auth", false, "want bearer tokens")
	f.StringVar(&o.Username, "username", "", "what the token service wants (anonymous without it)")
	f.StringVar(&o.Password, "password", "", "the password to it")
	f.BoolVar(&o.Redirect, "redirect", false, "redirect blobs to the cdn address")
	f.IntVar(&o.RateLimit, "rate-limit", 0, "announce a pull limit (never enforced)")
	f.DurationVar(&o.Link.RTT, "rtt", 0*time.Millisecond, "round trip before each answer")
	f.Int64Var(&o.Link.Total, "bandwidth", 0, "bytes a second of all connections together (0: no limit)")
	f.Int64Var(&o.Link.PerConnection, "connection-bandwidth", 0, "bytes a second of each connection (0: no limit)")
	return c
}

func filesCommand() *cobra.Command {
	var listen, dir string
	c := &cobra.Command{
		Use:   "files",
		Short: "Serve a folder with a bare http.FileServer",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return serve(cmd.Context(), listen, peer.FilesHandler(dir))
		},
	}
	c.Flags().StringVar(&listen, "listen", "127.0.0.1:0", "address")
	c.Flags().StringVar(&dir, "dir", ".", "folder")
	return c
}

func floorCommand() *cobra.Command {
	var listen, dir, upstream string
	c := &cobra.Command{
		Use:   "floor",
		Short: "Serve the naive caching proxy that others are compared with",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return serve(cmd.Context(), listen, peer.FloorHandler(dir, upstream))
		},
	}
	c.Flags().StringVar(&listen, "listen", "127.0.0.1:0", "address")
	c.Flags().StringVar(&dir, "dir", ".", "folder of the cache")
	c.Flags().StringVar(&upstream, "upstream", "", "base URL of the registry")
	return c
}
