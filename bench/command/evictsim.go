package command

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cistern/bench/report"
	"cistern/bench/sim"
	"cistern/bench/trace"
)

// evictions are the flags of evict-sim.
type evictions struct {
	scenarios, policies []string
	percents            []int
	seeds               int
	scale               float64
	replay              string
	results             string
	tmp                 string
}

func evictSimCommand() *cobra.Command {
	var e evictions
	c := &cobra.Command{
		Use:   "evict-sim",
		Short: "Reckon what each eviction policy would have kept of made-up traffic",
		Long: `Make traffic up in five scenarios, or read the order of a recorded one, and reckon what
caches of several sizes would have answered under the built-in policy (by the real index)
and others. Nothing is served and no blob is written. Ratios are means over the seeds, and
differences are taken seed by seed.

The scenarios: A a CI site for three days, B a storm of nodes, C an edge site for a week,
D training, E A with scanners and pollers. The same seed is the same trace.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return e.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := c.Flags()
	f.StringSliceVar(&e.scenarios, "scenarios", trace.Names(), "which")
	f.StringSliceVar(&e.policies, "policies", policyNames(), "which; lru is what the others are compared with")
	f.IntSliceVar(&e.percents, "sizes", []int{1, 3, 10, 25, 50}, "sizes of the cache, in percent of all that is asked for")
	f.IntVar(&e.seeds, "seeds", 10, "how many seeds, from 1")
	f.Float64Var(&e.scale, "scale", 1, "how much of each scenario's time")
	f.StringVar(&e.replay, "replay", "", "file with a recorded order, one URI a line, instead of the scenarios; sizes are drawn")
	f.StringVar(&e.results, "results", "", "folder for the report; empty: standard output only")
	f.StringVar(&e.tmp, "tmp", "", "where indexes are made (default: the system's temporary folder)")
	return c
}

func policyNames() (names []string) {
	for _, p := range sim.Policies() {
		names = append(names, p.Name)
	}
	return names
}

func (e *evictions) run(ctx context.Context, stdout, stderr io.Writer) error {
	m, err := e.matrix()
	if err != nil {
		return err
	}
	started := time.Now()
	m.Logf = func(format string, args ...any) {
		fmt.Fprintf(stderr, time.Now().Format("15:04:05 ")+format+"\n", args...)
	}
	outcome, err := m.Run(ctx)
	if err != nil {
		return err
	}
	var text, data bytes.Buffer
	fmt.Fprintf(&text, "# Eviction, %s\n\n%s\n\nSeeds 1 to %d, scale %g; sizes are in percent of the footprint, which is all that is asked for. Means over the seeds; differences\nare taken seed by seed, and their range is told. Took %s.\n\n",
		started.UTC().Format("2006-01-02 15:04 UTC"), report.Machine(), e.seeds, e.scale, time.Since(started).Round(time.Second))
	if err := outcome.WriteMarkdown(&text); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	if err := outcome.WriteJSON(&data); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	if _, err := stdout.Write(text.Bytes()); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	if e.results == "" {
		return nil
	}
	name := filepath.Join(e.results, started.UTC().Format("2006-01-02")+"-eviction")
	if e.replay != "" {
		name += "-replay"
	}
	if err := os.MkdirAll(e.results, 0o755); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	if err := os.WriteFile(name+".json", data.Bytes(), 0o644); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	if err := os.WriteFile(name+".md", text.Bytes(), 0o644); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return nil
}

// matrix checks the flags.
func (e *evictions) matrix() (sim.Matrix, error) {
	m := sim.Matrix{Scenarios: e.scenarios, Percents: e.percents, Seeds: e.seeds, Dir: e.tmp, Make: e.make}
	for _, name := range e.policies {
		i := slices.IndexFunc(sim.Policies(), func(p sim.Policy) bool { return p.Name == name })
		if i < 0 {
			return m, fmt.Errorf("--policies %s: they are %s", name, strings.Join(policyNames(), ","))
		}
		m.Policies = append(m.Policies, sim.Policies()[i])
	}
	for _, percent := range e.percents {
		if percent < 1 || percent > 100 {
			return m, fmt.Errorf("--sizes %d: want percents from 1 to 100", percent)
		}
	}
	if e.seeds < 1 || e.scale <= 0 || e.scale > 10 {
		return m, fmt.Errorf("--seeds %d --scale %g: want at least one seed, and a scale above 0, up to 10", e.seeds, e.scale)
	}
	if e.replay != "" {
		m.Scenarios = []string{"replay"}
		return m, nil
	}
	for _, s := range e.scenarios {
		if !slices.Contains(trace.Names(), s) {
			return m, fmt.Errorf("--scenarios %s: they are %s", s, strings.Join(trace.Names(), ","))
		}
	}
	return m, nil
}

func (e *evictions) make(scenario string, seed uint64) (t *trace.Trace, err error) {
	if e.replay == "" {
		t, _ = trace.Make(scenario, seed, e.scale)
		return t, nil
	}
	f, err := os.Open(e.replay)
	if err != nil {
		return nil, fmt.Errorf("replay: %w", err)
	}
	defer f.Close() //nolint:errcheck // it reads
	return trace.Replay(f, seed)
}

func traceCommand() *cobra.Command {
	var scenario, format string
	var seed uint64
	var scale float64
	c := &cobra.Command{
		Use:   "trace",
		Short: "Write a scenario of evict-sim as CSV",
		Long: `Write the requests of a scenario: time,client,method,kind,repo,ref,digest,size, or what
libCacheSim's csv reader takes (time-col=1,obj-id-col=2,obj-size-col=3,has-header=true).
What the trace is like goes to standard error.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if seed == 0 {
				seed = rand.Uint64N(1 << 32)
			}
			t, ok := trace.Make(scenario, seed, scale)
			if !ok {
				return fmt.Errorf("--scenario %s: they are %s", scenario, strings.Join(trace.Names(), ","))
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "scenario %s, seed %d: %+v\n", scenario, seed, t.Figures())
			switch format {
			case "csv":
				return t.WriteCSV(cmd.OutOrStdout())
			case "libcachesim":
				return t.WriteLibCacheSim(cmd.OutOrStdout())
			}
			return fmt.Errorf("--format %s: want csv or libcachesim", format)
		},
	}
	f := c.Flags()
	f.StringVar(&scenario, "scenario", "A", strings.Join(trace.Names(), ", "))
	f.Uint64Var(&seed, "seed", 1, "which; 0 draws one, and tells it")
	f.Float64Var(&scale, "scale", 1, "how much of its time")
	f.StringVar(&format, "format", "csv", "csv or libcachesim")
	return c
}
