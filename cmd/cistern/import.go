package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"strings"
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
		Use: "import ARCHIVE...", Short: "Take the images of archives into the cache", Args: someArgs,
		Long: `Take the images of archives into the cache: of those that cistern export has written, and of OCI image
layouts by others that name their images in full. An archive is a directory, a tar, or the first or all
of the parts of one.

Every byte is checked against its digest, before it is sent and when it is kept. An image that cannot be
imported is named at the end, and keeps no others from it. A tag of which upstream has said something
stays as it is; one that was imported is served for as long as upstream says nothing, where it cannot be
reached for ever.`,
	}
	m := importing{a: a, done: []cache.Imported{}}
	output, connect := outputFlag(cmd), a.adminFlags(cmd)
	cmd.RunE = failing(func(_ *cobra.Command, paths []string) (err error) {
		gentle()
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
				m.failed = append(m.failed, err)
			}
			if ctx.Err() != nil {
				return errors.New("interrupted: what was imported stays, and the rest can be imported later")
			}
			if m.lost {
				break
			}
		}
		return errors.Join(a.print(*output, m.done, m.summary), m.failure())
	})
	return cmd
}

// importing is one run of the verb. An image that cannot be imported does not keep others from it.
type importing struct {
	a      *app
	c      *admin.Client
	done   []cache.Imported
	failed []error // each of an image, or of an archive that cannot be read
	lost   bool    // the daemon answers no more
}

// failure names all that was not imported; nil: nothing.
func (m *importing) failure() error {
	if n := len(m.failed); n > 1 {
		m.failed = append(m.failed, fmt.Errorf("%d failures: what was imported stays, and the rest can be imported later", n))
	}
	return plainly(errors.Join(m.failed...))
}

// each does something with each bundle, and gives those with which it went well.
func (m *importing) each(ctx context.Context, bundles []cache.Bundle, do func(b cache.Bundle) error) (well []cache.Bundle) {
	for _, b := range bundles {
		if ctx.Err() != nil || m.lost {
			return nil
		}
		if err := do(b); err != nil {
			m.failed = append(m.failed, fmt.Errorf("%s: %w", b.Image, err))
			m.lost = m.c.Healthy(ctx) != nil
			continue
		}
		well = append(well, b)
	}
	return well
}

// archive imports all images of one archive.
func (m *importing) archive(ctx context.Context, paths []string) error {
	from, err := layout.Open(paths...)
	if err != nil {
		return err
	}
	defer from.Close()
	bundles := m.bundles(ctx, from)
	total, counted := int64(0), map[oci.Digest]bool{}
	bundles = m.each(ctx, bundles, func(b cache.Bundle) error {
		missing, err := m.missing(ctx, from, b)
		for _, p := range missing {
			if !counted[p.Digest] {
				total += p.Size
				counted[p.Digest] = true
			}
		}
		return err
	})
	bar := m.a.progress("import", total)
	defer bar.end()
	bundles = m.each(ctx, bundles, func(b cache.Bundle) error {
		missing, err := m.missing(ctx, from, b)
		if err == nil {
			err = m.send(ctx, from, b, missing, bar)
		}
		return err
	})
	m.each(ctx, bundles, func(b cache.Bundle) error { return m.confirm(ctx, b) })
	return nil
}

// bundles are the images of an archive, each once. Names of the same share the list of what it
// consists of: a small archive can have many of a long one.
func (m *importing) bundles(ctx context.Context, from *layout.Archive) (bundles []cache.Bundle) {
	type image struct {
		name    string
		target  oci.Digest
		private bool
	}
	seen, pieces := map[image]bool{}, map[image][]cache.Carried{}
	for _, i := range from.Index().Images {
		named, unnamed := image{i.Name, i.Original.Digest, false}, image{"", i.Original.Digest, i.Private}
		if seen[named] {
			continue
		}
		seen[named] = true
		b, err := bundleOf(from, i, pieces[unnamed])
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			m.failed = append(m.failed, err)
			continue
		}
		pieces[unnamed] = b.Pieces
		bundles = append(bundles, b)
	}
	return bundles
}

// bundleOf is an image of an archive as the daemon wants it. pieces are what it consists of, if that is known.
func bundleOf(from *layout.Archive, i layout.Image, pieces []cache.Carried) (cache.Bundle, error) {
	b := cache.Bundle{Image: i.Name, Private: i.Private, Pieces: pieces}
	switch _, digest, has := strings.Cut(i.Name, "@"); {
	case i.Name == "":
		return b, fmt.Errorf("archive %s: its index.json names no image for %s: write it with one, such as skopeo copy ... oci:DIRECTORY:docker.io/library/nginx:1.27", from.Name(), i.Target.Digest)
	case printable(i.Name) != i.Name:
		return b, fmt.Errorf("archive %s: %q, as its index.json names an image, is no name", from.Name(), i.Name)
	case has && digest != i.Original.Digest.String():
		return b, fmt.Errorf("archive %s: what its index.json names %s is %s", from.Name(), i.Name, i.Original.Digest)
	}
	if len(pieces) == 0 {
		of, err := from.Pieces(i)
		if err != nil {
			return b, err
		}
		for _, p := range of {
			b.Pieces = append(b.Pieces, cache.Carried{Digest: p.Digest, MediaType: p.MediaType, Size: p.Size, Manifest: p.Manifest, Private: i.Private})
		}
	}
	b.Target = b.Pieces[len(b.Pieces)-1]
	return b, nil
}

// missing hands a bundle over, and gives what is to be sent of it: an error if the archive does not have it.
func (m *importing) missing(ctx context.Context, from *layout.Archive, b cache.Bundle) (missing []cache.Carried, err error) {
	i, err := m.c.Import(ctx, b)
	if err != nil {
		return nil, err
	}
	wanted := map[oci.Digest]bool{}
	for _, d := range i.Missing {
		wanted[d] = true
	}
	lacks := 0
	for _, p := range b.Pieces {
		if !wanted[p.Digest] {
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
		return nil, fmt.Errorf("archive %s holds only what is new since another one (index.json %s), and %d blobs are not here: import that one first", from.Name(), since[0], lacks)
	case lacks > 0:
		return nil, fmt.Errorf("archive %s lacks %d blobs of it: export it again", from.Name(), lacks)
	}
	return missing, nil
}

// send sends parts of a bundle: blobs first, since the manifests are the last of them.
func (m *importing) send(ctx context.Context, from *layout.Archive, b cache.Bundle, parts []cache.Carried, bar *progress) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for _, p := range parts {
		g.Go(func() error {
			// Hashed here first: room for it is made there, by evicting others.
			if err := from.Check(ctx, oci.Descriptor{Digest: p.Digest, Size: p.Size}); err != nil {
				return err
			}
			body, _, err := from.Blob(p.Digest)
			if err != nil {
				return err
			}
			defer body.Close()
			return m.c.ImportBlob(ctx, b.Image, p, bar.of(io.LimitReader(body, p.Size)))
		})
	}
	return g.Wait()
}

// confirm has the daemon name the image, now that all of it is there, or was.
func (m *importing) confirm(ctx context.Context, b cache.Bundle) error {
	i, err := m.c.Import(ctx, b)
	if err == nil && len(i.Missing) > 0 {
		err = fmt.Errorf("%d of its parts went while the rest was imported: the cache is too small for all of the archive; set a larger cache.max_size", len(i.Missing))
	}
	if err == nil {
		m.done = append(m.done, i)
	}
	return err
}

func (m *importing) summary() {
	if len(m.done) == 0 && len(m.failed) > 0 {
		return
	}
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
