package report

import (
	"fmt"
	"io"
	"math"
	"strings"
)

// Figure is a number that the project has promised to reach.
type Figure struct {
	// Name says what it is, in words.
	Name string
	// Unit is written behind the value; "" for ratios.
	Unit string
	// Value computes it; NaN = not measured.
	Value func(*Samples) float64
	// Target is the bound, Reach the one hoped for (0 = none).
	Target, Reach float64
	// Told is in place of the bounds where there is none: the value is for the reader
	// to judge, by these words.
	Told string
	// AtLeast tells that larger is better.
	AtLeast bool
	// Exact tells that not even a rounding error over the bound will do.
	Exact bool
	// Format is the verb for the values; "" = three significant digits.
	Format string
}

// Verdict tells in words whether v meets the figure's target.
func (f Figure) Verdict(v float64) string {
	switch {
	case math.IsNaN(v):
		return "not measured"
	case f.Told != "":
		return "told"
	case f.Reach != 0 && f.meets(v, f.Reach):
		return "met, and what was hoped for"
	case f.meets(v, f.Target):
		return "met"
	}
	return "**not met**"
}

// meets compares what is printed: a ratio of 1.0004 that reads 1.00 is 1.00.
func (f Figure) meets(v, bound float64) bool {
	precision := 0.005
	if f.Exact {
		precision = 0
	}
	if f.AtLeast {
		return v >= bound*(1-precision)
	}
	return v <= bound*(1+precision)
}

func (f Figure) target() string {
	switch {
	case f.Told != "":
		return f.Told
	case f.Reach != 0:
		return f.bound(f.Target) + " (" + f.number(f.Reach) + ")"
	}
	return f.bound(f.Target)
}

func (f Figure) bound(v float64) string {
	if f.AtLeast {
		return "≥ " + f.number(v)
	}
	return "≤ " + f.number(v)
}

func (f Figure) number(v float64) string {
	if f.Format != "" && !math.IsNaN(v) {
		return fmt.Sprintf(f.Format, v) + f.Unit
	}
	return Number(v) + f.Unit
}

// WriteFigures writes the promised numbers beside what was measured.
func WriteFigures(w io.Writer, s *Samples, figures []Figure) error {
	var b strings.Builder
	b.WriteString("| figure | measured | target | |\n|---|---:|---:|---|\n")
	for _, f := range figures {
		v := f.Value(s)
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", f.Name, f.number(v), f.target(), f.Verdict(v))
	}
	b.WriteString("\n")
	_, err := io.WriteString(w, b.String())
	return err
}
