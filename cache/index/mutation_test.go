package index

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"cistern/internal/durable/durabletest"
	"cistern/internal/oci"
)

const (
	seedInCI    = 1
	pageLen     = 4096
	filledBlobs = 1000 // as many tags and grants
	childEnv    = "INDEX_MUTATIONS_FROM"
	// Of records and grants a sample is looked at.
	sampledFrom = 200
	stride      = 8
	sampled     = (filledBlobs - sampledFrom) / stride
	// hangs is for how long a mutated file may take.
	hangs = time.Minute
)

// mutations is how many files are damaged; the race detector has little to see
// in a process of one goroutine.
func mutations() int { return durabletest.Times(durabletest.Either(300, 32)) }

func mutationSeed() uint64 { return durabletest.Seed(seedInCI) }

func filledRepo(i int) oci.Repository {
	return oci.Repository{Upstream: "docker.io", Name: fmt.Sprintf("library/x%d", i%40)}
}

// filledTag is what a tag was at its first moment, or is at its second; every
// other one has two.
func filledTag(i, moment int) Tag {
	return Tag{
		Reference: oci.Reference{Repository: filledRepo(i), Tag: digest(i).Hex()}, Checked: at(i + moment),
		Target: oci.Descriptor{Digest: digest(i + moment), Size: 5, MediaType: oci.MediaTypeOCIManifest}, Public: i%2 == 0,
	}
}

