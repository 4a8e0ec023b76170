package report

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// WriteTables writes one table for each scenario and metric: cases down, peers
// across, medians in the cells.
func WriteTables(w io.Writer, s *Samples) error {
	var b strings.Builder
	for _, scenario := range s.Scenarios() {
		fmt.Fprintf(&b, "## %s\n\n", scenario)
		keys := s.all(scenario)
		for _, metric := range distinct(keys, func(k Key) string { return k.Metric }) {
			var mine []Key
			for _, k := range keys {
				if k.Metric == metric {
					mine = append(mine, k)
				}
			}
			writeTable(&b, s, metric, mine)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func writeTable(b *strings.Builder, s *Samples, metric string, keys []Key) {
	rows := distinct(keys, func(k Key) string { return k.Case })
	columns := distinct(keys, func(k Key) string { return k.Peer })
	fmt.Fprintf(b, "| %s | %s |\n|---|%s\n", metric, strings.Join(columns, " | "), strings.Repeat("---:|", len(columns)))
	for _, cas := range rows {
		fmt.Fprintf(b, "| %s |", cas)
		for _, peer := range columns {
			fmt.Fprintf(b, " %s |", Number(s.Median(Key{keys[0].Scenario, cas, peer, metric})))
		}
		b.WriteString("\n")
	}
	b.WriteString("\n")
}

func distinct(keys []Key, of func(Key) string) []string {
	var out []string
	for _, k := range keys {
		if v := of(k); !slices.Contains(out, v) {
			out = append(out, v)
		}
	}
	return out
}

// Number writes a figure with three significant digits, and a dash for none.
func Number(v float64) string {
	switch a := math.Abs(v); {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return "–"
	case a >= 100 || v == math.Trunc(v) && a < 100:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	case a >= 0.1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}
