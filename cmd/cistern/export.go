package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

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
has matched its digest and nothing is missing that a manifest names. Nothing is fetched: what is not
cached is pulled through the cache first. Like cp, it does not wait for the disk: run sync, or unmount
the medium, before you take it away.

  cistern export -o images.tar nginx:1.27 ghcr.io/org/app:v3
  cistern export -o new.tar --since images.tar --split 4GB --from access`,
	}
	x := export{a: a}
	flags := cmd.Flags()
	flags.StringVarP(&x.to.Path, "output", "o", "", "`PATH` of the archive: a directory if it ends in a slash or is one, else a tar; -: a tar on standard output")
	from := flags.String("from", "", "\"access\": each image that clients have pulled and that is whole in the cache")
	since := flags.StringArray("since", nil, "leave out the blobs of this `ARCHIVE`, which is to be imported before; may be given again")
	split := flags.String("split", "", "`SIZE` of the parts of the tar, such as 4GB: PATH.000, PATH.001 and so on")
	connect := a.adminFlags(cmd)
	complete := a.completeImages(func() (*admin.Client, error) { c, _, err := connect(); return c, err })
	cmd.ValidArgsFunction = func(cmd *cobra.Command, _ []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return complete(cmd, nil, begun) // it takes several
	}
	cmd.RunE = failing(func(_ *cobra.Command, names []string) (err error) {
		switch {
		case x.to.Path == "":
			return usageError("say where to: -o images.tar, -o DIRECTORY/, or -o - for standard output")
		case *from != "" && *from != "access":
			return usageError("--from %s: only access is known", *from)
		case (*from == "") == (len(names) == 0):
			return usageError("name the images, or say --from access")
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
		return x.run(ctx, names, *since)
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

	bundles []cache.Bundle
	known   map[oci.Digest][]string // what earlier archives have, and of which repositories
	since   []oci.Digest
	blobs   []cache.Carried // to be copied, each once
	left    []cache.Carried // because earlier archives have them
	docs    map[oci.Digest][]byte
}

func (x *export) run(ctx context.Context, names, since []string) (err error) {
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
	for _, p := range x.left {
		w.Elsewhere(p.Digest)
	}
	index, err := x.write(ctx, w)
	if err == nil {
		_, err = w.Finish(index)
	}
	if err != nil {
		if ctx.Err() != nil {
			err = errors.New("interrupted: nothing is exported")
		}
		return errors.Join(err, w.Abort())
	}
	x.summary(w)
	return nil
}

// knowSince learns what earlier archives have.
func (x *export) knowSince(archives []string) error {
	x.known = map[oci.Digest][]string{}
	for _, paths := range layout.Sets(archives) {
		a, err := layout.Open(paths...)
		if err != nil {
			return err
		}
		x.since = append(x.since, a.Digest())
		for _, i := range a.Index().Images {
			var pieces []layout.Piece
			if pieces, err = a.Pieces(i); err != nil {
				break
			}
			for _, p := range pieces {
				x.known[p.Digest] = append(x.known[p.Digest], repositoryOf(i.Name))
			}
		}
		if err := errors.Join(err, a.Close()); err != nil {
			return err
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
	all := len(names) == 0
	if all {
		err := x.c.Images(ctx, func(i cache.ImageInfo) error {
			names = append(names, i.Image)
			return nil
		})
		if err != nil {
			return err
		}
	}
	seen := map[string]bool{}
	for _, name := range names {
		b, err := x.c.Bundle(ctx, name)
		switch {
		case err != nil && all && ctx.Err() == nil:
			fmt.Fprintf(x.a.stderr, "left out: %v\n", err)
			continue
		case err != nil:
			return err
		}
		for _, p := range b.Partial {
			fmt.Fprintf(x.a.stderr, "left out of %s: %s\n", b.Image, p)
		}
		if !seen[b.Image] {
			seen[b.Image] = true
			x.bundles = append(x.bundles, b)
		}
	}
	if len(x.bundles) == 0 {
		return errors.New("no image is whole in the cache")
	}
	return nil
}

// choose decides what is copied. A private blob is left out only where an earlier archive
// has it for the same repository: who imports wants to see it, before another one may have it.
func (x *export) choose() {
	seen, left := map[oci.Digest]bool{}, map[oci.Digest]bool{}
	for _, b := range x.bundles {
		for _, p := range b.Pieces {
			in, known := x.known[p.Digest]
			known = known && (!p.Private || slices.Contains(in, repositoryOf(b.Image)))
			switch {
			case p.Manifest || seen[p.Digest] || known && left[p.Digest]:
			case known:
				left[p.Digest] = true
				x.left = append(x.left, p)
			default:
				seen[p.Digest] = true
				x.blobs = append(x.blobs, p)
			}
		}
	}
	x.left = slices.DeleteFunc(x.left, func(p cache.Carried) bool { return seen[p.Digest] })
}

// atOnce is how many blobs are copied at a time: the daemon's processor sends one while
// ours hashes the other.
const atOnce = 2

// write copies blobs and manifests, and gives what index.json is to say.
func (x *export) write(ctx context.Context, w *layout.Writer) (layout.Index, error) {
	total := int64(0)
	for _, p := range x.blobs {
		total += p.Size
	}
	bar := x.a.progress("export", total)
	defer bar.end()
	g, gctx := errgroup.WithContext(ctx)
	if g.SetLimit(atOnce); !layout.IsDir(x.to.Path) || x.to.Out != nil {
		g.SetLimit(1)
	}
	for _, p := range x.blobs {
		g.Go(func() error {
			body, err := x.c.OpenBlob(gctx, p.Digest)
			if err != nil {
				return err
			}
			defer body.Close()
			err = w.Blob(oci.Descriptor{Digest: p.Digest, Size: p.Size}, bar.of(body))
			if errors.Is(err, layout.ErrMismatch) {
				err = fmt.Errorf("%w: its file in the cache is damaged; drop it by cistern rm %s, and pull the image again", err, p.Digest)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return layout.Index{}, err
	}
	x.docs = map[oci.Digest][]byte{}
	index := layout.Index{Since: x.since}
	for _, b := range x.bundles {
		i, err := x.manifests(ctx, w, b)
		if err != nil {
			return index, err
		}
		index.Images = append(index.Images, i)
	}
	return index, nil
}

// manifests writes those of an image, and those that stand for them where other tools read.
func (x *export) manifests(ctx context.Context, w *layout.Writer, b cache.Bundle) (layout.Image, error) {
	for _, p := range b.Pieces {
		if !p.Manifest || x.docs[p.Digest] != nil {
			continue
		}
		body, err := x.c.OpenBlob(ctx, p.Digest)
		if err != nil {
			return layout.Image{}, err
		}
		doc, err := io.ReadAll(io.LimitReader(body, layout.MaxManifest+1))
		body.Close()
		if err == nil {
			err = w.Manifest(p.Digest, doc)
		}
		if err != nil {
			return layout.Image{}, err
		}
		x.docs[p.Digest] = doc
	}
	root := oci.Descriptor{MediaType: b.Target.MediaType, Digest: b.Target.Digest, Size: b.Target.Size}
	docs, err := layout.Portable(root, func(d oci.Digest) ([]byte, error) { return x.docs[d], nil })
	if err != nil {
		return layout.Image{}, err
	}
	i := layout.Image{Name: b.Image, Original: root, Target: root, Private: b.Private}
	for _, doc := range docs {
		if err := w.Manifest(doc.Digest, doc.Bytes); err != nil {
			return i, err
		}
		i.Target = doc.Descriptor
	}
	return i, nil
}

// summary says what was exported: beside the archive, if that is on standard output.
func (x *export) summary(w *layout.Writer) {
	to, name := x.a.stdout, x.to.Path
	if x.to.Out != nil {
		to, name = x.a.stderr, "standard output"
	}
	var rows [][]string
	for _, b := range x.bundles {
		bytes := int64(0)
		for _, p := range b.Pieces {
			bytes += p.Size
		}
		platforms := strings.Join(b.Platforms, ",")
		if rest := b.Absent + len(b.Partial); rest > 0 {
			platforms += fmt.Sprintf(" (%d more are not here)", rest)
		}
		rows = append(rows, []string{size(uint64(bytes)), cutDigest(b.Target.Digest.String()), b.Image, platforms})
	}
	table(to, []string{"SIZE", "DIGEST", "IMAGE", "PLATFORMS"}, rows)
	n, bytes := w.Written()
	fmt.Fprintf(to, "%s: %d images, %s blobs and manifests, %s: all verified, and nothing is missing\n", name, len(rows), count(uint64(n)), size(uint64(bytes)))
	if len(x.left) > 0 {
		fmt.Fprintf(to, "%s blobs are in what it builds on: import that first\n", count(uint64(len(x.left))))
	}
}
