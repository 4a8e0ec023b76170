package origin

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"cistern/bench/shape"
)

// controlHandler is the interface for the bench: the registry itself without the
// link, the tokens, the faults and the counters, and what sets and reads those.
func (s *Server) controlHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/v2/", func(w http.ResponseWriter, r *http.Request) {
		req := parse(r.URL.Path)
		if b := s.lib.blob(req.name, req.ref); req.kind == "blob" && b != nil {
			http.ServeContent(w, r, "", time.Time{}, b.Open())
			return
		}
		s.dispatch(w, r, req)
	})
	mux.HandleFunc("GET /counters", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(s.Counters())
	})
	mux.HandleFunc("POST /reset", func(http.ResponseWriter, *http.Request) { s.ResetCounters() })
	mux.HandleFunc("POST /link", func(w http.ResponseWriter, r *http.Request) {
		var spec shape.Spec
		if decode(w, r, &spec) {
			s.link.Set(spec)
		}
	})
	mux.HandleFunc("POST /faults", func(w http.ResponseWriter, r *http.Request) {
		var fs []Fault
		if decode(w, r, &fs) {
			s.faults.set(fs)
		}
	})
	return mux
}

func decode(w http.ResponseWriter, r *http.Request, into any) bool {
	err := json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(into)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
	}
	return err == nil
}

// Control is the client of a synthetic registry's control address.
type Control struct {
	// Base is what [Server.Control] returned.
	Base string
}

// Layer is one blob of an image as the bench needs it.
type Layer struct {
	Digest string
	Size   int64
	CRC    uint32 // CRC-32C
}

// Image is an image of the synthetic registry.
type Image struct {
	Repository, Tag string
	Digest          string // of the manifest
	Manifest        []byte
	Config          Layer
	Layers          []Layer
}

// Size is the total of the layers and the config in bytes.
func (im Image) Size() int64 {
	total := im.Config.Size
	for _, l := range im.Layers {
		total += l.Size
	}
	return total
}

// Counters reads the registry's counters.
func (c Control) Counters(ctx context.Context) (Counters, error) {
	var out Counters
	data, _, err := c.do(ctx, http.MethodGet, "/counters", nil)
	if err != nil {
		return out, err
	}
	if err := json.Unmarshal(data, &out); err != nil {
		return out, fmt.Errorf("reading the counters: %w", err)
	}
	return out, nil
}

// Reset sets the counters to zero.
func (c Control) Reset(ctx context.Context) error {
	_, _, err := c.do(ctx, http.MethodPost, "/reset", nil)
	return err
}

// Link changes latency and bandwidth.
func (c Control) Link(ctx context.Context, s shape.Spec) error {
	_, _, err := c.do(ctx, http.MethodPost, "/link", s)
	return err
}

// Faults replaces the faults that wait for requests.
func (c Control) Faults(ctx context.Context, fs ...Fault) error {
	if fs == nil {
		fs = []Fault{}
	}
	_, _, err := c.do(ctx, http.MethodPost, "/faults", fs)
	return err
}

// Image has an image made and describes it. It costs nothing on the counters.
func (c Control) Image(ctx context.Context, repository, tag string) (Image, error) {
	im := Image{Repository: repository, Tag: tag}
	data, header, err := c.do(ctx, http.MethodGet, "/v2/"+repository+"/manifests/"+tag, nil)
	if err != nil {
		return im, err
	}
	im.Manifest, im.Digest = data, header.Get("Docker-Content-Digest")
	var m v1.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return im, fmt.Errorf("reading the manifest of %s:%s: %w", repository, tag, err)
	}
	if im.Config, err = layer(m.Config); err != nil {
		return im, err
	}
	for _, d := range m.Layers {
		l, err := layer(d)
		if err != nil {
			return im, err
		}
		im.Layers = append(im.Layers, l)
	}
	return im, nil
}

func layer(d v1.Descriptor) (Layer, error) {
	crc, err := strconv.ParseUint(d.Annotations[AnnotationCRC], 10, 32)
	if err != nil {
		return Layer{}, fmt.Errorf("reading the checksum of %s: %w", d.Digest, err)
	}
	return Layer{Digest: d.Digest.String(), Size: d.Size, CRC: uint32(crc)}, nil
}

func (c Control) do(ctx context.Context, method, path string, payload any) ([]byte, http.Header, error) {
	data, err := json.Marshal(payload)
	if err != nil {
		return nil, nil, fmt.Errorf("encoding for the control address: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.Base+path, bytes.NewReader(data))
	if err != nil {
		return nil, nil, fmt.Errorf("asking the control address: %w", err)
	}
	// One connection each: calls are few, and nothing is left open behind them.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return nil, nil, fmt.Errorf("asking the control address: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, strings.TrimSpace(string(body)))
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%s %s on the control address: %w", method, path, err)
	}
	return body, resp.Header, nil
}
