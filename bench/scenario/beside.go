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

// What is evicted are blobs of 256 KiB, four for each fill of a MiB: ten in a second, or forty.
const (
	evictingBlobs  = "beside/600x1m"
	besidePrefill  = "beside/2160x256k"
	besideExported = "beside/4x32m" // again and again; pinned, or it would be evicted
)

var (
	tenEvictions = Fills{Repository: evictingBlobs, Clients: 1, Every: 400 * time.Millisecond}
	tenFills     = Fills{Repository: evictingBlobs, Clients: 2, Every: 200 * time.Millisecond}
)

// beside measures the latency of hits while all that is cached is verified, while an image
// is exported, and while what is cached is evicted, against idle. It takes fills to evict, and they cost processor
// time whether they evict or not; so many of them are measured through another daemon as well.
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
			{name: besideIdle}, {name: besideVerify, verify: true}, {name: besideEvict, through: hit, fills: tenEvictions}, {name: besideExport, export: name},
			{name: besideAll, verify: true, through: hit, fills: tenEvictions, export: name},
			{name: besideStorm, through: hit, fills: tenFills}, {name: besideOther, through: other, fills: tenFills},
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
	name    string
	verify  bool
	through *peer.Target // whom fills are asked of; nil: nobody
	fills   Fills
	export  string // an image; "": none
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
	if c.through != nil {
		f := c.fills
		f.Target, f.Control, f.Tag = c.through.Base, o.Base, b.fresh("e")
		if _, err := o.Image(ctx, f.Repository, f.Tag); err != nil { // its digests are reckoned now
			return err
		}
		g.Go(func() error { return b.Fleet.Aside(gctx, f.args()...) })
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
