package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"cistern/cache"
	"cistern/internal/admin"
	"cistern/internal/oci"
)

// The verbs about what is kept: ls, show, why, evict.

// listCommand is `cistern ls`. Images are printed as they come: there may be many.
func (a *app) listCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "ls", Short: "List the images that are cached", Args: noArgs}
	pinned := cmd.Flags().Bool("pinned", false, "only what is pinned")
	output, connect := outputFlag(cmd), a.adminFlags(cmd)
	cmd.RunE = failing(func(*cobra.Command, []string) error {
		c, _, err := connect()
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(context.Background(), askTime)
		defer cancel()
		switch {
		case *pinned:
			return a.listPins(ctx, c, *output)
		case *output == "":
			return a.listImages(ctx, c)
		case *output == "json": // a line each
			enc := json.NewEncoder(a.stdout)
			return c.Images(ctx, func(i cache.ImageInfo) error { return enc.Encode(i) })
		}
		return usageError("-o %s: only json is known", *output)
	})
	return cmd
}

func (a *app) listImages(ctx context.Context, c *admin.Client) error {
	now, n := time.Now(), 0
	err := c.Images(ctx, func(i cache.ImageInfo) error {
		if n++; n == 1 {
			fmt.Fprintf(a.stdout, "%-10s %-8s %-8s %-7s %-19s %s\n", "SIZE", "MISSING", "CHECKED", "PINNED", "DIGEST", "IMAGE")
		}
		missing, pinned := "-", "-"
		if i.Missing > 0 {
			missing = count(uint64(i.Missing))
		}
		if i.Pinned {
			pinned = "yes"
		}
		checked := age(i.Checked, now)
		if i.Imported {
			checked = "imported"
		}
		_, err := fmt.Fprintf(a.stdout, "%-10s %-8s %-8s %-7s %-19s %s\n",
			size(uint64(max(0, i.Bytes))), missing, checked, pinned, cutDigest(i.Digest), printable(i.Image))
		return err
	})
	if err == nil && n == 0 {
		fmt.Fprintln(a.stdout, "No image is cached.")
	}
	return err
}

// cutDigest is a digest as far as people read it.
func cutDigest(d string) string {
	alg, hex, ok := strings.Cut(d, ":")
	if !ok {
		return d
	}
	return alg + ":" + hex[:min(len(hex), 12)]
}

// notKnown is why an image is not known here.
func notKnown(i cache.ImageDetail) string {
	if i.Absence != nil {
		return absence(i.Absence, time.Now())
	}
	return "never seen, or gone: nobody has pulled it, or it was removed since"
}

func show(ctx context.Context, a *app, c *admin.Client, args []string, output string) error {
	if isDigest(args[0]) {
		return usageError("show takes an image: `cistern why %s` tells of a digest, and NAME@DIGEST is an image", args[0])
	}
	i, err := c.Image(ctx, args[0])
	if err != nil {
		return err
	}
	if i.Digest == "" {
		if output == "json" {
			_ = a.print(output, i, nil)
		}
		return fmt.Errorf("%s is not known here: %s; `cistern ls` lists what is cached", i.Image, notKnown(i))
	}
	return a.print(output, i, func() {
		now := time.Now()
		rows := [][]string{{"Image", i.Image}, {"Digest", i.Digest}, {"Here", size(uint64(max(0, i.Bytes)))}, {"Last used", age(i.LastUsed, now)}}
		switch {
		case i.Imported:
			rows = append(rows, []string{"Tag", "imported " + age(i.Changed, now) + " ago; upstream has not said anything yet"})
		case !i.Checked.IsZero():
			rows = append(rows, []string{"Tag", "names it, " + upstreamSaid(i, now)})
		case i.Gone:
			rows = append(rows, []string{"Tag", "not known any more: " + absence(i.Absence, now) + "; a pin keeps what it named last"})
		}
		for _, name := range i.Pins {
			rows = append(rows, []string{"Pinned", "by " + name})
		}
		table(a.stdout, nil, rows)
		fmt.Fprintln(a.stdout)
		table(a.stdout, []string{"KIND", "SIZE", "LAST USED", "PLATFORM", "DIGEST", "NOTE"}, partRows(i.Parts, now))
	})
}

func partRows(parts []cache.Part, now time.Time) (rows [][]string) {
	for _, p := range parts {
		bytes, note := "-", ""
		if p.Size >= 0 {
			bytes = size(uint64(p.Size))
		}
		switch {
		case p.Shared:
			note = "named above"
		case !p.Here:
			note = "not here: " + absence(p.Absence, now)
		case p.Ungranted:
			note = "here, not granted to this repository"
		case p.Origin == "import":
			note = "imported"
		}
		rows = append(rows, []string{p.Kind, bytes, age(p.LastUsed, now), p.Platform, cutDigest(p.Digest), note})
	}
	return rows
}

// absence is why something is not here, for people.
func absence(a *cache.Absence, now time.Time) string {
	if a == nil || a.At.IsZero() {
		return "never seen, or gone too long ago"
	}
	s := fmt.Sprintf("%s %s ago", a.Why, age(a.At, now))
	if a.Why == "not kept" {
		s += ": it was sent on, and there was no room for it, or the disk failed"
	}
	if !a.LastUsed.IsZero() {
		s += fmt.Sprintf(", last used %s ago", age(a.LastUsed, now))
	}
	return s
}