// filled makes an index file with some hundred pages, in steps, so that there
// are free pages too.
func filled(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "index.db")
	x, err := Open(path, Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	for step := range 10 {
		var b Batch
		for i := step; i < filledBlobs; i += 10 {
			b.Put = append(b.Put, record(i, int64(i)*1000))
			b.PutGrants = append(b.PutGrants, Grant{filledRepo(i), digest(i), at(i)})
			b.PutTags = append(b.PutTags, filledTag(i, 0))
			if i%2 == 0 {
				b.PutTags = append(b.PutTags, filledTag(i, 1))
			}
		}
		apply(t, x, b)
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// mutation is one kind of damage to a file, of which used pages are in use.
type mutation struct {
	name string
	tags float64 // percent of them that survive at least
	do   func(b []byte, used int, rng *rand.Rand) []byte
}

func anyPage(b []byte, used int, rng *rand.Rand) []byte { return b[rng.IntN(used)*pageLen:][:pageLen] }

func garble(b []byte, rng *rand.Rand) []byte {
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// mutationKinds are those of FAULTS 0.2, and the loss of the file's head.
func mutationKinds() []mutation {
	return []mutation{
		{"page zeroed", 95, func(b []byte, used int, rng *rand.Rand) []byte { clear(anyPage(b, used, rng)); return b }},
		{"page garbled", 95, func(b []byte, used int, rng *rand.Rand) []byte { garble(anyPage(b, used, rng), rng); return b }},
		{"pages swapped", 95, func(b []byte, used int, rng *rand.Rand) []byte {
			p, q := anyPage(b, used, rng), anyPage(b, used, rng)
			kept := slices.Clone(p)
			copy(p, q)
			copy(q, kept)
			return b
		}},
		{"truncated", 0, func(b []byte, used int, rng *rand.Rand) []byte { return b[:rng.IntN(used*pageLen)] }},
		{"bit flipped", 99, func(b []byte, used int, rng *rand.Rand) []byte {
			b[rng.IntN(used*pageLen)] ^= 1 << rng.IntN(8)
			return b
		}},
		{"extended", 100, func(b []byte, _ int, rng *rand.Rand) []byte {
			return append(b, garble(make([]byte, rng.IntN(64*pageLen)), rng)...)
		}},
		{"head zeroed", 80, func(b []byte, _ int, rng *rand.Rand) []byte { clear(b[:(2+rng.IntN(8))*pageLen]); return b }},
		{"ten pages garbled", 80, func(b []byte, used int, rng *rand.Rand) []byte {
			for range 10 {
				garble(anyPage(b, used, rng), rng)
			}
			return b
		}},
	}
}

// outcome is what came of one mutated file; a child process writes one as a
// line before it begins, and one when it is done.
type outcome struct {
	I                  int
	Done, Broke        bool
	Tags, Old, Records int // salvaged: tags as they are, as they were, records
	Grants             int
	Wrong              []string // whatever must not be
}

func usedPages(whole []byte) int {
	used := len(whole) / pageLen
	for used > 0 && allZero(whole[(used-1)*pageLen:used*pageLen]) {
		used-- // bbolt's growth
	}
	return used
}

func allZero(b []byte) bool { return !slices.ContainsFunc(b, func(c byte) bool { return c != 0 }) }

// mutateAll is the child: it damages the file of the first argument in every
// way from the given one on, and uses it.
func mutateAll(from string, args []string) error {
	first, err := strconv.Atoi(from)
	whole, rerr := os.ReadFile(args[0])
	dir, derr := os.MkdirTemp("", "mutations")
	if err := errors.Join(err, rerr, derr); err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	used, kinds, out := usedPages(whole), mutationKinds(), json.NewEncoder(os.Stdout)
	whole = whole[:used*pageLen] // the rest is a hole, and slow to copy
	for i := first; i < mutations(); i++ {
		rng := rand.New(rand.NewPCG(mutationSeed(), uint64(i)))
		path := filepath.Join(dir, "index.db")
		o := outcome{I: i}
		err := out.Encode(o)
		if err == nil {
			err = os.WriteFile(path, kinds[i%len(kinds)].do(slices.Clone(whole), used, rng), 0o600)
		}
		if err == nil {
			o.exercise(path)
			o.salvage(path)
			o.replace(path)
			o.Done = true
			err = errors.Join(out.Encode(o), os.RemoveAll(path), os.RemoveAll(path+".broken"))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (o *outcome) wrong(format string, args ...any) {
	o.Wrong = append(o.Wrong, fmt.Sprintf(format, args...))
}

func (o *outcome) check(op string, err error) {
	if errors.Is(err, ErrBroken) {
		o.Broke = true
	} else if err != nil {
		o.wrong("%s is neither fine nor broken: %v", op, err)
	}
}

// exercise calls everything; what is found must be what was put.
func (o *outcome) exercise(path string) {
	x, err := Open(path, Options{NoSync: true})
	o.check("open", err)
	if err != nil {
		return
	}
	for i := 0; i < filledBlobs; i += stride {
		r, ok, err := x.Get(digest(i))
		o.check("get", err)
		if ok && r != record(i, int64(i)*1000) {
			o.wrong("record %+v", r)
		}
	}
	for _, err := range x.Tags() {
		o.check("tags", err)
	}
	_, err = x.Victims(time.Time{}, 1<<40, [Classes]int64{}, nil, nil)
	o.check("victims", err)
	_, err = x.Granted(filledRepo(9), digest(9))
	o.check("grant", err)
	for i := range 5 { // the pages that the first frees are written to by the next
		o.check("apply", x.Apply(Batch{Put: []Record{record(i, int64(i)*1000)}, Delete: []oci.Digest{digest(i), digest(i + 100)}}))
	}
	if o.Broke && !errors.Is(x.Broken(), ErrBroken) {
		o.wrong("it broke and does not say so")
	}
	if err := x.Close(); err != nil {
		o.wrong("close: %v", err)
	}
}

// salvage reads what is left, and puts the tags into a new index.
func (o *outcome) salvage(path string) {
	s, err := OpenSalvage(path)
	if err != nil {
		o.wrong("salvage: %v", err)
		return
	}
	defer s.Close()
	for i := sampledFrom; i < filledBlobs; i += stride { // the others were changed by exercise
		r, ok := s.Record(digest(i))
		if ok && r != record(i, int64(i)*1000) {
			o.wrong("salvaged record %+v", r)
		}
		for g := range s.Grants(digest(i)) {
			if want := (Grant{filledRepo(i), digest(i), at(i)}); g != want {
				o.wrong("salvaged grant %+v", g)
			}
			o.Grants++
		}
		if ok {
			o.Records++
		}
	}
	x, err := Open(path+".new", Options{NoSync: true})
	if err != nil {
		o.wrong("%v", err)
		return
	}
	defer os.Remove(path + ".new")
	defer x.Close()
	n, err := x.TakeTags(s)
	for i := range filledBlobs {
		switch tag, ok, terr := x.Tag(filledTag(i, 0).Reference); {
		case err != nil || terr != nil:
			o.wrong("take tags: %v, %v", err, terr)
		case !ok:
		case tag == filledTag(i, 1-i%2):
			o.Tags++
		case tag == filledTag(i, 0):
			o.Old++
		default:
			o.wrong("salvaged tag %+v", tag)
		}
	}
	if o.Tags+o.Old != n {
		o.wrong("%d tags taken, it says %d", o.Tags+o.Old, n)
	}
}

// replace puts a broken file aside: a fresh index takes its place at once.
func (o *outcome) replace(path string) {
	if !o.Broke {
		return
	}
	err := os.Rename(path, path+".broken")
	x, oerr := Open(path, Options{NoSync: true})
	if err := errors.Join(err, oerr); err != nil {
		o.wrong("a fresh index: %v", err)
		return
	}
	if err := errors.Join(x.Apply(Batch{Put: []Record{record(1, 1)}}), x.Close()); err != nil {
		o.wrong("a fresh index: %v", err)
	}
}

// FAULTS row 36, goal G5: no damage of the file kills or hangs the process, or
// brings a wrong record, and most of the tags can be saved.
func TestMutations(t *testing.T) {
	t.Parallel()
	path := filled(t)
	deaths, hung := 0, 0
	var all []outcome
	for from := 0; from < mutations(); {
		done, last, err := runChild(t, path, from)
		all = append(all, done...)
		if err == nil && last == mutations() {
			break
		}
		if errors.Is(err, errHangs) {
			hung++
		} else {
			deaths++
		}
		t.Errorf("mutation %d (%s): %v", last, mutationKinds()[last%len(mutationKinds())].name, err)
		from = last + 1
	}
	for k, kind := range mutationKinds() {
		var sum outcome
		files, broke := 0, 0
		for _, o := range all {
			if o.I%len(mutationKinds()) != k {
				continue
			}
			files++
			if o.Broke {
				broke++
			}
			sum.Tags, sum.Old, sum.Records, sum.Grants = sum.Tags+o.Tags, sum.Old+o.Old, sum.Records+o.Records, sum.Grants+o.Grants
			for _, w := range o.Wrong {
				t.Errorf("mutation %d (%s): %s", o.I, kind.name, w)
			}
		}
		percent := func(n, of int) float64 { return 100 * float64(n) / float64(max(1, files*of)) }
		t.Logf("%-17s %d files, %2d broke the index; salvaged: tags %.1f %% and %.1f %% older, records %.1f %%, grants %.1f %%", kind.name, files, broke,
			percent(sum.Tags, filledBlobs), percent(sum.Old, filledBlobs), percent(sum.Records, sampled), percent(sum.Grants, sampled))
		if p := percent(sum.Tags, filledBlobs); p < kind.tags {
			t.Errorf("%s: %.1f %% of the tags were saved, want %v at least", kind.name, p, kind.tags)
		}
	}
	t.Logf("| damaged index files | %d | %d files; deaths %d, hangs %d |", mutationSeed(), len(all), deaths, hung)
}

var errHangs = errors.New("it hangs")

// runChild runs the mutations from the given one on in a process of their own;
// last is the one it died in, mutations if it did not.
func runChild(t *testing.T, path string, from int) (done []outcome, last int, err error) {
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	watchdog := time.AfterFunc(hangs, func() { cancel(errHangs) })
	defer watchdog.Stop()
	cmd := exec.CommandContext(ctx, os.Args[0], path)
	cmd.Env = append(os.Environ(), childEnv+"="+strconv.Itoa(from), "TMPDIR="+t.TempDir())
	out, err := cmd.StdoutPipe()
	if err == nil {
		cmd.Stderr = os.Stderr
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	last = from
	lines := json.NewDecoder(bufio.NewReader(out))
	for {
		var o outcome
		if err := lines.Decode(&o); err != nil {
			if !errors.Is(err, io.EOF) {
				t.Errorf("the child's line: %v", err)
			}
			break
		}
		watchdog.Reset(hangs)
		if last = o.I; o.Done {
			done, last = append(done, o), o.I+1
		}
	}
	if err := cmd.Wait(); ctx.Err() != nil {
		return done, last, context.Cause(ctx)
	} else if err != nil {
		return done, last, err
	}
	return done, last, nil
}
