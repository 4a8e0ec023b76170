package main

import (
	"context"
	"errors"
	"fmt"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"cistern/cache"
	"cistern/internal/admin"
	"cistern/internal/layout"
	"cistern/internal/oci"
)

// exportCommand is `cistern export`. The daemon gives lists and blobs; the archive is made
// here, where its files are to lie.
func (a *app) exportCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "export NAME... | --from access", Short: "Write cached images to an archive: an OCI layout, for `cistern import` and other tools",
		Long: `Write cached images to an archive: an OCI image layout, which cistern import, skopeo and crane read.

It holds all platforms of an image that are whole in the cache, and is done only when every byte
has matched its digest and nothing is missing that a manifest names. With --from access an image that
cannot be carried is named on standard error, and left out. Nothing is fetched: what is not
cached is pulled through the cache first. Like cp, it does not wait for the disk: run sync, or unmount
the medium, before you take it away.

  cistern export -o images.tar nginx:1.27 ghcr.io/org/app:v3
  cistern export -o new.tar --since images.tar --split 4GB --from access`,
	}
	x := export{a: a}
	flags := cmd.Flags()
	flags.StringVarP(&x.to.Path, "output", "o", "", "`PATH` of the archive: a directory if it ends in a slash or is one, else a tar; -: a tar on standard output")
	from := flags.String("from", "", "`access`: each image that clients have pulled and that is whole in the cache")
	since := flags.StringArray("since", nil, "leave out the blobs of this `ARCHIVE`, which is to be imported before; may be given again")
	split := flags.String("split", "", "`SIZE` of the parts of the tar, such as 4GB: PATH.000, PATH.001 and so on")
	connect := a.adminFlags(cmd)
	complete := a.completeImages(func() (*admin.Client, error) { c, _, err := connect(); return c, err }, false)
	cmd.ValidArgsFunction = func(cmd *cobra.Command, _ []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return complete(cmd, nil, begun) // it takes several
	}
	cmd.RunE = failing(func(_ *cobra.Command, names []string) (err error) {
		switch {
		case x.to.Path == "":
			return usageError("say where to: -o images.tar, -o DIRECTORY/, or -o - for standard output")
		case x.to.Path == "-" && onTerminal(a.stdout):
			return usageError("standard output is a terminal: say -o images.tar, or lead it to a file or a program")
		case *from != "" && *from != "access":
			return usageError("--from %s: only access is known", *from)
		case (*from == "") == (len(names) == 0):
			return usageError("name the images, or say --from access, and not both")
		}
		if x.to.Split, err = splitSize(*split, x.to.Path); err != nil {
			return err
		}
		if x.c, _, err = connect(); err != nil {
			return err
		}
		ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
		defer cancel()
		gentle()
		return plainly(x.run(ctx, names, *since))
	})
	return cmd
}

func splitSize(s, path string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	n, err := humanize.ParseBytes(s)
	switch {
	case err != nil || n == 0 || n > 1<<62:
		return 0, usageError("--split %s: want a size such as 4GB", s)
	case path == "-" || layout.IsDir(path):
		return 0, usageError("--split: only a tar in a file is split")
	}
	return int64(n), nil
}

// export is one run of the verb.
type export struct {
	a  *app
	c  *admin.Client
	to layout.Options

	all    bool // that can be carried: what cannot is left out
	images []*carry
	parts  []*part // to be copied, each once

	known  map[held]bool // what earlier archives have
	since  []oci.Digest  // these archives
	unseen []oci.Digest  // those that they build on, which nobody has looked at
	left   []oci.Digest  // the blobs that are not copied because of them

	mu      sync.Mutex // guards out of images, and below
	out     []error    // why images are left out, as far as it is not said yet
	leftOut int        // how many
}

// held is a blob as an archive has it. What is there for another repository counts for nothing:
// where it is imported it may be private, and then it is granted to that repository alone.
type held struct {
	digest     oci.Digest
	size       int64
	repository string
}

// carry is an image that is exported.
type carry struct {
	cache.Bundle
	docs     map[oci.Digest][]byte // its manifests
	portable []layout.Document     // and what stands for them where other tools read
	out      bool                  // it is left out after all
}

// part is a blob that is copied, of all these images.
type part struct {
	cache.Carried
	of []*carry
}

func (x *export) run(ctx context.Context, names, since []string) (err error) {
	defer func() {
		if err != nil && ctx.Err() != nil {
			err = errors.New("interrupted: nothing is exported")
		}
	}()
	if x.to.Path == "-" {
		x.to.Out = x.a.stdout
	}
	if err := x.knowSince(since); err != nil {
		return err
	}
	if err := x.list(ctx, names); err != nil {
		return err
	}
	x.choose()
	w, err := layout.Create(x.to)
	if err != nil {
		return err
	}
	for _, d := range x.left {
		w.Elsewhere(d)
	}
	index, err := x.write(ctx, w)
	if err == nil {
		_, err = w.Finish(index)
	}
	if err != nil {
		return errors.Join(err, w.Abort())
	}
	x.summary(w)
	return nil
}

