package main

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"cistern/proxy/savings"
)

// statusCommand is `cistern status`.
func (a *app) statusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "status", Short: "Show how the daemon fares, and what it has saved", Args: noArgs,
		Long: "Show how the daemon fares, and what it has saved: today and in 7 days, today among them, by the days of UTC, and\n" +
			"since it was installed. Saved is what clients got and upstream did not have to send; a pull is a manifest\n" +
			"that was asked for by GET, which is what Docker Hub counts.",
	}
	of := cmd.Flags().String("repositories", "", "show instead what each repository saved in `PERIOD`: today, week or total")
	output, connect := outputFlag(cmd), a.adminFlags(cmd)
	cmd.RunE = failing(func(*cobra.Command, []string) error {
		if periods := []string{"", "today", "week", "total"}; !slices.Contains(periods, *of) {
			return usageError("--repositories %s: want today, week or total", *of)
		}
		if err := checkOutput(*output); err != nil {
			return err
		}
		c, _, err := connect()
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(context.Background(), askTime)
		defer cancel()
		if *of == "" {
			return a.status(ctx, c, *output)
		}
		r, err := c.Savings(ctx)
		if err != nil {
			return err
		}
		period := map[string]savings.Period{"today": r.Today, "week": r.Week, "total": r.Total}[*of]
		return a.print(*output, period, func() { a.repositoriesTable(period) })
	})
	return cmd
}

// tallyColumns are the heads of what tallyCells gives.
func tallyColumns(before ...string) []string {
	return append(before, "TO CLIENTS", "FROM UPSTREAM", "SAVED", "PULLS ASKED", "PULLS SPENT")
}

func tallyCells(t savings.Tally, before ...string) []string {
	return append(before, size(t.Sent), size(t.Received), spared(t), count(t.Asked), count(t.Spent))
}

// spared is the share of what clients got that upstream did not send. It is below zero
// where more was fetched than was asked for so far.
func spared(t savings.Tally) string {
	if t.Sent == 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f %%", math.Floor(100*(1-float64(t.Received)/float64(t.Sent))))
}

func (a *app) savingsTable(s savings.Summary) {
	table(a.stdout, tallyColumns("SAVED SO FAR"), [][]string{
		tallyCells(s.Today, "today"),
		tallyCells(s.Week, "7 days"),
		tallyCells(s.Total, "since "+s.Since.UTC().Format(time.DateOnly)),
	})
}

func (a *app) repositoriesTable(p savings.Period) {
	if len(p.Upstreams) == 0 {
		fmt.Fprintln(a.stdout, "Nothing was pulled in that time.")
		return
	}
	var rows [][]string
	for _, u := range p.Upstreams {
		rows = append(rows, tallyCells(u.Tally, u.Name, "(all)"))
		for _, r := range u.Repositories {
			rows = append(rows, tallyCells(r.Tally, u.Name, r.Name))
		}
		if u.Others != (savings.Tally{}) {
			rows = append(rows, tallyCells(u.Others, u.Name, "(others)"))
		}
	}
	table(a.stdout, tallyColumns("UPSTREAM", "REPOSITORY"), rows)
}
