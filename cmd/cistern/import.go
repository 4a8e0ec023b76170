package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"cistern/cache"
	"cistern/internal/admin"
	"cistern/internal/layout"
	"cistern/internal/oci"
)

// importCommand is `cistern import`.
func (a *app) importCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "import ARCHIVE...", Short: "Take the images of archives into the cache", Args: cobra.MinimumNArgs(1),
		Long: `Take the images of archives into the cache: of those that cistern export has written, and of OCI image
layouts by others that name their images in full. An archive is a directory, a tar, or the first or all
of the parts of one.

Every byte is checked against its digest. A tag of which upstream has said something stays as it is; one that
was imported is served for as long as upstream says nothing, where it cannot be reached for ever.`,
	}
	m := importing{a: a}
	output, connect := outputFlag(cmd), a.adminFlags(cmd)
	cmd.RunE = failing(func(_ *cobra.Command, paths []string) (err error) {
		if *output != "" && *output != "json" {
			return usageError("-o %s: only json is known", *output)
		}
		if m.c, _, err = connect(); err != nil {
			return err
		}
		ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
		defer cancel()
		for _, set := range layout.Sets(paths) {
			if err := m.archive(ctx, set); err != nil {
				return err
			}
		}
		return a.print(*output, m.done, m.summary)
	})
	return cmd
}

// importing is one run of the verb.
type importing struct {
	a    *app
	c    *admin.Client
	done []cache.Imported
}

// archive imports all images of one archive.
func (m *importing) archive(ctx context.Context, paths []string) error {
	from, err := layout.Open(paths...)
	if err != nil {
		return err
	}
	defer from.Close()
	var bundles []cache.Bundle
	total, counted := int64(0), map[oci.Digest]bool{}
	for _, i := range from.Index().Images {
		b, err := bundleOf(from, i)
		if err != nil {
			return err
		}
		missing, err := m.missing(ctx, from, b)
		if err != nil {
			return err
		}
		for _, p := range missing {
			if !counted[p.Digest] {
				total += p.Size
				counted[p.Digest] = true
			}
		}
		bundles = append(bundles, b)
	}
	bar := m.a.progress("import", total)
	defer bar.end()
	for _, b := range bundles {
		missing, err := m.missing(ctx, from, b)
		if err != nil {
			return err
		}
		if err := m.send(ctx, from, b, missing, bar); err != nil {
			return err
		}
	}
	return m.confirm(ctx, bundles)
}

// bundleOf is an image of an archive as the daemon wants it.
func bundleOf(from *layout.Archive, i layout.Image) (cache.Bundle, error) {
	b := cache.Bundle{Image: i.Name, Private: i.Private, Pieces: []cache.Carried{}}
	if i.Name == "" {
		return b, fmt.Errorf("archive %s: its index.json names no image for %s: write it with one, such as skopeo copy ... oci:DIRECTORY:docker.io/library/nginx:1.27", from.Name(), i.Target.Digest)
	}
	pieces, err := from.Pieces(i)
	if err != nil {
		return b, err
	}
	for _, p := range pieces {
		b.Pieces = append(b.Pieces, cache.Carried{Digest: p.Digest, MediaType: p.MediaType, Size: p.Size, Manifest: p.Manifest, Private: i.Private})
	}
	b.Target = b.Pieces[len(b.Pieces)-1]
	return b, nil
}

// missing hands a bundle over, and gives what is to be sent of it: an error if the archive does not have it.
func (m *importing) missing(ctx context.Context, from *layout.Archive, b cache.Bundle) (missing []cache.Carried, err error) {
	i, err := m.c.Import(ctx, b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", b.Image, err)
	}
	lacks := 0
	for _, p := range b.Pieces {
		if !slices.Contains(i.Missing, p.Digest) {
			continue
		}
		n, ok := from.Size(p.Digest)
		switch {
		case !ok:
			lacks++
		case n != p.Size:
			return nil, fmt.Errorf("archive %s: blob %s has %d bytes, and its manifest says %d", from.Name(), p.Digest, n, p.Size)
		}
		missing = append(missing, p)
	}
	switch since := from.Index().Since; {
	case lacks > 0 && len(since) > 0:
		return nil, fmt.Errorf("archive %s holds only what is new since another one (index.json %s), and %d blobs of %s are not here: import that one first", from.Name(), since[0], lacks, b.Image)
	case lacks > 0:
		return nil, fmt.Errorf("archive %s lacks %d blobs of %s: export it again", from.Name(), lacks, b.Image)
	}
	return missing, nil
}

// send sends parts of a bundle: blobs first, since the manifests are the last of them.
func (m *importing) send(ctx context.Context, from *layout.Archive, b cache.Bundle, parts []cache.Carried, bar *progress) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for _, p := range parts {
		g.Go(func() error {
			body, _, err := from.Blob(p.Digest)
			if err != nil {
				return err
			}
			defer body.Close()
			if err := m.c.ImportBlob(gctx, b.Image, p, bar.of(io.LimitReader(body, p.Size))); err != nil {
				return fmt.Errorf("%s: %w", b.Image, err)
			}
			return nil
		})
	}
	err := g.Wait()
	if ctx.Err() != nil {
		return errors.New("interrupted: what was imported stays, and the rest can be imported later")
	}
	return err
}

// confirm has the daemon name the images, now that all of them is there, or was.
func (m *importing) confirm(ctx context.Context, bundles []cache.Bundle) error {
	for _, b := range bundles {
		i, err := m.c.Import(ctx, b)
		if err == nil && len(i.Missing) > 0 {
			err = fmt.Errorf("%d of its parts went while the rest was imported: the cache is too small for all of the archive; set a larger cache.max_size", len(i.Missing))
		}
		if err != nil {
			return fmt.Errorf("%s: %w", b.Image, err)
		}
		m.done = append(m.done, i)
	}
	return nil
}

func (m *importing) summary() {
	var rows [][]string
	for _, i := range m.done {
		word := "-"
		switch i.Tag {
		case cache.TagImported:
			word = "imported"
		case cache.TagUpstream:
			word = "not moved: upstream said so " + age(i.Checked, time.Now()) + " ago"
		}
		rows = append(rows, []string{cutDigest(i.Now.String()), i.Image, word})
	}
	table(m.a.stdout, []string{"DIGEST", "IMAGE", "TAG"}, rows)
}
