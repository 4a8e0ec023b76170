package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cistern/bench/peer"
	"cistern/bench/proc"
	"cistern/bench/report"
	"cistern/bench/scenario"
)

// settings are the flags that run and measure share.
type settings struct {
	only, variants []string
	rounds, cold   int
	window         time.Duration
	quick          bool
	results        string
	digestCache    string
	tmp            string
	scaleBlobs     int
	keepScale      string
	keepIndex      bool
}

func (s *settings) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringSliceVar(&s.only, "only", nil, "scenarios to run: "+scenario.Names())
	f.IntVar(&s.rounds, "rounds", 5, "rounds of warm scenarios, interleaved over the peers")
	f.IntVar(&s.cold, "cold-rounds", 3, "rounds of cold scenarios")
	f.DurationVar(&s.window, "window", 2*time.Second, "how long a throughput is measured")
	f.BoolVar(&s.quick, "quick", false, "one round, small cases, the plain registry only: is everything in order?")
	f.StringVar(&s.results, "results", "", "folder for the report; empty: standard output only")
	f.IntVar(&s.scaleBlobs, "scale-blobs", 1_000_000, "blobs of the scenario scale; its promises are about a million")
	f.StringVar(&s.keepScale, "keep-scale", "", "folder (about 8 GB) that keeps these blobs between runs; empty: made anew, in a file system of its own where root runs this")
	f.BoolVar(&s.keepIndex, "keep-index", false, "with --keep-scale: keep the daemon's index, too; how fast it is built is not measured then")
	f.StringVar(&s.tmp, "tmp", "", "where the caches are made (default: the system's temporary folder)")
}

func (s *settings) scenarios() ([]scenario.Scenario, error) {
	if len(s.only) == 0 {
		return scenario.All(), nil
	}
	var out []scenario.Scenario
	for _, sc := range scenario.All() {
		if slices.Contains(s.only, sc.Name) {
			out = append(out, sc)
		}
	}
	if len(out) != len(s.only) {
		return nil, fmt.Errorf("--only %s: the scenarios are %s", strings.Join(s.only, ","), scenario.Names())
	}
	return out, nil
}

func runCommand() *cobra.Command {
	var s settings
	var cistern, nginx string
	var peers []string
	c := &cobra.Command{
		Use:   "run",
		Short: "Measure Cistern beside its peers and write the report",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			out := cmd.ErrOrStderr()
			o := peer.Options{DigestCache: s.digestCache, Dir: s.tmp, Cistern: present(out, "Cistern", cistern), Nginx: present(out, "nginx", nginx)}
			return s.run(cmd.Context(), cmd.OutOrStdout(), out, o, peer.Cistern, peers)
		},
	}
	s.flags(c)
	c.Flags().StringSliceVar(&s.variants, "variants", []string{peer.Plain, peer.Token, peer.Redirect}, "registries for the cold scenarios")
	c.Flags().StringVar(&s.digestCache, "digest-cache", "", "file that keeps the digests of synthetic layers between runs")
	c.Flags().StringVar(&cistern, "cistern", "bin/cistern", "the daemon's binary")
	c.Flags().StringVar(&nginx, "nginx", "/usr/sbin/nginx", "nginx's binary")
	c.Flags().StringSliceVar(&peers, "peers", []string{
		peer.Direct, peer.NginxFiles, peer.FileServer, peer.NginxCache, peer.Floor, peer.Cistern, peer.CisternLog,
	}, "what to measure")
	return c
}

// present returns path when a program is there, and says loudly when it is not.
func present(w io.Writer, name, path string) string {
	info, err := os.Stat(path)
	if err == nil && info.Mode().IsRegular() {
		abs, err := filepath.Abs(path)
		if err == nil {
			return abs
		}
	}
	fmt.Fprintf(w, "\n*** %s is not at %s: what needs it is NOT MEASURED ***\n\n", name, path)
	return ""
}

func (s *settings) run(ctx context.Context, stdout, stderr io.Writer, o peer.Options, subject string, peers []string) (err error) {
	scenarios, err := s.scenarios()
	if err != nil {
		return err
	}
	if o.Self, err = os.Executable(); err != nil {
		return fmt.Errorf("own program: %w", err)
	}
	fleet, err := peer.NewFleet(o)
	if err != nil {
		return err
	}
	// Whatever happens, ctrl-C included, nothing that was started stays.
	defer func() { err = errors.Join(err, fleet.Close()) }()
	if s.quick {
		s.rounds, s.cold, s.window, s.variants = 1, 1, 500*time.Millisecond, []string{peer.Plain}
	}
	b := &scenario.Bench{
		Fleet: fleet, Samples: &report.Samples{}, Peers: peers, Variants: s.variants, Rounds: s.rounds, ColdRounds: s.cold,
		Window: s.window, Quick: s.quick,
		ScaleBlobs: s.scaleBlobs, KeepScale: s.keepScale, KeepIndex: s.keepIndex,
		Logf: func(format string, args ...any) {
			fmt.Fprintf(stderr, time.Now().Format("15:04:05 ")+format+"\n", args...)
		},
	}
	started := time.Now()
	clock, err := proc.StartClock()
	if err != nil {
		return err
	}
	for _, sc := range scenarios {
		if rerr := b.Run(ctx, sc); rerr != nil {
			// The others are worth having; the failure is part of the outcome.
			fmt.Fprintf(stderr, "*** %v\n", rerr)
			err = errors.Join(err, rerr)
		}
		if ctx.Err() != nil {
			break
		}
	}
	strangers, cerr := math.NaN(), error(nil)
	if len(o.External) == 0 { // what the user started is no stranger, but not known in whole
		strangers, cerr = clock.Strangers(fleet.Pids())
	}
	return errors.Join(err, cerr, s.report(stdout, b, subject, started, strangers))
}

// report writes the outcome, also that of a run that failed in part.
func (s *settings) report(stdout io.Writer, b *scenario.Bench, subject string, started time.Time, strangers float64) error {
	var text bytes.Buffer
	tmp := s.tmp
	if tmp == "" {
		tmp = os.TempDir()
	}
	fmt.Fprintf(&text, "# %s\n\n%s; caches: %s\n\n", started.UTC().Format("2006-01-02 15:04 UTC"), report.Machine(), report.FileSystem(tmp))
	fmt.Fprintf(&text, "Load, registry and proxy share the cores; others kept %s of them busy meanwhile. Warm: %d rounds of %s each in turn\nover the peers; cold: %d rounds. Values are medians, ratios medians of those of the same round. Took %s.\n\n",
		report.Number(strangers), s.rounds, s.window, s.cold, time.Since(started).Round(time.Second))
	err := errors.Join(
		report.WriteFigures(&text, b.Samples, scenario.Figures(subject, s.variants)),
		report.WriteTables(&text, b.Samples),
	)
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	if _, err := stdout.Write(text.Bytes()); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	if s.results == "" {
		return nil
	}
	if err := os.MkdirAll(s.results, 0o755); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	name := filepath.Join(s.results, started.UTC().Format("2006-01-02")+"-"+report.Slug()+".md")
	if err := os.WriteFile(name, text.Bytes(), 0o644); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return nil
}
