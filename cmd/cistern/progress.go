package main

import (
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// sayEvery is how often progress is told where there is no terminal.
const sayEvery = 10 * time.Second

// progress tells on standard error how far a verb has come: by a bar on a terminal, by a
// line every ten seconds elsewhere. It is safe for concurrent use.
type progress struct {
	done atomic.Int64
	bar  *mpb.Bar // nil: no terminal
	bars *mpb.Progress
	stop chan struct{}
	over chan struct{}
}

// progress begins to tell of so many bytes.
func (a *app) progress(verb string, total int64) *progress {
	p := &progress{stop: make(chan struct{}), over: make(chan struct{})}
	if f, ok := a.stderr.(*os.File); ok && isTerminal(f) && total > 0 {
		close(p.over)
		p.bars = mpb.New(mpb.WithOutput(f))
		p.bar = p.bars.AddBar(total,
			mpb.PrependDecorators(decor.Name(verb+" "), decor.CountersKibiByte("% .1f of % .1f")),
			mpb.AppendDecorators(decor.Percentage(), decor.Name("  "), decor.AverageSpeed(decor.SizeB1024(0), "% .0f"),
				decor.Name("  "), decor.AverageETA(decor.ET_STYLE_GO)))
		return p
	}
	go p.say(a.stderr, verb, total)
	return p
}

func (p *progress) say(to io.Writer, verb string, total int64) {
	defer close(p.over)
	tick := time.NewTicker(sayEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			fmt.Fprintf(to, "%s: %s of %s\n", verb, size(uint64(p.done.Load())), size(uint64(total)))
		case <-p.stop:
			return
		}
	}
}

// of counts what is read from r.
func (p *progress) of(r io.Reader) io.Reader { return &counted{r, p} }

// end takes the bar away; what a verb prints comes after that.
func (p *progress) end() {
	close(p.stop)
	<-p.over
	if p.bar != nil {
		p.bar.Abort(true) // nothing, if it is full
		p.bars.Wait()
	}
}

type counted struct {
	io.Reader
	p *progress
}

// Read implements io.Reader.
func (c *counted) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.p.done.Add(int64(n))
	if c.p.bar != nil {
		c.p.bar.IncrBy(n)
	}
	return n, err
}
