package main

import (
	"context"
	"fmt"
	"time"

	"cistern/cache"
	"cistern/internal/admin"
)

// The verbs about what is pinned: pin, unpin, ls --pinned.

func pin(ctx context.Context, a *app, c *admin.Client, args []string, output string) error {
	p, err := c.Pin(ctx, args[0])
	if err != nil {
		return err
	}
	return a.print(output, p, func() {
		switch {
		case p.Digest == "":
			fmt.Fprintf(a.stdout, "%s is pinned: it is not here yet, and is kept once it is pulled\n", p.Image)
		case p.Missing > 0:
			fmt.Fprintf(a.stdout, "%s is pinned: %s; %d of its parts are not here yet, and are kept once they are pulled\n", p.Image, pinSize(p), p.Missing)
		default:
			fmt.Fprintf(a.stdout, "%s is pinned: %s\n", p.Image, pinSize(p))
		}
		a.sayPartial(p)
	})
}

func unpin(ctx context.Context, a *app, c *admin.Client, args []string, output string) error {
	u, err := c.Unpin(ctx, args[0])
	if err != nil {
		return err
	}
	return a.print(output, u, func() {
		fmt.Fprintf(a.stdout, "%s is pinned no longer: it is evicted when it has not been used for the longest time\n", u.Image)
	})
}

func pinSize(p cache.Pin) string { return size(uint64(max(0, p.Bytes))) }

// listPins is `cistern ls --pinned`.
func (a *app) listPins(ctx context.Context, c *admin.Client, output string) error {
	l, err := c.Pins(ctx)
	if err != nil {
		return err
	}
	return a.print(output, l, func() {
		if len(l.Pins) == 0 {
			fmt.Fprintln(a.stdout, "Nothing is pinned.")
			return
		}
		var rows [][]string
		for _, p := range l.Pins {
			bytes, missing := pinSize(p), "-"
			if p.Missing > 0 {
				missing = count(uint64(p.Missing))
			}
			if p.Digest == "" {
				bytes, missing = "-", "all"
			}
			rows = append(rows, []string{bytes, missing, age(p.Since, time.Now()), cutDigest(p.Digest), p.Image})
		}
		table(a.stdout, []string{"SIZE", "MISSING", "PINNED", "DIGEST", "IMAGE"}, rows)
		for _, p := range l.Pins {
			a.sayPartial(p)
		}
	})
}

func (a *app) sayPartial(p cache.Pin) {
	if p.Partial {
		fmt.Fprintf(a.stdout, "not all of %s is kept: there is no room for it among what is pinned; raise cache.max_size, or unpin something\n", printable(p.Image))
	}
}
