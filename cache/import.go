package cache

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"time"

	"cistern/cache/blob"
	"cistern/cache/index"
	"cistern/internal/oci"
)

// What comes from an archive instead of an upstream (docs/decisions/0021-import.md).

// imported is the Origin of what was imported.
const imported = "import"

// Imported is how far the import of an image has come.
type Imported struct {
	Image   string       `json:"image"`
	Missing []oci.Digest `json:"missing"`          // to be sent, in this order
	Tag     TagWord      `json:"tag,omitempty"`    // "" while something is missing, and without a tag
	Now     oci.Digest   `json:"now,omitzero"`     // what the tag means here
	Checked time.Time    `json:"checked,omitzero"` // upstream's last word on it
}

// TagWord is whose word a tag has after an import.
type TagWord string

// Whose word it is.
const (
	TagImported TagWord = "imported" // the archive's, until upstream says something
	TagUpstream TagWord = "upstream" // upstream's, which an archive never beats
)

// Import takes in a bundle that was carried here, under a repository. It tells what is
// to be sent of it, by ImportBlob, and names it once nothing is. What is private here and
// not this repository's has to be sent although it is here: the digest alone proves
// nothing (promise 10).
func (c *Cache) Import(ref oci.Reference, b Bundle) (Imported, error) {
	i := Imported{Image: ref.String(), Missing: []oci.Digest{}}
	if err := c.takes(); err != nil {
		return i, err
	}
	if !ref.Digest.IsZero() && ref.Digest != b.Target.Digest {
		return i, &oci.Error{Code: oci.CodeDigestInvalid, Message: fmt.Sprintf("the archive calls %s what is %s: it is damaged, or made up", ref, b.Target.Digest)}
	}
	room := int64(0)
	for _, p := range b.Pieces {
		if c.may(ref.Repository, p) {
			continue
		}
		i.Missing = append(i.Missing, p.Digest)
		room = added(room, p.Size)
	}
	switch {
	case len(i.Missing) > 0 && c.o.Limit > 0 && room > c.o.Limit:
		return i, fmt.Errorf("it takes %d bytes, and the cache %d at most: set a larger cache.max_size", room, c.o.Limit)
	case len(i.Missing) > 0:
		return i, nil
	}
	data, rec, ok := c.peek(b.Target.Digest)
	if !ok || !c.pullable(data) {
		return i, &oci.Error{Code: oci.CodeManifestInvalid, Message: fmt.Sprintf("not all that %s names is here or in the archive", b.Target.Digest)}
	}
	if !ref.Digest.IsZero() {
		i.Now = ref.Digest
		return i, nil
	}
	t, took := c.importTag(ref, describe(rec), b.Private)
	if i.Now, i.Checked, i.Tag = t.Target.Digest, t.Checked, TagUpstream; took {
		i.Tag = TagImported
	}
	return i, nil
}

// may tells whether a part is here, and may be served under the repository.
func (c *Cache) may(repo oci.Repository, p Carried) bool {
	rec, here := c.find(p.Digest)
	return here && rec.Size == p.Size && (rec.Class == index.ClassManifest) == p.Manifest && (rec.Public || c.granted(repo, p.Digest))
}

// takes tells why nothing can be taken in.
func (c *Cache) takes() error {
	if c.keeping() && c.writable() {
		return nil
	}
	why := c.Stats().Degraded
	if why == "" {
		why = "what lies there is being counted, or the disk does not answer: try again"
	}
	return &oci.Error{Code: oci.CodeUnavailable, Message: "the cache takes nothing new: " + why}
}

