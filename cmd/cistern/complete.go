package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cistern/cache"
	"cistern/internal/admin"
)

// maxOffered is how many names a shell is offered.
const maxOffered = 200

// completeImages offers names of cached images to the shell, or of pinned ones; none if
// there is no daemon to ask.
func (a *app) completeImages(connect func() (*admin.Client, error), pinned bool) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, begun string) (names []string, _ cobra.ShellCompDirective) {
		c, err := connect()
		if err != nil || len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		unnamed := defaultUpstream(ctx, c)
		offer := func(image string) {
			if name := offered(image, begun, unnamed); name != "" && len(names) < maxOffered {
				names = append(names, name)
			}
		}
		if pinned {
			l, _ := c.Pins(ctx)
			for _, p := range l.Pins {
				offer(p.Image)
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		}
		_ = c.Images(ctx, func(i cache.ImageInfo) error { // what came in a second is what is offered
			offer(i.Image)
			return nil
		})
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// defaultUpstream is whose images may be named without it; "": nobody's.
func defaultUpstream(ctx context.Context, c *admin.Client) string {
	l, _ := c.Upstreams(ctx)
	for _, u := range l.Upstreams {
		if u.Default {
			return u.Name
		}
	}
	return ""
}

// offered is the name of an image as somebody has begun to write it, in full or as
// short as it may be; "": it is another one's.
func offered(image, begun, unnamed string) string {
	if strings.HasPrefix(image, begun) {
		return image
	}
	short, ok := strings.CutPrefix(image, unnamed+"/")
	if ok && strings.HasPrefix(short, begun) {
		return short
	}
	if short, ok = strings.CutPrefix(image, "docker.io/library/"); ok && unnamed == "docker.io" && strings.HasPrefix(short, begun) {
		return short
	}
	return ""
}
