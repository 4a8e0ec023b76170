package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"cistern/internal/layout"
	"cistern/internal/oci"
)

// unfit is why one image cannot be carried, which says nothing of others.
type unfit struct{ error }

// Unwrap gives the cause.
func (u *unfit) Unwrap() error { return u.error }

// leaveOut notes that images are left out, and why; sayOut says so.
func (x *export) leaveOut(why error) {
	x.out = append(x.out, why)
	x.leftOut++
}

func (x *export) sayOut() {
	for _, why := range x.out {
		fmt.Fprintf(x.a.stderr, "left out: %s\n", printable(why.Error()))
	}
	x.out = nil
}

// take asks what is to be carried of an image, and fetches its manifests, before anything is written: what
// is wrong with them is wrong with this image alone. docs holds the manifests that are fetched already. An error
// is an unfit, unless the daemon does not answer as it should.
func (x *export) take(ctx context.Context, name string, docs map[oci.Digest][]byte) (*carry, error) {
	b, err := x.c.Bundle(ctx, name)
	if errors.Is(err, oci.ErrNotFound) {
		return nil, &unfit{err}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	c := &carry{Bundle: b, docs: map[oci.Digest][]byte{}}
	for _, p := range b.Pieces {
		if !p.Manifest {
			continue
		}
		if docs[p.Digest] == nil {
			if docs[p.Digest], err = x.manifest(ctx, b.Image, p.Digest); err != nil {
				return nil, err
			}
		}
		c.docs[p.Digest] = docs[p.Digest]
	}
	if err := c.check(); err != nil {
		return nil, &unfit{fmt.Errorf("%s cannot be carried: %w", b.Image, err)}
	}
	return c, nil
}

// manifest fetches one of an image, verified.
func (x *export) manifest(ctx context.Context, image string, d oci.Digest) ([]byte, error) {
	body, err := x.c.OpenBlob(ctx, d)
	if errors.Is(err, oci.ErrNotFound) {
		return nil, &unfit{fmt.Errorf("%s: %w", image, err)}
	}
	if err != nil {
		return nil, err
	}
	defer body.Close()
	doc, err := io.ReadAll(io.LimitReader(body, layout.MaxManifest+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("fetch manifest %s: %w", d, err)
	case !d.Verify(doc):
		return nil, &unfit{fmt.Errorf("%s: manifest %s: %w", image, d, damaged(layout.ErrMismatch))}
	}
	return doc, nil
}

// damaged says what to do about a blob whose bytes are wrong.
func damaged(err error) error {
	return fmt.Errorf("%w: its file in the cache is damaged: `cistern verify --repair` sets it aside and fetches it again", err)
}

// check finds out whether the image has what its manifests name, as they name it.
func (c *carry) check() error {
	sizes := map[oci.Digest]int64{}
	for _, p := range c.Pieces {
		sizes[p.Digest] = p.Size
	}
	doc := func(d oci.Digest) ([]byte, error) { return c.docs[d], nil }
	pieces, err := layout.Pieces(c.target(), true, doc)
	if err != nil {
		return err
	}
	for _, p := range pieces {
		n, here := sizes[p.Digest]
		switch {
		case !here:
			return fmt.Errorf("blob %s is not here", p.Digest)
		case n != p.Size:
			return fmt.Errorf("blob %s has %d bytes, and its manifest says %d", p.Digest, n, p.Size)
		}
	}
	c.portable, err = layout.Portable(c.target(), doc)
	return err
}

// target is what the image's name means.
func (c *carry) target() oci.Descriptor {
	return oci.Descriptor{MediaType: c.Target.MediaType, Digest: c.Target.Digest, Size: c.Target.Size}
}

// atOnce is how many blobs are copied at a time: the daemon's processor sends one while
// ours hashes the other.
const atOnce = 2

// write copies blobs and manifests, and gives what index.json is to say.
func (x *export) write(ctx context.Context, w *layout.Writer) (layout.Index, error) {
	err := x.copyAll(ctx, w)
	x.sayOut()
	index := layout.Index{Since: x.since}
	if err != nil {
		return index, err
	}
	for _, c := range x.images {
		if c.out {
			continue
		}
		i := layout.Image{Name: c.Image, Original: c.target(), Target: c.target(), Private: c.Private}
		for _, p := range c.Pieces {
			if !p.Manifest {
				continue
			}
			if err := w.Manifest(p.Digest, c.docs[p.Digest]); err != nil {
				return index, err
			}
		}
		for _, doc := range c.portable {
			if err := w.Manifest(doc.Digest, doc.Bytes); err != nil {
				return index, err
			}
			i.Target = doc.Descriptor
		}
		index.Images = append(index.Images, i)
	}
	if len(index.Images) == 0 {
		return index, errors.New("no image is whole in the cache any more")
	}
	return index, nil
}

// copyAll copies the blobs.
func (x *export) copyAll(ctx context.Context, w *layout.Writer) error {
	total := int64(0)
	for _, p := range x.parts {
		total += p.Size
	}
	bar := x.a.progress("export", total)
	defer bar.end()
	g, ctx := errgroup.WithContext(ctx)
	if g.SetLimit(atOnce); !layout.IsDir(x.to.Path) || x.to.Out != nil {
		g.SetLimit(1)
	}
	for _, p := range x.parts {
		g.Go(func() error { return x.copy(ctx, w, p, bar) })
	}
	return g.Wait()
}

// copy copies a blob, for the images that are not left out by now.
func (x *export) copy(ctx context.Context, w *layout.Writer, p *part, bar *progress) error {
	if !x.wanted(p) {
		return nil
	}
	body, err := x.c.OpenBlob(ctx, p.Digest)
	if x.all && errors.Is(err, oci.ErrNotFound) {
		x.gone(p, err)
		return nil
	}
	if err != nil {
		return err
	}
	defer body.Close()
	err = w.Blob(oci.Descriptor{Digest: p.Digest, Size: p.Size}, bar.of(body))
	if errors.Is(err, layout.ErrMismatch) {
		err = damaged(err)
	}
	return err
}

func (x *export) wanted(p *part) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.ContainsFunc(p.of, func(c *carry) bool { return !c.out })
}

// gone leaves out all images of a blob that went since they were listed.
func (x *export) gone(p *part, why error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, c := range p.of {
		if !c.out {
			c.out = true
			x.leaveOut(fmt.Errorf("%s: %w", c.Image, why))
		}
	}
}

// plainly gives an error of which nothing moves the cursor of whoever reads it, whatever archives and
// upstreams have put into it.
func plainly(err error) error {
	if err == nil {
		return nil
	}
	return &plain{err}
}

type plain struct{ error }

// Error is the text, in as many lines.
func (p *plain) Error() string {
	lines := strings.Split(p.error.Error(), "\n")
	for i, l := range lines {
		lines[i] = printable(l)
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives the error as it is.
func (p *plain) Unwrap() error { return p.error }
