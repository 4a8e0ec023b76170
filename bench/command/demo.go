package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"cistern/bench/origin"
	"cistern/bench/peer"
	"cistern/bench/scenario"
	"cistern/bench/shape"
)

func demoCommand() *cobra.Command {
	var cistern string
	c := &cobra.Command{
		Use:   "demo",
		Short: "Show Cistern at work on loopback: a cold pull, a warm one, twenty at once",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return demo(cmd.Context(), cmd.OutOrStdout(), cistern)
		},
	}
	c.Flags().StringVar(&cistern, "cistern", "bin/cistern", "the daemon's binary")
	return c
}

// demoImage has three layers and, as every image, a config.
const (
	demoImage  = "demo/1x24m-1x6m-1x512k"
	demoBodies = 4
	demoCrowd  = 20
)

// demoLink is a registry on the other side of a town: far enough that a cold pull
// and a warm one are not the same.
func demoLink() shape.Spec { return shape.Spec{RTT: 20 * time.Millisecond, Total: 50e6} }

func demo(ctx context.Context, w io.Writer, cistern string) (err error) {
	if _, err := os.Stat(cistern); err != nil {
		return fmt.Errorf("no daemon at %s (make build makes it): %w", cistern, err)
	}
	fleet, err := peer.NewFleet(peer.Options{Cistern: cistern})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, fleet.Close()) }()
	reg, err := origin.Start(origin.Options{Seed: uint64(time.Now().UnixNano()), Auth: true, Redirect: true, Link: demoLink()})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, reg.Close()) }()
	control := origin.Control{Base: reg.Control()}
	t, err := fleet.Start(ctx, peer.Cistern, &peer.Origin{Control: control, Registry: reg.Registry(), Variant: peer.Redirect})
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "registry  %s  (made up; wants tokens, redirects blobs; %s away, %s/s)\ncistern   %s  (an empty cache in a temporary folder)\n\n",
		reg.Registry(), demoLink().RTT, humanize.Bytes(uint64(demoLink().Total)), t.Base)
	return demoPulls(ctx, w, control, t.Base)
}

func demoPulls(ctx context.Context, w io.Writer, control origin.Control, base string) error {
	first, err := control.Image(ctx, demoImage, "first")
	if err != nil {
		return err
	}
	second, err := control.Image(ctx, demoImage, "second")
	if err != nil {
		return err
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "\tclients\tlast one done\tthey got\tupstream: manifest requests\tblobs\tbytes\t")
	var errs []error
	for _, s := range []demoStep{
		{"cold pull", first, 1, demoBodies},
		{"the same, warm", first, 1, 0},
		{"another image, cold", second, demoCrowd, demoBodies},
	} {
		errs = append(errs, s.run(ctx, tw, control, base))
	}
	if err := tw.Flush(); err != nil {
		return fmt.Errorf("printing: %w", err)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	fmt.Fprintf(w, "\nEvery digest was right, and each blob left the registry once.\n")
	return nil
}

type demoStep struct {
	name    string
	image   origin.Image
	clients int
	bodies  int64 // blobs that the registry may send for it
}

// run pulls the image with all clients at once and tells what that cost.
func (s demoStep) run(ctx context.Context, w io.Writer, control origin.Control, base string) error {
	if err := control.Reset(ctx); err != nil {
		return err
	}
	start := time.Now()
	g, gctx := errgroup.WithContext(ctx)
	for range s.clients {
		g.Go(func() error { return scenario.PullImage(gctx, base, s.image) })
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	took := time.Since(start)
	n, err := control.Counters(ctx)
	if err != nil {
		return err
	}
	got := (s.image.Size() + int64(len(s.image.Manifest))) * int64(s.clients)
	fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%d\t%d\t%s\t\n", s.name, s.clients, took.Round(time.Millisecond), humanize.IBytes(uint64(got)),
		n.Requests["GET manifest"]+n.Requests["HEAD manifest"], n.Bodies, humanize.IBytes(uint64(n.BlobBytes)))
	if n.Bodies != s.bodies {
		return fmt.Errorf("%s: the registry sent %d blobs, want %d", s.name, n.Bodies, s.bodies)
	}
	return nil
}
