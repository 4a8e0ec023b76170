package proxy

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"net/http"

	"cistern/cache"
	"cistern/internal/oci"
)

//go:embed page.html
var pageHTML string

// page answers a browser at / with what this is and how to use it; anything
// else that is not of the registry API is a 404.
func (h *Handler) page(x *exchange) error {
	if x.r.URL.Path != "/" {
		return &oci.Error{Code: oci.CodeUnsupported, HTTPStatus: http.StatusNotFound, Message: "this is a registry cache: the registry API is under /v2/"}
	}
	t, err := template.New("page").Parse(pageHTML)
	if err != nil {
		return fmt.Errorf("the page: %w", err)
	}
	address := h.address
	if address == "" {
		address = "http://" + x.r.Host
	}
	var names []string
	for _, u := range h.routes.upstreams {
		names = append(names, u.Client.Name())
	}
	var b bytes.Buffer
	if err := t.Execute(&b, map[string]any{"Address": address, "Host": x.r.Host, "Upstreams": names, "Default": h.routes.standard}); err != nil {
		return fmt.Errorf("the page: %w", err)
	}
	x.outcome = cache.OutcomeHit
	x.w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	return x.write("text/html; charset=utf-8", b.Bytes())
}