// importTag notes what an archive says of a tag, unless upstream has said something:
// Checked is zero, so that upstream is asked as soon as it answers.
func (c *Cache) importTag(ref oci.Reference, target oci.Descriptor, private bool) (t index.Tag, took bool) {
	ref = ref.Clone()
	for {
		c.mu.Lock()
		words := c.words
		c.mu.Unlock()
		old, known := c.tag(ref)
		if known && !old.Checked.IsZero() {
			return old, false
		}
		t = index.Tag{Reference: ref, Target: target, Changed: time.Now(), Public: !private}
		if known && old.Target.Digest == target.Digest {
			t.Changed = old.Changed
		}
		c.mu.Lock()
		if words == c.words { // else somebody has said something meanwhile
			c.noteTagLocked(t)
			c.mu.Unlock()
			c.negative.Remove(question{ref.Repository, askedManifest(ref.Tag)})
			return t, true
		}
		c.mu.Unlock()
	}
}

// judgeTag decides on a tag that is known. One that was imported stands in for as long as
// upstream does not answer: where no upstream can be reached, for ever.
func judgeTag(t index.Tag, repo *Repository) verdict {
	healthy := repo.Source.Healthy()
	if !t.Checked.IsZero() {
		return judge(time.Since(t.Checked), repo.Policy.Fresh(t.Tag), repo.Policy.StaleIfError, healthy)
	}
	return judge(0, 0, math.MaxInt64, healthy)
}

// lastWord is when somebody last said what a tag is.
func lastWord(t index.Tag) time.Time {
	if t.Checked.IsZero() {
		return t.Changed
	}
	return t.Checked
}

// ImportBlob keeps a blob or manifest that was carried here, after r has given all of it
// and it is what its digest says, and notes that the repository holds it. Space is
// reserved before a byte is read. What is here already is read and proven all the same.
func (c *Cache) ImportBlob(ctx context.Context, repo oci.Repository, p Carried, r io.Reader) error {
	if err := p.check(); err != nil {
		return err
	}
	if err := c.takes(); err != nil {
		return err
	}
	if !c.begin() {
		return errClosed
	}
	defer c.work.Done()
	src := io.Reader(&stoppable{c.ctx, r})
	if p.Manifest {
		data, err := io.ReadAll(io.LimitReader(src, p.Size+1))
		if err != nil {
			return fmt.Errorf("taking in %s: %w", p.Digest, err)
		}
		if err := p.contradicted(data); err != nil {
			return err
		}
		src = bytes.NewReader(data)
	}
	if err := c.claimWait(ctx, p.Digest); err != nil {
		return err
	}
	defer c.release(p.Digest)
	rec, here := c.findStored(p.Digest)
	var err error
	if here {
		err = c.copyProven(io.Discard, src, p)
		if err == nil && p.Manifest && rec.Class != index.ClassManifest {
			c.relabel(rec, &Manifest{MediaType: p.MediaType, Private: !rec.Public}) // which stays as it is
		}
	} else {
		err = c.ingestCarried(ctx, p, src)
	}
	if err != nil {
		return fmt.Errorf("taking in %s: %w", p.Digest, err)
	}
	if p.Private || p.Manifest || here && !rec.Public { // of a public manifest it says whose it is where no tag does
		c.grant(repo, p.Digest)
	}
	c.negative.Remove(question{repo, askedBlob(p.Digest)})
	c.negative.Remove(question{repo, askedManifest(p.Digest.String())})
	return nil
}

// check refuses what no archive of ours holds.
func (p Carried) check() error {
	manifests := []string{oci.MediaTypeOCIIndex, oci.MediaTypeOCIManifest, oci.MediaTypeDockerList, oci.MediaTypeDockerManifest}
	switch {
	case p.Digest.IsZero() || p.Size < 0:
		return &oci.Error{Code: oci.CodeDigestInvalid, Message: "a part without a digest or a size"}
	case p.Manifest && (p.Size > maxManifest || !slices.Contains(manifests, p.MediaType)):
		return &oci.Error{Code: oci.CodeManifestInvalid, Message: fmt.Sprintf("%s is no manifest of an image: %d bytes of %s", p.Digest, p.Size, oci.Quote(p.MediaType))}
	}
	return nil
}

