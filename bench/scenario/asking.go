package scenario

import (
	"context"
	"fmt"

	"cistern/bench/origin"
	"cistern/bench/stat"
)

// taggedImages is how many images are pulled into a cache before it is asked what is in it.
const taggedImages = 2000

// asking takes the time to the first line of ls, and of why for an image and for a blob,
// in turn over both caches.
func (s *scale) asking(ctx context.Context) error {
	n, asks := taggedImages, 20
	if s.Quick {
		n, asks = 20, 3
	}
	var last origin.Image
	for range n {
		im, err := s.o.Image(ctx, "scale/3x4k", s.fresh("t"))
		if err != nil {
			return err
		}
		for _, c := range []crowded{s.few, s.many} {
			if err := PullImage(ctx, c.Base, im); err != nil {
				return fmt.Errorf("%s: %w", c.Name, err)
			}
		}
		last = im
	}
	name := last.Repository + ":" + last.Tag
	for _, v := range []struct {
		what string
		verb []string
	}{
		{askList, []string{"ls"}}, {askImage, []string{"why", name}}, {askBlob, []string{"why", last.Layers[0].Digest}},
	} {
		for _, c := range []crowded{s.few, s.many} {
			var times []float64
			for range asks {
				took, err := s.Fleet.Ask(ctx, c.Target, v.verb...)
				if err != nil {
					return err
				}
				times = append(times, ms(took))
			}
			cas := scaleCase(len(c.members))
			s.add(cas, v.what, p50, stat.Percentile(times, 50))
			s.add(cas, v.what, "the slowest, ms", stat.Percentile(times, 100))
		}
	}
	return nil
}
