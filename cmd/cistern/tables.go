package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"cistern/cache"
	"cistern/internal/admin"
)

func (a *app) status(ctx context.Context, c *admin.Client, output string) error {
	s, err := c.Status(ctx)
	if err != nil {
		return err
	}
	return a.print(output, s, func() {
		table(a.stdout, nil, statusRows(s, time.Now()))
		fmt.Fprintln(a.stdout)
		a.savingsTable(s.Savings)
	})
}

func statusRows(s admin.Status, now time.Time) [][]string {
	ready := "yes"
	if !s.Ready {
		ready = "no: " + strings.ReplaceAll(s.NotReady, "\n", "; ")
	}
	rows := [][]string{
		{"Version", s.Version.Version + ", up " + age(s.Started, now)},
		{"Listening", fmt.Sprintf("%s, %d connections of %d", s.Listen, s.Connections.Open, s.Connections.Limit)},
		{"Ready", ready},
		{"Cache", cacheLine(s.Cache)},
		{"Evicted", fmt.Sprintf("%s blobs, %s", count(s.Cache.EvictedBlobs), size(s.Cache.EvictedBytes))},
		{"In flight", fmt.Sprintf("%d fills, %d readers", s.Cache.FillsInFlight, s.Cache.FlightReaders)},
		{"Requests", pullsLine(s.Pulls.Requests)},
		{"Bytes", bytesLine(s.Pulls)},
		{"Clients", clientsLine(s, now)},
		{"Upstreams", upstreamsLine(s.Upstreams)},
	}
	if r := s.Cache.Rebuild; r != nil {
		rows = append(rows, []string{"Rebuilding", fmt.Sprintf("%s of %s files hashed, %s damaged",
			count(uint64(r.Hashed)), count(uint64(r.Files)), count(uint64(r.Damaged)))})
	}
	rows = append(rows, []string{"Scrub", scrubLine(s.Cache, now)})
	if s.Cache.Degraded != "" {
		rows = append(rows, []string{"Degraded", s.Cache.Degraded})
	}
	return rows
}

func cacheLine(c admin.CacheStatus) string {
	used := size(uint64(max(0, c.Bytes)))
	if c.Limit > 0 {
		used += fmt.Sprintf(" of %s (%d %%)", size(uint64(c.Limit)), c.Bytes*100/c.Limit)
	}
	return fmt.Sprintf("%s, %s blobs, %s", used, count(uint64(max(0, c.Blobs))), c.Dir)
}

func scrubLine(c admin.CacheStatus, now time.Time) string {
	line := "blobs were never all hashed"
	if !c.Scrub.Ended.IsZero() {
		line = fmt.Sprintf("all blobs were hashed %s ago", age(c.Scrub.Ended, now))
	}
	if c.Scrub.Running {
		line += fmt.Sprintf(", %.0f %% are again", 100*c.Scrub.Done)
	}
	return line + fmt.Sprintf("; %s damaged since the start", count(c.Damaged))
}

// pullsLine counts manifests and blobs by outcome, all of them.
func pullsLine(by map[string]uint64) string {
	var parts []string
	for _, o := range cache.Outcomes() {
		parts = append(parts, count(by[o.String()])+" "+o.String())
	}
	return strings.Join(parts, ", ")
}

// bytesLine is of this process; what was saved is in the table of savings.
func bytesLine(p admin.PullStatus) string {
	var sent uint64
	for outcome, n := range p.SentBytes {
		if outcome != cache.OutcomeError.String() {
			sent += n
		}
	}
	return fmt.Sprintf("%s sent, %s fetched", size(sent), size(p.ReceivedBytes))
}

func clientsLine(s admin.Status, now time.Time) string {
	if s.LastPull == nil {
		return fmt.Sprintf("%d seen, none has pulled anything", s.Clients)
	}
	return fmt.Sprintf("%d seen, last pull %s ago", s.Clients, age(*s.LastPull, now))
}

func upstreamsLine(us []admin.Upstream) string {
	var down []string
	for _, u := range us {
		if !u.Up {
			down = append(down, u.Name)
		}
	}
	if len(down) == 0 {
		return fmt.Sprintf("%d, none is known to be down", len(us))
	}
	return fmt.Sprintf("%d, down: %s", len(us), strings.Join(down, ", "))
}

func clients(ctx context.Context, a *app, c *admin.Client, _ []string, output string) error {
	l, err := c.Clients(ctx)
	if err != nil {
		return err
	}
	return a.print(output, l, func() {
		if len(l.Clients) == 0 {
			fmt.Fprintln(a.stdout, "No client has asked for anything since the start.")
			return
		}
		now := time.Now()
		var rows [][]string
		for _, x := range l.Clients {
			rows = append(rows, []string{x.Address, short(x.UserAgent, 40), age(x.LastPull, now), count(x.Requests), size(x.Bytes), strings.Join(x.Upstreams, ","), x.LastImage})
		}
		table(a.stdout, []string{"ADDRESS", "AGENT", "LAST PULL", "REQUESTS", "SENT", "UPSTREAMS", "LAST IMAGE"}, rows)
	})
}

