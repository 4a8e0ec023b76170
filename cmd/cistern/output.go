package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
)

// outputFlag adds -o to a verb.
func outputFlag(cmd *cobra.Command) *string {
	return cmd.Flags().StringP("output", "o", "", "`FORMAT`: json, with names that stay; default: for people")
}

// checkOutput refuses a format that is not known.
func checkOutput(format string) error {
	if format != "" && format != "json" {
		return usageError("-o %s: only json is known", format)
	}
	return nil
}

// print writes v as JSON if format asks for it, and else runs people.
func (a *app) print(format string, v any, people func()) error {
	if err := checkOutput(format); err != nil {
		return err
	}
	if format == "" {
		people()
		return nil
	}
	enc := json.NewEncoder(a.stdout)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}

// table prints rows in columns, as kubectl does: capitals above, no lines.
func table(w io.Writer, header []string, rows [][]string) {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	if header != nil {
		fmt.Fprintln(t, strings.Join(header, "\t"))
	}
	for _, r := range rows {
		for i, cell := range r {
			r[i] = printable(cell)
		}
		fmt.Fprintln(t, strings.Join(r, "\t"))
	}
	_ = t.Flush() // a closed pipe; nobody reads
}

// printable keeps what clients sent us, such as their user agent, from moving
// the cursor of whoever reads the table.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
	if s == "" {
		return "-"
	}
	return s
}

// size is 1.5 GiB.
func size(n uint64) string { return humanize.IBytes(n) }

// count is 1,234.
func count(n uint64) string { return humanize.Comma(int64(min(n, 1<<62))) }

// age is how long ago t was, as kubectl says it: 5s, 3m, 2h, 4d; "never" for none.
func age(t, now time.Time) string {
	if t.IsZero() {
		return "never"
	}
	d := max(0, now.Sub(t))
	switch {
	case d < 2*time.Minute:
		return strconv.Itoa(int(d.Seconds())) + "s"
	case d < 2*time.Hour:
		return strconv.Itoa(int(d.Minutes())) + "m"
	case d < 48*time.Hour:
		return strconv.Itoa(int(d.Hours())) + "h"
	}
	return strconv.Itoa(int(d.Hours()/24)) + "d"
}
