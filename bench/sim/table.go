package sim

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"cistern/bench/stat"
	"cistern/bench/trace"
)

// base is the policy that the others are compared with.
const base = "lru"

func bytePoints(o Outcome) float64   { return 100 * o.ByteHits() }
func objectPoints(o Outcome) float64 { return 100 * o.ObjectHits() }
func jobPoints(o Outcome) float64    { return 100 * o.JobByteHits() }
func pulls(o Outcome) float64        { return float64(o.Pulls()) }

// table is one that is written for each scenario.
type table struct {
	title string
	of    func(Outcome) float64
	plain string // the verb for means; "": differences to base, in points, with their range
	only  string // the scenario that it is for; "": all
}

func tables() []table {
	return []table{
		{"bytes, % from the cache; others: points over lru", bytePoints, "", ""},
		{"bytes that are no scanner's, likewise", jobPoints, "", "E"},
		{"blobs, % from the cache; others: points over lru", objectPoints, "", ""},
		{"bytes from upstream / distinct bytes", Outcome.Upstream, "%.3f", ""},
		{"manifests from upstream", pulls, "%.0f", ""},
	}
}

// WriteMarkdown writes the traces' figures and what the policies came to.
func (r Report) WriteMarkdown(w io.Writer) error {
	var b strings.Builder
	r.writeFigures(&b)
	policies := names(r.Rows, func(row Row) string { return row.Policy })
	percents := names(r.Rows, func(row Row) int { return row.Percent })
	for _, scenario := range names(r.Rows, func(row Row) string { return row.Scenario }) {
		fmt.Fprintf(&b, "## %s\n\n", scenario)
		for _, t := range tables() {
			if t.only != "" && t.only != scenario {
				continue
			}
			fmt.Fprintf(&b, "| %s | %s |\n|---|%s\n", t.title, strings.Join(policies, " | "), strings.Repeat("---:|", len(policies)))
			for _, percent := range percents {
				fmt.Fprintf(&b, "| %d %% |", percent)
				for _, p := range policies {
					fmt.Fprintf(&b, " %s |", r.cell(t, scenario, percent, p))
				}
				b.WriteString("\n")
			}
			b.WriteString("\n")
		}
	}
	return writeTo(w, &b)
}

func (r Report) cell(t table, scenario string, percent int, policy string) string {
	row, ok := r.row(scenario, percent, policy)
	lru, compared := r.row(scenario, percent, base)
	switch {
	case !ok:
		return "–"
	case t.plain != "":
		return fmt.Sprintf(t.plain, row.Of(t.of).Mean)
	case policy == base || !compared:
		s := row.Of(t.of)
		return fmt.Sprintf("%.2f (%.1f … %.1f)", s.Mean, s.Min, s.Max)
	}
	s := row.Against(lru, t.of)
	return fmt.Sprintf("%+.2f (%+.2f … %+.2f)", s.Mean, s.Min, s.Max)
}

// writeFigures tells how honest the traces are, and what they are like.
func (r Report) writeFigures(b *strings.Builder) {
	if seeds := r.Figures["A"]; len(seeds) > 0 {
		b.WriteString("| scenario A | wanted | median | range | |\n|---|---:|---:|---:|---|\n")
		for _, o := range trace.Check(seeds) {
			verdict := "met"
			if !o.Met() {
				verdict = "**not met**"
			}
			fmt.Fprintf(b, "| %s | %.4g … %.4g | %.4g | %.4g … %.4g | %s |\n", o.Name, o.Low, o.High, o.Median, o.Min, o.Max, verdict)
		}
		b.WriteString("\n")
	}
	b.WriteString("| medians | requests | blob GETs | blobs | footprint, GB | scanned, % of it | infinite, % of blobs |\n|---|---:|---:|---:|---:|---:|---:|\n")
	for _, scenario := range names(r.Rows, func(row Row) string { return row.Scenario }) {
		median := func(of func(trace.Figures) float64) float64 {
			var vs []float64
			for _, f := range r.Figures[scenario] {
				vs = append(vs, of(f))
			}
			return stat.Median(vs)
		}
		fmt.Fprintf(b, "| %s | %.0f | %.0f | %.0f | %.0f | %.0f | %.1f |\n", scenario,
			median(func(f trace.Figures) float64 { return float64(f.Requests) }),
			median(func(f trace.Figures) float64 { return float64(f.BlobGETs) }),
			median(func(f trace.Figures) float64 { return float64(f.Blobs) }),
			median(func(f trace.Figures) float64 { return float64(f.Footprint) / 1e9 }),
			median(func(f trace.Figures) float64 { return 100 * float64(f.Scanned) / float64(f.Footprint) }),
			median(func(f trace.Figures) float64 { return 100 * f.Infinite }))
	}
	b.WriteString("\n")
}

// summary is a row in JSON; ratios are from 0 to 1.
type summary struct {
	Scenario    string  `json:"scenario"`
	Percent     int     `json:"percent"`
	Policy      string  `json:"policy"`
	ObjectHits  Spread  `json:"object_hits"`
	ByteHits    Spread  `json:"byte_hits"`
	JobByteHits Spread  `json:"job_byte_hits"`
	Upstream    Spread  `json:"upstream_over_distinct"`
	Pulls       Spread  `json:"manifest_pulls"`
	ObjectsOver *Spread `json:"object_hits_over_lru,omitempty"`
	BytesOver   *Spread `json:"byte_hits_over_lru,omitempty"`
}

// WriteJSON writes the same as one array, a row on a line.
func (r Report) WriteJSON(w io.Writer) error {
	var b strings.Builder
	for i, row := range r.Rows {
		s := summary{
			Scenario: row.Scenario, Percent: row.Percent, Policy: row.Policy,
			ObjectHits: row.Of(Outcome.ObjectHits), ByteHits: row.Of(Outcome.ByteHits), JobByteHits: row.Of(Outcome.JobByteHits),
			Upstream: row.Of(Outcome.Upstream), Pulls: row.Of(pulls),
		}
		if lru, ok := r.row(row.Scenario, row.Percent, base); ok && row.Policy != base {
			objects, bytes := row.Against(lru, Outcome.ObjectHits), row.Against(lru, Outcome.ByteHits)
			s.ObjectsOver, s.BytesOver = &objects, &bytes
		}
		line, err := json.Marshal(s)
		if err != nil {
			return fmt.Errorf("writing the results: %w", err)
		}
		before := ",\n"
		if i == 0 {
			before = "[\n"
		}
		b.WriteString(before)
		b.Write(line)
	}
	b.WriteString("\n]\n")
	return writeTo(w, &b)
}
