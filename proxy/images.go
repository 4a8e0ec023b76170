package proxy

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/distribution/reference"

	"cistern/cache"
	"cistern/internal/oci"
)

// image reads an image's name as people write it on a command line: nginx,
// nginx:1.27, ghcr.io/org/x@sha256:... The parts that people leave out are
// those that docker adds; a name without a registry's host means the default
// upstream, and an upstream that is a label may stand where a host does.
func (h *Handler) image(name string) (target, oci.Reference, error) {
	full := name
	if first, _, ok := strings.Cut(name, "/"); !ok || !oci.LooksLikeHost(first) {
		if _, label := h.routes.lookup(first); !ok || !label {
			full = h.routes.standard + "/" + name
		}
	}
	host, path, _ := strings.Cut(full, "/")
	i, ok := h.routes.lookup(host)
	if !ok {
		return target{}, oci.Reference{}, unknownUpstream(host)
	}
	t := target{up: &h.routes.upstreams[i], index: i, book: h.routes.book}
	ref, err := parseWithin(t.up.Client.Name(), path)
	t.repo = ref.Name
	return t, ref, err
}

// parseWithin reads an image's name behind its upstream's.
func parseWithin(upstream, path string) (oci.Reference, error) {
	named, err := reference.ParseNormalizedNamed(domain(upstream) + "/" + path)
	if err != nil {
		return oci.Reference{}, &oci.Error{Code: oci.CodeNameInvalid, Message: "image " + oci.Quote(path) + " is not a name like nginx:1.27 or ghcr.io/org/x:v1", Err: err}
	}
	ref := oci.Reference{Repository: oci.Repository{Upstream: upstream, Name: reference.Path(named)}}
	if tagged, ok := named.(reference.Tagged); ok {
		ref.Tag = tagged.Tag()
	}
	if digested, ok := named.(reference.Digested); ok {
		ref.Tag = ""
		if ref.Digest, err = oci.ParseDigest(digested.Digest().String()); err != nil {
			return oci.Reference{}, err
		}
	}
	return ref, nil
}

// domain is what stands for an upstream in a name that is parsed: Docker Hub's
// own, for the sake of library/, and any for the others.
func domain(upstream string) string {
	if upstream == dockerHub {
		return dockerHub
	}
	return "registry.invalid"
}

// Refresh asks upstream about a tag now, fresh or not. A name without a tag
// means latest.
func (h *Handler) Refresh(ctx context.Context, name string) (Refreshed, error) {
	t, ref, err := h.image(name)
	if err != nil {
		return Refreshed{}, err
	}
	if !ref.Digest.IsZero() {
		return Refreshed{}, &oci.Error{Code: oci.CodeManifestInvalid, Message: "a digest never changes: refresh takes a tag"}
	}
	if ref.Tag == "" {
		ref.Tag = "latest"
	}
	before, now, err := h.cache.Refresh(ctx, t.handle(), ref)
	if err != nil {
		return Refreshed{}, fmt.Errorf("refreshing %s: %w", ref, err)
	}
	return Refreshed{Image: ref.String(), Before: before.String(), Now: now.String(), Changed: before != now}, nil
}

// Image describes an image: what it consists of, what of that is here, and why the rest
// is not. A name without a tag means latest. It asks nothing upstream.
func (h *Handler) Image(_ context.Context, name string) (cache.ImageDetail, error) {
	t, ref, err := h.image(name)
	if err != nil {
		return cache.ImageDetail{}, err
	}
	if ref.Ref() == "" {
		ref.Tag = "latest"
	}
	return h.cache.Image(ref, t.handle().Policy), nil
}

// one reads the name of one image.
func (h *Handler) one(name string) (oci.Reference, error) {
	_, ref, err := h.image(name)
	if err == nil && ref.Ref() == "" {
		ref.Tag = "latest"
	}
	return ref, err
}

// Pin keeps an image, whatever is evicted or removed. A name without a tag means latest.
func (h *Handler) Pin(_ context.Context, name string) (cache.Pin, error) {
	ref, err := h.one(name)
	if err != nil {
		return cache.Pin{}, err
	}
	p, err := h.cache.Pin(ref)
	if err != nil {
		return p, fmt.Errorf("pinning %s: %w", ref, err)
	}
	return p, nil
}

// Unpin gives an image free that was pinned by that name, or that is listed by it: its
// upstream may be configured no longer.
func (h *Handler) Unpin(_ context.Context, name string) (Unpinned, error) {
	pins, err := h.cache.Pins()
	if err != nil {
		return Unpinned{}, err
	}
	var ref oci.Reference
	if i := slices.IndexFunc(pins, func(p cache.Pin) bool { return p.Image == name }); i >= 0 {
		ref = pins[i].Reference
	} else if ref, err = h.one(name); err != nil {
		return Unpinned{}, err
	}
	if err := h.cache.Unpin(ref); err != nil {
		return Unpinned{}, fmt.Errorf("unpinning %s: %w", ref, err)
	}
	return Unpinned{ref.String()}, nil
}

// Unpinned names an image that is pinned no longer.
type Unpinned struct {
	Image string `json:"image"`
}

// Remove drops what is cached and not used by another image: of a tag or digest, of a
// repository with all its tags, of an upstream ("docker.io/"), or of a digest that stands
// alone, wherever it came from.
func (h *Handler) Remove(_ context.Context, name string) (cache.Removed, error) {
	ref, err := h.scope(name)
	if err != nil {
		return cache.Removed{}, err
	}
	removed, err := h.cache.Remove(ref)
	if err != nil {
		return removed, fmt.Errorf("removing %s: %w", name, err)
	}
	return removed, nil
}

// scope reads what is to be removed. A name that ends in a slash and has no other is an
// upstream's. What came from one that is not configured any more may be here still.
func (h *Handler) scope(name string) (oci.Reference, error) {
	if strings.HasPrefix(name, "sha256:") || strings.HasPrefix(name, "sha512:") {
		d, err := oci.ParseDigest(name)
		return oci.Reference{Digest: d}, err
	}
	bare := strings.TrimSuffix(name, "/")
	if bare != name && !strings.Contains(bare, "/") {
		i, ok := h.routes.lookup(bare)
		switch {
		case ok:
			return oci.Reference{Repository: oci.Repository{Upstream: h.routes.upstreams[i].Client.Name()}}, nil
		case oci.LooksLikeHost(bare):
			return oci.Reference{Repository: oci.Repository{Upstream: bare}}, nil
		}
	}
	host, path, _ := strings.Cut(bare, "/")
	if _, ok := h.routes.lookup(host); !ok && oci.LooksLikeHost(host) && path != "" {
		return parseWithin(host, path)
	}
	_, ref, err := h.image(bare)
	return ref, err
}
