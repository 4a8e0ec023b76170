package trace_test

import (
	"bytes"
	"encoding/csv"
	"reflect"
	"strings"
	"testing"

	"cistern/bench/trace"
)

func generate(t *testing.T, name string, seed uint64, scale float64) *trace.Trace {
	t.Helper()
	tr, ok := trace.Make(name, seed, scale)
	if !ok {
		t.Fatalf("no scenario %s", name)
	}
	return tr
}

// A policy that is judged by made-up traffic is judged by how it was made up: what
// can be counted in a real trace must come out in ours.
func TestHonest(t *testing.T) {
	t.Parallel()
	var figures []trace.Figures
	for seed := range uint64(5) {
		figures = append(figures, generate(t, "A", seed+1, 1).Figures())
	}
	for _, o := range trace.Check(figures) {
		t.Logf("%-40s %8.2f (%.2f to %.2f), wanted %.2f to %.2f", o.Name, o.Median, o.Min, o.Max, o.Low, o.High)
		if !o.Met() {
			t.Errorf("%s: %.3g, want %.3g to %.3g", o.Name, o.Median, o.Low, o.High)
		}
	}
}

// Nothing but the seed decides.
func TestSeeds(t *testing.T) {
	t.Parallel()
	for _, name := range trace.Names() {
		one, again, other := generate(t, name, 1, 0.05), generate(t, name, 1, 0.05), generate(t, name, 2, 0.05)
		if !reflect.DeepEqual(one, again) {
			t.Errorf("%s: the same seed makes another trace", name)
		}
		if reflect.DeepEqual(one.Objects, other.Objects) {
			t.Errorf("%s: another seed makes the same catalogue", name)
		}
		if len(one.Requests) < 1000 {
			t.Errorf("%s: %d requests", name, len(one.Requests))
		}
		for i, r := range one.Requests {
			if i > 0 && r.At < one.Requests[i-1].At {
				t.Fatalf("%s: request %d comes before the one before it", name, i)
			}
		}
	}
	if _, ok := trace.Make("Z", 1, 1); ok {
		t.Error("there is a scenario Z")
	}
}

// What the scenarios are for.
func TestScenarios(t *testing.T) {
	t.Parallel()
	b := generate(t, "B", 1, 0.2).Figures()
	if b.Infinite < 0.9 {
		t.Errorf("B is no storm: %.2f of its blob requests are not the first", b.Infinite)
	}
	d := generate(t, "D", 1, 0.3).Figures()
	if d.LargeBytes < 0.9 {
		t.Errorf("D: %.2f of the bytes are of large blobs", d.LargeBytes)
	}
	e := generate(t, "E", 1, 0.3)
	heads, scans, others := 0, 0, 0
	for _, r := range e.Requests {
		if !r.Scan {
			others++
		}
		if r.Scan && r.Object != trace.None {
			scans++
			if r.Head {
				heads++
			}
		}
	}
	f := e.Figures()
	if share := float64(f.Scanned) / float64(f.Footprint); share < 0.1 || share > 0.9 {
		t.Errorf("E: a sweep is %.2f of the footprint", share)
	}
	if a := len(generate(t, "A", 1, 0.3).Requests); others != a {
		t.Errorf("E has %d requests of jobs, A has %d", others, a)
	}
	if heads == 0 || heads == scans {
		t.Errorf("E: %d of %d are HEADs", heads, scans)
	}
}

func TestCSV(t *testing.T) {
	t.Parallel()
	tr := generate(t, "C", 1, 0.02)
	var all, sim bytes.Buffer
	if err := tr.WriteCSV(&all); err != nil {
		t.Fatal(err)
	}
	if err := tr.WriteLibCacheSim(&sim); err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(&all).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != len(tr.Requests)+1 || strings.Join(rows[0], ",") != "time,client,method,kind,repo,ref,digest,size" {
		t.Errorf("%d rows for %d requests, the first %v", len(rows), len(tr.Requests), rows[0])
	}
	gets, digests := 0, map[string]string{}
	for _, row := range rows[1:] {
		if row[2] == "GET" && row[3] != "ping" {
			gets++
		}
		if row[3] == "ping" {
			continue
		}
		if size, ok := digests[row[6]]; ok && size != row[7] || len(row[6]) != len("sha256:")+64 {
			t.Fatalf("digest %s has sizes %s and %s", row[6], size, row[7])
		}
		digests[row[6]] = row[7]
	}
	if lines := strings.Count(sim.String(), "\n"); lines != gets+1 {
		t.Errorf("%d lines for %d GETs", lines, gets)
	}
}

func TestReplay(t *testing.T) {
	t.Parallel()
	order := "v2\nv2/a/b/manifests/x\nv2/a/b/blobs/1\nv2/c/d/blobs/1\n/v2/c/d/manifests/x\n"
	tr, err := trace.Replay(strings.NewReader(order), 1)
	if err != nil {
		t.Fatal(err)
	}
	if len(tr.Requests) != 5 || len(tr.Objects) != 3 {
		t.Fatalf("%d requests, %d objects", len(tr.Requests), len(tr.Objects))
	}
	if a, b := tr.Requests[2], tr.Requests[3]; a.Object != b.Object || a.Repo == b.Repo {
		t.Errorf("one blob under two names: %+v, %+v", a, b)
	}
	if f := tr.Figures(); f.Pings != 1 || f.Manifests != 2 || f.BlobGETs != 2 || f.Blobs != 1 || f.Infinite != 0.5 || f.GapMedian != 1 {
		t.Errorf("%+v", f)
	}
	if _, err := trace.Replay(strings.NewReader("v2\nGET /nonsense\n"), 1); err == nil || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("nonsense: %v", err)
	}
}