func fills(ctx context.Context, a *app, c *admin.Client, _ []string, output string) error {
	l, err := c.Fills(ctx)
	if err != nil {
		return err
	}
	return a.print(output, l, func() {
		if len(l.Fills) == 0 {
			fmt.Fprintln(a.stdout, "Nothing is on its way from upstream.")
			return
		}
		table(a.stdout, []string{"DIGEST", "REPOSITORY", "SIZE", "ON DISK", "STREAMS", "READERS", "RATE", "AGE", "FROM", "WANTED"}, fillRows(l.Fills))
	})
}

func fillRows(l []cache.FillInfo) [][]string {
	now := time.Now()
	var rows [][]string
	for _, f := range l {
		total, here := "?", size(uint64(f.OnDisk))
		if f.Size >= 0 {
			total = size(uint64(f.Size))
		}
		if f.Size > 0 {
			here += fmt.Sprintf(" (%d %%)", f.OnDisk*100/f.Size)
		}
		wanted := "parts"
		if f.Whole {
			wanted = "all"
		}
		since := now.Add(-time.Duration(f.Age * float64(time.Second)))
		rows = append(rows, []string{
			short(f.Digest, len("sha256:")+13), f.Upstream + "/" + f.Repository, total, here, strconv.Itoa(f.Streams), strconv.Itoa(f.Readers),
			size(uint64(f.Rate)) + "/s", age(since, now), f.Origin, wanted,
		})
	}
	return rows
}

// short cuts a long text, by characters.
func short(s string, most int) string {
	r := []rune(s)
	if len(r) <= most {
		return s
	}
	return string(r[:most-1]) + "…"
}

func upstreams(ctx context.Context, a *app, c *admin.Client, _ []string, output string) error {
	l, err := c.Upstreams(ctx)
	if err != nil {
		return err
	}
	return a.print(output, l, func() {
		var rows [][]string
		for _, u := range l.Upstreams {
			name := u.Name
			if u.Default {
				name += " (default)"
			}
			rows = append(rows, []string{name, upOrDown(u), yesNo(u.Account), count(u.Requests), count(u.Failures), size(u.ReceivedBytes), quota(u.RateLimit), hosts(u.Endpoints)})
		}
		table(a.stdout, []string{"NAME", "UP", "ACCOUNT", "REQUESTS", "FAILED", "RECEIVED", "PULLS LEFT", "ENDPOINTS"}, rows)
	})
}

// upOrDown gives the last error of an upstream that is down.
func upOrDown(u admin.Upstream) string {
	if u.Up {
		return "yes"
	}
	for _, e := range u.Endpoints {
		if e.LastError != "" {
			return "no: " + short(e.LastError, 60)
		}
	}
	return "no"
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func quota(r *admin.RateLimit) string {
	if r == nil {
		return ""
	}
	return fmt.Sprintf("%d of %d", r.Remaining, r.Limit)
}

func hosts(es []admin.Endpoint) string {
	var names []string
	for _, e := range es {
		names = append(names, e.Host)
	}
	return strings.Join(names, ",")
}

func remove(ctx context.Context, a *app, c *admin.Client, args []string, output string) error {
	r, err := c.Remove(ctx, args[0])
	if err != nil {
		return err
	}
	return a.print(output, r, func() {
		if r.Tags+r.Blobs+r.Pinned+r.Kept == 0 {
			hint := ""
			if strings.Contains(args[0], ".") && !strings.ContainsAny(args[0], "/@") {
				hint = "; an upstream ends with a slash: " + args[0] + "/"
			}
			fmt.Fprintf(a.stdout, "nothing of %s is cached%s\n", args[0], hint)
			return
		}
		fmt.Fprintf(a.stdout, "removed: %d tags, %d blobs, %s\n", r.Tags, r.Blobs, size(uint64(max(0, r.Bytes))))
		if r.Pinned+r.Kept > 0 {
			fmt.Fprintf(a.stdout, "kept: %d tags that are pinned, and %d blobs of what else is pinned, by %s; `cistern unpin NAME` gives them free\n", r.Pinned, r.Kept, printable(strings.Join(r.Pins, ", ")))
		}
	})
}

func refresh(ctx context.Context, a *app, c *admin.Client, args []string, output string) error {
	r, err := c.Refresh(ctx, args[0])
	if err != nil {
		return err
	}
	return a.print(output, r, func() {
		switch {
		case !r.Changed:
			fmt.Fprintf(a.stdout, "%s is still %s\n", r.Image, r.Now)
		case r.Before == "":
			fmt.Fprintf(a.stdout, "%s is %s; it was not known here\n", r.Image, r.Now)
		default:
			fmt.Fprintf(a.stdout, "%s is %s now; it was %s\n", r.Image, r.Now, r.Before)
		}
	})
}
