package origin

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

// known is what the digest cache keeps of a layer.
type known struct {
	digest string
	crc    uint32
}

// generation is part of each line: changing how content is computed must change
// it, or old digests would be taken for those of new bytes.
const generation = "g1"

// digestCache keeps the digests of computed layers, in memory and, with a path,
// in an append-only text file. Safe for concurrent use within a process; two
// processes appending at once is harmless, since lines are short and idempotent.
type digestCache struct {
	path string // "" = memory only

	mu sync.Mutex
	m  map[string]known // guarded by mu
}

func openDigests(path string) (*digestCache, error) {
	c := &digestCache{path: path, m: map[string]known{}}
	if path == "" {
		return c, nil
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, os.MkdirAll(filepath.Dir(path), 0o755)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the digest cache: %w", err)
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		var gen, key string
		var k known
		// A line that does not parse (cut by a kill) is a digest to compute anew.
		if n, err := fmt.Sscan(sc.Text(), &gen, &key, &k.digest, &k.crc); err == nil && n == 4 && gen == generation && len(k.digest) == 71 {
			c.m[key] = k
		}
	}
	return c, nil
}

func (c *digestCache) get(key string) (known, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k, ok := c.m[key]
	return k, ok
}

func (c *digestCache) put(key string, k known) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.m[key] = k
	if c.path == "" {
		return nil
	}
	f, err := os.OpenFile(c.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("opening the digest cache: %w", err)
	}
	_, err = fmt.Fprintln(f, generation, key, k.digest, k.crc)
	return errors.Join(err, f.Close())
}
