package scenario

import (
	"os"
	"path/filepath"
	"testing"

	"cistern/bench/peer"
)

// What lies in fills/ is found at any depth, and a cache that is not here is settled.
func TestRegularFiles(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "fills")
	if n, err := regularFiles(dir); n != 0 || err != nil {
		t.Errorf("no folder: %d, %v", n, err)
	}
	shard := filepath.Join(dir, "sha256", "ab")
	if err := os.MkdirAll(shard, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(shard, "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := regularFiles(dir); n != 1 || err != nil {
		t.Errorf("one file: %d, %v", n, err)
	}
	if err := settled(t.Context(), &peer.Target{}); err != nil {
		t.Error(err)
	}
}
