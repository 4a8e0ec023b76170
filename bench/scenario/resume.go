package scenario

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"cistern/bench/load"
	"cistern/bench/origin"
	"cistern/bench/peer"
)

// killShare is how much of a fill upstream has sent when the proxy is killed.
const killShare = 0.6

// resume kills a proxy in the middle of a fill, as a crash would, starts it again and
// pulls the blob once more. The floor keeps nothing and shows what that costs: 1.
func (b *Bench) resume(ctx context.Context) error {
	size := resumeSize
	if b.Quick {
		size = 64
	}
	for _, v := range b.Variants {
		names := slices.DeleteFunc(b.proxies(v), func(n string) bool { return n != peer.Cistern && n != peer.Floor })
		err := b.with(ctx, v, names, func(o *peer.Origin, ts []*peer.Target) error {
			return b.inTurn(ts, func(t *peer.Target) error {
				if t.Cache == "" {
					return nil // somebody else's, which is not ours to kill
				}
				return b.killAndPull(ctx, o, t, size)
			})
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *Bench) killAndPull(ctx context.Context, o *peer.Origin, t *peer.Target, size int) error {
	im, err := o.Image(ctx, fmt.Sprintf("resume/1x%dm", size), b.fresh("r"))
	if err != nil {
		return err
	}
	if err := link(ctx, o, farLink()); err != nil {
		return err
	}
	l := im.Layers[0]
	if err := b.killAt(ctx, o, t, im, int64(killShare*float64(l.Size))); err != nil {
		return err
	}
	before, err := idle(ctx, o)
	if err != nil {
		return err
	}
	if err := o.Reset(ctx); err != nil {
		return err
	}
	if _, err := b.Fleet.Again(ctx, t); err != nil {
		return err
	}
	if err := answering(ctx, t); err != nil {
		return err
	}
	start := time.Now()
	// A single one: what a first attempt wasted must not hide behind a second.
	if err := pullOnce(ctx, t, blobPath(im, l), l); err != nil {
		return err
	}
	took := time.Since(start)
	after, err := idle(ctx, o)
	if err != nil {
		return err
	}
	cas, whole := resumeCase(o.Variant, size), float64(l.Size)
	b.add(cas, t.Name, bytesAfter, float64(after.BlobBytes)/whole)
	b.add(cas, t.Name, bytesBefore, float64(before.BlobBytes)/whole)
	b.add(cas, t.Name, bytesBoth, float64(before.BlobBytes+after.BlobBytes)/whole)
	b.add(cas, t.Name, "the pull after it, s", took.Seconds())
	return nil
}

// killAt has a client pull a blob and kills the proxy when upstream has sent so much
// of it. Upstream counts what it hands to its sockets: what was on its way then is
// lost to the proxy.
func (b *Bench) killAt(ctx context.Context, o *peer.Origin, t *peer.Target, im origin.Image, at int64) error {
	l := im.Layers[0]
	c, err := load.New(load.Options{Base: t.Base})
	if err != nil {
		return err
	}
	defer c.Close()
	done := make(chan error, 1)
	go func() {
		_, err := get(ctx, c, blobPath(im, l), l, load.Sink{CRC: true})
		done <- err
	}()
	for sent := int64(0); sent < at; {
		n, err := o.Counters(ctx)
		if err == nil {
			err = sleep(ctx, time.Millisecond)
		}
		if err != nil {
			b.Fleet.Kill(t) // and with it the client's pull
			return errors.Join(err, <-done)
		}
		sent = n.BlobBytes
		select {
		case err := <-done:
			return fmt.Errorf("the pull ended (%v) when upstream had sent %d bytes of %d", err, sent, l.Size)
		default:
		}
	}
	b.Fleet.Kill(t)
	if err := <-done; err == nil {
		return errors.New("the pull was over before the kill")
	}
	return nil
}

// answering waits until a target that was started answers.
func answering(ctx context.Context, t *peer.Target) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		err := t.Answers(ctx)
		if err == nil {
			return nil
		}
		if serr := sleep(ctx, time.Millisecond); serr != nil {
			return fmt.Errorf("no answer after the start: %w", err)
		}
	}
}
