package sim

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"cistern/bench/trace"
)

// Matrix is what to run: each policy over each scenario with each size and seed.
type Matrix struct {
	Scenarios []string
	Percents  []int // sizes of the cache, of the footprint
	Seeds     int   // 1, 2, ... so many
	Policies  []Policy
	// Make makes a scenario.
	Make func(scenario string, seed uint64) (*trace.Trace, error)
	Dir  string // for indexes; "" is the system's temporary folder
	Logf func(format string, args ...any)
}

// Row is what one policy came to in one scenario with one size.
type Row struct {
	Scenario string
	Percent  int
	Policy   string
	Outcomes []Outcome // by seed
}

// Report is what a matrix came to.
type Report struct {
	Rows    []Row                      // by scenario, size and policy, as they were asked for
	Figures map[string][]trace.Figures // of each scenario, by seed
}

// Run runs it, on all processors.
func (m Matrix) Run(ctx context.Context) (Report, error) {
	r := Report{Figures: map[string][]trace.Figures{}}
	for _, s := range m.Scenarios {
		r.Figures[s] = make([]trace.Figures, m.Seeds)
		for _, percent := range m.Percents {
			for _, p := range m.Policies {
				r.Rows = append(r.Rows, Row{s, percent, p.Name, make([]Outcome, m.Seeds)})
			}
		}
	}
	var logging sync.Mutex
	log := m.Logf
	m.Logf = func(format string, args ...any) { // whoever gives it need not mind that seeds run at once
		logging.Lock()
		defer logging.Unlock()
		log(format, args...)
	}
	perScenario := len(m.Percents) * len(m.Policies)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, s := range m.Scenarios {
		for seed := range m.Seeds {
			g.Go(func() error {
				return m.seed(ctx, s, seed, &r.Figures[s][seed], r.Rows[i*perScenario:(i+1)*perScenario])
			})
		}
	}
	return r, g.Wait()
}

// seed fills one seed's place in the rows of a scenario.
func (m Matrix) seed(ctx context.Context, scenario string, seed int, figures *trace.Figures, rows []Row) error {
	t, err := m.Make(scenario, uint64(seed+1))
	if err != nil {
		return err
	}
	*figures = t.Figures()
	w := Prepare(t)
	for i, percent := range m.Percents {
		for j, p := range m.Policies {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			o, err := p.Run(w, w.Footprint*int64(percent)/100, m.Dir)
			if err != nil {
				return fmt.Errorf("scenario %s, seed %d, %d %%: %w", scenario, seed+1, percent, err)
			}
			rows[i*len(m.Policies)+j].Outcomes[seed] = o
		}
	}
	m.Logf("scenario %s, seed %d", scenario, seed+1)
	return nil
}

// row finds a row; ok is false if it was not asked for.
func (r Report) row(scenario string, percent int, policy string) (Row, bool) {
	for _, row := range r.Rows {
		if row.Scenario == scenario && row.Percent == percent && row.Policy == policy {
			return row, true
		}
	}
	return Row{}, false
}

// Spread is a mean with what it lies between.
type Spread struct{ Mean, Min, Max float64 }

func spread(values []float64) Spread {
	s := Spread{Min: values[0], Max: values[0]}
	for _, v := range values {
		s.Mean += v / float64(len(values))
		s.Min, s.Max = min(s.Min, v), max(s.Max, v)
	}
	return s
}

// MarshalJSON writes five digits after the point: what is behind them is of no seed.
func (s Spread) MarshalJSON() ([]byte, error) {
	short := func(v float64) float64 { return math.Round(v*1e5) / 1e5 }
	return json.Marshal(map[string]float64{"mean": short(s.Mean), "min": short(s.Min), "max": short(s.Max)})
}

// Of is a figure of the row over the seeds.
func (r Row) Of(figure func(Outcome) float64) Spread {
	var vs []float64
	for _, o := range r.Outcomes {
		vs = append(vs, figure(o))
	}
	return spread(vs)
}

// Against is by how much the figure is above another row's, seed by seed: traces
// of two seeds differ far more than two policies do.
func (r Row) Against(base Row, figure func(Outcome) float64) Spread {
	var vs []float64
	for i, o := range r.Outcomes {
		vs = append(vs, figure(o)-figure(base.Outcomes[i]))
	}
	return spread(vs)
}

// names gives what the rows have, in their order.
func names[T comparable](rows []Row, of func(Row) T) (out []T) {
	seen := map[T]bool{}
	for _, row := range rows {
		if v := of(row); !seen[v] {
			seen[v] = true
			out = append(out, v)
		}
	}
	return out
}

// writeTo is io.WriteString for what has been put together.
func writeTo(w io.Writer, b *strings.Builder) error {
	_, err := io.WriteString(w, b.String())
	return err
}
