package trace

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"time"
)

// replayGap is the time between two requests of a recorded order, which has none:
// in a sample with times there was a blob every 1.26 s, and 36 of 100 are blobs.
const replayGap = 450 * time.Millisecond

// Replay reads a recorded order of GETs, one URI a line (v2,
// v2/NAME/manifests/REFERENCE, v2/NAME/blobs/DIGEST), and draws a size for each
// object: the same order with another seed has other sizes.
func Replay(r io.Reader, seed uint64) (*Trace, error) {
	t := &Trace{Name: "replay", Seed: seed, Clients: []string{"recorded"}}
	rng := rand.New(rand.NewPCG(seed, 2))
	objects, repos := map[string]int32{}, map[string]int32{}
	lines := bufio.NewScanner(r)
	for n := 0; lines.Scan(); n++ {
		q := Request{At: time.Duration(n) * replayGap, Object: None, Tag: ByDigest, Pull: int32(n)}
		uri := strings.Trim(lines.Text(), "/")
		name, rest, kind := cutURI(uri)
		switch {
		case kind != Ping:
			key := rest // blobs are shared
			if kind == Manifest {
				key = uri
			}
			object, ok := objects[key]
			if !ok {
				sizes := generalLayers
				if kind == Manifest {
					sizes = manifests
				}
				object = int32(len(t.Objects))
				objects[key] = object
				t.Objects = append(t.Objects, Object{sizes.draw(rng), kind})
			}
			repo, ok := repos[name]
			if !ok {
				repo = int32(len(repos))
				repos[name] = repo
			}
			q.Object, q.Repo = object, repo
		case uri != "v2":
			return nil, fmt.Errorf("replay: line %d is %.80q: want v2, v2/NAME/manifests/REFERENCE or v2/NAME/blobs/DIGEST", n+1, uri)
		}
		t.Requests = append(t.Requests, q)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("replay: %w", err)
	}
	return t, nil
}

// cutURI takes a URI apart; Ping if it names neither a manifest nor a blob.
func cutURI(uri string) (name, rest string, k Kind) {
	if name, rest, ok := strings.Cut(uri, "/manifests/"); ok {
		return name, rest, Manifest
	}
	if name, rest, ok := strings.Cut(uri, "/blobs/"); ok {
		return name, rest, Blob
	}
	return "", "", Ping
}