// contradicted tells where a manifest is not of the type that the archive gives it: that
// would stay with it.
func (p Carried) contradicted(manifest []byte) error {
	var m struct {
		MediaType string            `json:"mediaType"`
		Manifests []json.RawMessage `json:"manifests"`
	}
	err := json.Unmarshal(manifest, &m)
	index := p.MediaType == oci.MediaTypeOCIIndex || p.MediaType == oci.MediaTypeDockerList
	switch {
	case err != nil:
		return &oci.Error{Code: oci.CodeManifestInvalid, Message: fmt.Sprintf("%s is no manifest: the archive is damaged", p.Digest)}
	case m.MediaType != "" && m.MediaType != p.MediaType, m.MediaType == "" && index != (m.Manifests != nil):
		return &oci.Error{Code: oci.CodeManifestInvalid, Message: fmt.Sprintf("%s is not of the type %s that the archive says", p.Digest, oci.Quote(p.MediaType))}
	}
	return nil
}

// claimMost is how long an import waits for who writes the same blob.
const claimMost = time.Minute

// claimWait is claim for who waits for whoever writes that file: a fill from upstream, mostly.
func (c *Cache) claimWait(ctx context.Context, d oci.Digest) error {
	busy := &oci.Error{Code: oci.CodeUnavailable, Message: fmt.Sprintf("%s is being fetched from upstream: import again when that has ended", d)}
	ctx, cancel := context.WithTimeoutCause(ctx, claimMost, busy)
	defer cancel()
	for !c.claim(d) {
		over := (<-chan struct{})(nil)
		if f, ok := c.flights.Get(d); ok {
			over = f.gone
		}
		select {
		case <-over:
		case <-time.After(claimLook): // a proof, a removal, or a manifest on its way
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-c.ctx.Done():
			return errClosed
		}
	}
	return nil
}

// claimLook is how often it is looked whether a file can be written.
const claimLook = 50 * time.Millisecond

// ingestCarried writes a blob that comes from outside.
func (c *Cache) ingestCarried(ctx context.Context, p Carried, r io.Reader) error {
	in, err := c.create(ctx, p.Digest, p.Size, !p.Private)
	switch {
	case errors.Is(err, blob.ErrNoSpace):
		return fmt.Errorf("there is no room for its %d bytes: set a larger cache.max_size, or free the disk: %w", p.Size, err)
	case errors.Is(err, errUnbacked):
		return &oci.Error{Code: oci.CodeUnavailable, Message: "what lies here is being proven since the index was lost: try again"}
	case err != nil:
		return err
	}
	defer c.abort(in) // nothing once it is committed
	if err := c.copyProven(in, r, p); err != nil {
		if errors.Is(err, blob.ErrDisk) {
			c.diskFailed("writing a blob", err)
		}
		return err
	}
	now := time.Now()
	rec := index.Record{
		Digest: p.Digest.Clone(), Size: p.Size, MediaType: oci.MediaTypeOctetStream, Class: index.ClassOf(p.Size, p.Manifest),
		FirstSeen: now, LastUsed: now, Public: !p.Private, Origin: imported,
	}
	if p.Manifest {
		rec.MediaType = p.MediaType
	}
	if rec.Allocated, err = in.Commit(); err != nil {
		c.diskFailed("committing a blob", err)
		return err
	}
	c.admit(rec)
	return nil
}

// copyProven copies what a part's digest names, and no more.
func (c *Cache) copyProven(to io.Writer, from io.Reader, p Carried) error {
	h, buf := p.Digest.Hash(), c.spans.Get().(*[span]byte)
	defer c.spans.Put(buf)
	n, err := io.CopyBuffer(io.MultiWriter(h, to), io.LimitReader(from, p.Size+1), buf[:])
	switch {
	case err != nil:
		return err
	case n != p.Size:
		return &oci.Error{Code: oci.CodeDigestInvalid, Message: fmt.Sprintf("it has another size than %d bytes", p.Size)}
	case !p.Digest.Matches(h):
		return &oci.Error{Code: oci.CodeDigestInvalid, Message: "the bytes are not what the digest names: the archive is damaged"}
	}
	return nil
}
