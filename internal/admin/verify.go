package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"go.uber.org/zap"

	"cistern/cache"
)

// VerifyLine is one line of the answer to POST /api/v1/verify: one of these. The last one
// has Done or an error.
type VerifyLine struct {
	Finding  *cache.Finding        `json:"finding,omitempty"`
	Progress *cache.VerifyProgress `json:"progress,omitempty"`
	Done     *cache.VerifyProgress `json:"done,omitempty"`
	failure
}

// verify has all blobs hashed, and tells how that goes line by line.
func (h *Handler) verify(w http.ResponseWriter, r *http.Request) {
	repair := false
	if s := r.URL.Query().Get("repair"); s != "" {
		var err error
		if repair, err = strconv.ParseBool(s); err != nil {
			fail(w, r, http.StatusBadRequest, "repair is true or false")
			return
		}
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	enc, out, began := json.NewEncoder(w), http.NewResponseController(w), false
	send := func(l VerifyLine) {
		if !began {
			began = true
			h.log.Info("admin verify", zap.Bool("repair", repair), zap.String("client", r.RemoteAddr))
			w.Header().Set("Content-Type", "application/x-ndjson")
		}
		if err := errors.Join(enc.Encode(l), out.Flush()); err != nil {
			cancel() // nobody reads
		}
	}
	done, err := h.o.Verifier.Verify(ctx, repair, cache.Verification{
		Found:    func(f cache.Finding) { send(VerifyLine{Finding: &f}) },
		Progress: func(p cache.VerifyProgress) { send(VerifyLine{Progress: &p}) },
	})
	switch {
	case err == nil:
		send(VerifyLine{Done: &done})
	case began:
		send(VerifyLine{failure: failure{err.Error()}})
	default:
		fail(w, r, http.StatusServiceUnavailable, err.Error())
	}
}

// Verify has the daemon hash all that it keeps, and fetch at once what is damaged if it is
// to repair. It calls v's functions as the answer comes, and gives how far it came.
func (c *Client) Verify(ctx context.Context, repair bool, v cache.Verification) (done cache.VerifyProgress, err error) {
	body, err := c.open(ctx, http.MethodPost, "/api/v1/verify", url.Values{"repair": {strconv.FormatBool(repair)}})
	if err != nil {
		return done, err
	}
	defer body.Close()
	for dec := json.NewDecoder(body); ; {
		var line VerifyLine
		switch err := dec.Decode(&line); {
		case errors.Is(err, io.EOF):
			return done, errors.New("the daemon ended before all was verified")
		case err != nil:
			return done, fmt.Errorf("read answer of %s: %w", c.address, err)
		case line.Error != "":
			return done, errors.New(line.Error)
		case line.Done != nil:
			return *line.Done, nil
		case line.Finding != nil:
			v.Found(*line.Finding)
		case line.Progress != nil:
			done = *line.Progress
			v.Progress(done)
		}
	}
}