// why says of an image, or a digest, what the next pull would find.
func why(ctx context.Context, a *app, c *admin.Client, args []string, output string) error {
	if isDigest(args[0]) {
		if _, err := oci.ParseDigest(args[0]); err != nil {
			return usageError("%s is not all of a digest: `cistern show NAME -o json` gives them in full", args[0])
		}
		p, err := c.Blob(ctx, args[0])
		if err != nil {
			return err
		}
		return a.print(output, p, func() { a.whyParts([]cache.Part{p}) })
	}
	i, err := c.Image(ctx, args[0])
	if err != nil {
		return err
	}
	return a.print(output, i, func() {
		switch {
		case i.Digest == "":
			fmt.Fprintf(a.stdout, "%s is not here: %s\n", i.Image, notKnown(i))
			return
		case i.Gone:
			fmt.Fprintf(a.stdout, "%s is not known any more: %s; a pin keeps what it named last, %s\n", i.Image, absence(i.Absence, time.Now()), cutDigest(i.Digest))
		case i.Imported:
			fmt.Fprintf(a.stdout, "%s is %s, as an archive said %s ago; upstream has not said anything yet\n", i.Image, cutDigest(i.Digest), age(i.Changed, time.Now()))
		case !i.Checked.IsZero():
			fmt.Fprintf(a.stdout, "%s is %s, %s; %s\n", i.Image, cutDigest(i.Digest), upstreamSaid(i, time.Now()), window(i.Fresh, time.Now()))
		}
		a.whyParts(i.Parts)
	})
}

// upstreamSaid is since when upstream says that a tag names what it does.
func upstreamSaid(i cache.ImageDetail, now time.Time) string {
	s := fmt.Sprintf("as upstream said last %s ago, and first %s ago", age(i.Checked, now), age(i.Changed, now))
	if i.Was != "" {
		s += ", when the tag moved from " + cutDigest(i.Was)
	}
	return s
}

// window is what the next pull of a tag finds of its freshness.
func window(fresh, now time.Time) string {
	if fresh.After(now) {
		return fmt.Sprintf("it is not asked again for %s", age(now, fresh))
	}
	return fmt.Sprintf("its window expired %s ago: the next pull asks whether the tag has moved", age(fresh, now))
}

func (a *app) whyParts(parts []cache.Part) {
	now, here, known, platforms := time.Now(), 0, 0, 0
	for _, p := range parts {
		switch {
		case p.Shared:
			continue
		case !p.Here && p.Platform != "" && p.Absence != nil && p.Absence.At.IsZero():
			platforms++
			continue
		case p.Here:
			here++
			if p.Ungranted {
				fmt.Fprintf(a.stdout, "%s %s is here, and not granted: the next pull asks upstream whether this repository holds it\n", p.Kind, cutDigest(p.Digest))
			}
			if len(parts) == 1 {
				fmt.Fprintf(a.stdout, "%s %s is here since %s, last used %s ago\n", p.Kind, cutDigest(p.Digest), age(p.FirstSeen, now), age(p.LastUsed, now))
			}
		default:
			fmt.Fprintf(a.stdout, "%s %s is not here: %s\n", printable(strings.TrimSpace(p.Platform+" "+p.Kind)), cutDigest(p.Digest), absence(p.Absence, now))
		}
		known++
	}
	if len(parts) > 1 {
		fmt.Fprintf(a.stdout, "%d of its %d parts are here\n", here, known)
	}
	if platforms > 0 {
		fmt.Fprintf(a.stdout, "and nobody has pulled %d of its platforms\n", platforms)
	}
}

// evictCommand is `cistern evict --dry-run`.
func (a *app) evictCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "evict --dry-run", Short: "Show what would be evicted next, and why", Args: noArgs}
	dry := cmd.Flags().Bool("dry-run", false, "only show it; the cache evicts by itself, when it needs the space")
	bytes := cmd.Flags().String("bytes", "1GiB", "`SIZE` that would be needed")
	output, connect := outputFlag(cmd), a.adminFlags(cmd)
	cmd.RunE = failing(func(*cobra.Command, []string) error {
		want, perr := humanize.ParseBytes(*bytes)
		switch {
		case !*dry:
			return usageError("evict only shows what would go: say --dry-run; `cistern rm NAME` removes an image")
		case perr != nil || want == 0 || want > 1<<62:
			return usageError("--bytes %s: want a size such as 10GiB", *bytes)
		}
		c, _, err := connect()
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(context.Background(), askTime)
		defer cancel()
		e, err := c.EvictNext(ctx, int64(want))
		if err != nil {
			return err
		}
		return a.print(*output, e, func() { a.evictionTable(e) })
	})
	return cmd
}

func (a *app) evictionTable(e admin.Eviction) {
	if len(e.Next) == 0 {
		fmt.Fprintln(a.stdout, "Nothing can be evicted.")
		return
	}
	var rows [][]string
	sum := int64(0)
	for _, n := range e.Next {
		sum += n.Allocated
		why := "not used since"
		if n.Once {
			why = "not used again since it came: counts as twice as old"
		}
		rows = append(rows, []string{age(n.LastUsed, time.Now()), size(uint64(n.Allocated)), n.Class, why, n.Digest}) // in full: `cistern why` wants it so
	}
	table(a.stdout, []string{"LAST USED", "ON DISK", "CLASS", "WHY", "DIGEST"}, rows)
	fmt.Fprintf(a.stdout, "%d blobs, %s in all, the oldest first; what is pinned, read, or of a class at its floor is passed over\n", len(e.Next), size(uint64(sum)))
}