// knowSince learns what earlier archives have: what they hold, not what they say. Only what they have
// left out themselves, for an archive that is not among them, is believed.
func (x *export) knowSince(archives []string) (err error) {
	var bases []*layout.Archive
	defer func() {
		for _, a := range bases {
			err = errors.Join(err, a.Close())
		}
	}()
	for _, paths := range layout.Sets(archives) {
		a, err := layout.Open(paths...)
		if err != nil {
			return err
		}
		bases = append(bases, a)
		x.since = append(x.since, a.Digest())
		if x.to.Out == nil && a.LiesAt(x.to.Path) {
			return fmt.Errorf("-o %s is what --since %s names: without that, the new archive is worth nothing; name another file", x.to.Path, a.Name())
		}
	}
	x.known = map[held]bool{}
	for _, a := range bases {
		chained := false
		for _, d := range a.Index().Since {
			if !slices.Contains(x.since, d) {
				chained = true
				x.unseen = append(x.unseen, d)
			}
		}
		for _, i := range a.Index().Images {
			pieces, err := a.Pieces(i)
			if err != nil {
				return err
			}
			for _, p := range pieces {
				if n, here := a.Size(p.Digest); here && n == p.Size || !here && chained {
					x.known[held{p.Digest, p.Size, repositoryOf(i.Name)}] = true
				}
			}
		}
	}
	return nil
}

// repositoryOf is an image's name without tag and digest.
func repositoryOf(name string) string {
	name, _, _ = strings.Cut(name, "@")
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		name = name[:i]
	}
	return name
}

// list asks what is to be carried of the images; without names, of all that are whole.
func (x *export) list(ctx context.Context, names []string) error {
	x.all = len(names) == 0
	if x.all {
		err := x.c.Images(ctx, func(i cache.ImageInfo) error {
			names = append(names, i.Image)
			return nil
		})
		if err != nil {
			return err
		}
	}
	seen, docs := map[string]bool{}, map[oci.Digest][]byte{}
	for _, name := range names {
		c, err := x.take(ctx, name, docs)
		var why *unfit
		switch {
		case x.all && errors.As(err, &why):
			x.leaveOut(why)
			continue
		case err != nil:
			return err
		}
		for _, p := range c.Partial {
			fmt.Fprintf(x.a.stderr, "left out of %s: %s\n", printable(c.Image), printable(p))
		}
		if !seen[c.Image] {
			seen[c.Image] = true
			x.images = append(x.images, c)
			x.to.Private = x.to.Private || c.Private
		}
	}
	x.sayOut()
	if len(x.images) == 0 {
		return errors.New("no image is whole in the cache")
	}
	return nil
}

// choose decides what is copied: what no earlier archive has for the same repository.
func (x *export) choose() {
	copied, left := map[oci.Digest]*part{}, map[oci.Digest]bool{}
	for _, c := range x.images {
		for _, p := range c.Pieces {
			switch at := copied[p.Digest]; {
			case p.Manifest:
			case at != nil:
				at.of = append(at.of, c)
			case x.known[held{p.Digest, p.Size, repositoryOf(c.Image)}]:
				left[p.Digest] = true
			default:
				at = &part{p, []*carry{c}}
				copied[p.Digest] = at
				x.parts = append(x.parts, at)
			}
		}
	}
	for d := range left {
		if copied[d] == nil {
			x.left = append(x.left, d)
		}
	}
}

// summary says what was exported: beside the archive, if that is on standard output.
func (x *export) summary(w *layout.Writer) {
	to, name := x.a.stdout, x.to.Path
	if x.to.Out != nil {
		to, name = x.a.stderr, "standard output"
	}
	var rows [][]string
	for _, c := range x.images {
		if c.out {
			continue
		}
		bytes := int64(0)
		for _, p := range c.Pieces {
			bytes += p.Size
		}
		platforms := strings.Join(c.Platforms, ",")
		if rest := c.Absent + len(c.Partial); rest > 0 {
			platforms += fmt.Sprintf(" (%d more are not here)", rest)
		}
		rows = append(rows, []string{size(uint64(bytes)), cutDigest(c.Target.Digest.String()), c.Image, platforms})
	}
	table(to, []string{"SIZE", "DIGEST", "IMAGE", "PLATFORMS"}, rows)
	n, bytes := w.Written()
	fmt.Fprintf(to, "%s: %d images, %s blobs and manifests, %s: all verified, and nothing is missing\n", name, len(rows), count(uint64(n)), size(uint64(bytes)))
	if len(x.left) > 0 {
		fmt.Fprintf(to, "%s blobs are in what it builds on: import that first\n", count(uint64(len(x.left))))
	}
	for _, d := range x.unseen {
		fmt.Fprintf(to, "what it builds on builds itself on another archive, which was not looked at (index.json %s): import that before\n", d)
	}
	if x.leftOut > 0 {
		fmt.Fprintf(to, "%d images were left out, as said on standard error\n", x.leftOut)
	}
}
