package proxy

import (
	"context"
	"io"
	"strings"

	"cistern/cache"
	"cistern/internal/oci"
)

// Images that are carried out of here and in, by who may use the admin address.

// Bundle tells what of an image can be carried elsewhere. A name without a tag means
// latest. It asks nothing upstream.
func (h *Handler) Bundle(_ context.Context, name string) (cache.Bundle, error) {
	ref, err := h.one(name)
	if err != nil {
		return cache.Bundle{}, err
	}
	return h.cache.Bundle(ref)
}

// OpenKept opens what is here of a digest.
func (h *Handler) OpenKept(d oci.Digest) (*cache.Kept, error) { return h.cache.OpenKept(d) }

// Import takes in a bundle under the name that it has: an upstream that is configured
// here, and more, since an archive's word is no reason to guess. It is private if it was
// where it comes from, or if the upstream is asked with an account here.
func (h *Handler) Import(_ context.Context, b cache.Bundle) (cache.Imported, error) {
	t, ref, err := h.named(b.Image)
	if err != nil {
		return cache.Imported{}, err
	}
	b.Private = b.Private || t.up.Client.HasCredentials()
	return h.cache.Import(ref, b)
}

// ImportBlob keeps a part of a bundle, which r gives.
func (h *Handler) ImportBlob(ctx context.Context, image string, p cache.Carried, r io.Reader) error {
	t, ref, err := h.named(image)
	if err != nil {
		return err
	}
	p.Private = p.Private || t.up.Client.HasCredentials()
	return h.cache.ImportBlob(ctx, ref.Repository, p, r)
}

// named reads the name of an image that says which upstream it is of.
func (h *Handler) named(name string) (target, oci.Reference, error) {
	host, _, ok := strings.Cut(name, "/")
	if !ok {
		return target{}, oci.Reference{}, &oci.Error{Code: oci.CodeNameInvalid, Message: "the archive names an image " + oci.Quote(name) + ": want a name like docker.io/library/nginx:1.27, with the registry"}
	}
	if _, known := h.routes.lookup(host); !known {
		return target{}, oci.Reference{}, unknownUpstream(host)
	}
	t, ref, err := h.image(name)
	if err == nil && ref.Ref() == "" {
		ref.Tag = "latest"
	}
	return t, ref, err
}
