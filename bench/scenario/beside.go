package scenario

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"cistern/bench/load"
	"cistern/bench/origin"
	"cistern/bench/peer"
)

// The fills that evict: ten in a second, of a MiB each, into a cache that is full.
const (
	evictingClients = 2
	evictingEvery   = time.Second * evictingClients / 10
	evictingBlobs   = "beside/600x1m"
	besidePrefill   = "beside/540x1m"
	besideExported  = "beside/4x32m" // again and again; pinned, or it would be evicted
)

// beside measures the latency of hits while all that is cached is verified, while an image
// is exported, and while fills evict what is cached, against idle. Fills cost processor time whether they evict
// or not, so the same fills through another daemon are measured as well.
func (b *Bench) beside(ctx context.Context) (err error) {
	if len(b.only(peer.Cistern)) == 0 {
		return nil
	}
	o, err := b.Fleet.Origin(ctx, peer.Yielding)
	if err != nil {
		return err
	}
	hit, err := b.Fleet.StartWith(ctx, peer.Cistern, o, peer.Setting{Limit: fullCap})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Fleet.Stop(hit)) }()
	other, err := b.Fleet.StartWith(ctx, peer.Cistern, o, peer.Setting{Label: "another cistern"})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Fleet.Stop(other)) }()
	exported, err := o.Image(ctx, besideExported, b.fresh("x"))
	if err != nil {
		return err
	}
	if err := PullImage(ctx, hit.Base, exported); err != nil {
		return err
	}
	name := exported.Repository + ":" + exported.Tag
	if _, err := b.Fleet.Ask(ctx, hit, "pin", name); err != nil {
		return err
	}
	full, err := o.Image(ctx, besidePrefill, b.fresh("p"))
	if err != nil {
		return err
	}
	if err := pullBlobs(ctx, hit.Base, &load.Tokens{}, full, full.Layers, 8); err != nil {
		return err
	}
	im, err := b.stock(ctx, o, hit)
	if err != nil {
		return err
	}
	for range b.Rounds {
		for _, c := range []besideCase{
			{besideIdle, false, nil, ""}, {besideVerify, true, nil, ""}, {besideEvict, false, hit, ""}, {besideFills, false, other, ""},
			{besideExport, false, nil, name}, {besideBoth, true, hit, ""}, {besideAll, true, hit, name},
		} {
			if err := b.besideRound(ctx, o, hit, im, c); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
		}
	}
	return nil
}

// besideCase is what goes on beside the hits.
type besideCase struct {
	name   string
	verify bool
	fill   *peer.Target // whom fills are asked of; nil: nobody
	export string       // an image; "": none
}

func (b *Bench) besideRound(ctx context.Context, o *peer.Origin, t *peer.Target, im origin.Image, c besideCase) error {
	if err := b.calm(ctx, o, t); err != nil {
		return err
	}
	ctx, over := context.WithCancel(ctx)
	defer over()
	var exported int64
	g, gctx := errgroup.WithContext(ctx)
	if c.verify {
		g.Go(func() error { return verifying(gctx, t) })
	}
	if c.export != "" {
		g.Go(func() (err error) { exported, err = b.exporting(gctx, t, c.export); return err })
	}
	if c.fill != nil {
		fills := Fills{c.fill.Base, o.Base, evictingBlobs, b.fresh("e"), evictingClients, evictingEvery}
		if _, err := o.Image(ctx, fills.Repository, fills.Tag); err != nil { // its digests are reckoned now
			return err
		}
		g.Go(func() error { return b.Fleet.Aside(gctx, fills.args()...) })
	}
	before, err := counted(ctx, t)
	if err != nil {
		return err
	}
	start := time.Now()
	var got latencies
	g.Go(func() (err error) {
		defer over()
		if err := sleep(gctx, ramp); err != nil {
			return nil // the error of the others is the one to tell
		}
		got, err = b.stockHits(im).run(gctx, t)
		return err
	})
	if err := g.Wait(); err != nil {
		return err
	}
	after, err := counted(context.WithoutCancel(ctx), t)
	took := time.Since(start).Seconds()
	b.addHits(c.name, t, got)
	b.add(c.name, t.Name, "verified meanwhile, MB/s", (after[0]-before[0])/1e6/took)
	b.add(c.name, t.Name, "evicted meanwhile, blobs/s", (after[1]-before[1])/took)
	b.add(c.name, t.Name, "exported meanwhile, MB/s", float64(exported)/1e6/took)
	return err
}

func counted(ctx context.Context, t *peer.Target) (n [2]float64, err error) {
	n[0], err = t.Metric(ctx, "cistern_scrubbed_bytes_total")
	if err == nil {
		n[1], err = t.Metric(ctx, "cistern_evicted_blobs_total")
	}
	return n, err
}

// exporting exports an image again and again, until ctx ends, and tells how many bytes.
func (b *Bench) exporting(ctx context.Context, t *peer.Target, image string) (bytes int64, err error) {
	dir, err := b.Fleet.Folder("export")
	if err != nil {
		return 0, err
	}
	for ctx.Err() == nil {
		if _, err := b.Fleet.Ask(ctx, t, "export", image, "-o", filepath.Join(dir, "x.tar")); err != nil && ctx.Err() == nil {
			return 0, err
		}
		files, err := os.ReadDir(dir) // an export that ctx has ended is there under another name
		if err != nil {
			return 0, err
		}
		for _, f := range files {
			fi, err := f.Info()
			if err != nil {
				return 0, err
			}
			bytes += fi.Size()
			if err := os.Remove(filepath.Join(dir, f.Name())); err != nil {
				return 0, err
			}
		}
	}
	return bytes, nil
}

// verifying has all blobs verified again and again, until ctx ends.
func verifying(ctx context.Context, t *peer.Target) error {
	for ctx.Err() == nil {
		if err := verifyOnce(ctx, t); err != nil && ctx.Err() == nil {
			return fmt.Errorf("verifying: %w", err)
		}
	}
	return nil
}

func verifyOnce(ctx context.Context, t *peer.Target) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.Admin+"/api/v1/verify", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return err
	case resp.StatusCode == http.StatusServiceUnavailable: // the one before is just ending
		return sleep(ctx, ramp)
	case resp.StatusCode != http.StatusOK || bytes.Contains(answer, []byte(`"finding"`)) || !bytes.Contains(answer, []byte(`"done"`)):
		return fmt.Errorf("%s: %.300s", resp.Status, answer)
	}
	return nil
}
