package command_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A small run of everything, so that it cannot rot.
func TestEvictSim(t *testing.T) {
	t.Parallel()
	tmp, results := t.TempDir(), t.TempDir()
	out, errs, err := run(t, "evict-sim", "--seeds", "1", "--scale", "0.03", "--sizes", "3,25", "--tmp", tmp, "--results", results)
	if err != nil {
		t.Fatalf("%v\n%s", err, errs)
	}
	for _, want := range []string{"| logical over distinct bytes | 1.15 … 1.35 |", "## A", "## E", "| 25 % |", "manifests from upstream | built-in | lru | "} {
		if !strings.Contains(out, want) {
			t.Errorf("the report lacks %q:\n%s", want, out)
		}
	}
	files, err := filepath.Glob(filepath.Join(results, "*-eviction.json"))
	if err != nil || len(files) != 1 {
		t.Fatalf("results %v, %v", files, err)
	}
	data, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	var rows []struct {
		Policy   string
		ByteHits struct{ Mean float64 } `json:"byte_hits"`
	}
	if err := json.Unmarshal(data, &rows); err != nil || len(rows) != 5*2*8 {
		t.Errorf("%d rows, %v", len(rows), err)
	}
	if left, err := filepath.Glob(filepath.Join(tmp, "*")); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestEvictSimReplay(t *testing.T) {
	t.Parallel()
	order := filepath.Join(t.TempDir(), "order")
	if err := os.WriteFile(order, []byte(strings.Repeat("v2\nv2/a/b/manifests/x\nv2/a/b/blobs/1\nv2/a/b/blobs/2\n", 3)), 0o600); err != nil {
		t.Fatal(err)
	}
	out, errs, err := run(t, "evict-sim", "--seeds", "2", "--sizes", "100", "--replay", order, "--tmp", t.TempDir())
	if err != nil {
		t.Fatalf("%v\n%s", err, errs)
	}
	if !strings.Contains(out, "## replay") || !strings.Contains(out, "66.67 (66.7 … 66.7)") { // four of six
		t.Errorf("the report:\n%s", out)
	}
}

func TestTrace(t *testing.T) {
	t.Parallel()
	for format, header := range map[string]string{"csv": "time,client,", "libcachesim": "time,obj_id,obj_size\n"} {
		out, errs, err := run(t, "trace", "--scenario", "C", "--scale", "0.02", "--format", format)
		if err != nil || !strings.HasPrefix(out, header) || !strings.Contains(errs, "seed 1:") {
			t.Errorf("%s: %v, %.60q, %s", format, err, out, errs)
		}
	}
}

func TestEvictSimMistakes(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"evict-sim", "--scenarios", "Z"},
		{"evict-sim", "--policies", "fifo"},
		{"evict-sim", "--sizes", "0"},
		{"evict-sim", "--seeds", "0"},
		{"evict-sim", "--replay", "/no/such/file"},
		{"trace", "--scenario", "Z"},
		{"trace", "--format", "xml", "--scenario", "C", "--scale", "0.01"},
	} {
		if _, _, err := run(t, args...); err == nil {
			t.Errorf("%v is taken", args)
		}
	}
}
