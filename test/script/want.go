package script

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// target makes a URL of the last argument, which is a path on the registry listener.
func target(ts *testscript.TestScript, args []string) request {
	if len(args) == 0 {
		ts.Fatalf("get what?")
	}
	args[len(args)-1] = running(ts).URL + args[len(args)-1]
	r, err := parseGet(args)
	ts.Check(err)
	return r
}

func cmdGet(ts *testscript.TestScript, _ bool, args []string) {
	s := of(ts)
	s.last = target(ts, args).do(s.done)
	ts.Logf("status %d, %d bytes, %v, after %v", s.last.status, s.last.size, s.last.err, s.last.took)
}

func cmdStart(ts *testscript.TestScript, _ bool, args []string) {
	usage(ts, args, 3, 99)
	s := of(ts)
	if args[1] != "get" {
		ts.Fatalf("only get runs in the background")
	}
	r := target(ts, args[2:])
	c := make(chan result, 1)
	s.background[args[0]] = c
	go func() { c <- r.do(s.done) }()
}

func cmdWait(ts *testscript.TestScript, _ bool, args []string) {
	usage(ts, args, 1, 1)
	s := of(ts)
	c := s.background[args[0]]
	if c == nil {
		ts.Fatalf("nothing called %q runs", args[0])
	}
	select {
	case s.last = <-c:
		delete(s.background, args[0])
	case <-time.After(time.Minute):
		ts.Fatalf("%s has not ended within a minute", args[0])
	}
	ts.Logf("%s: status %d, %d bytes, %v, after %v", args[0], s.last.status, s.last.size, s.last.err, s.last.took)
}

func cmdWant(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, args, 1, 4)
	s := of(ts)
	err := s.want(ts, args[0], args[1:])
	if neg && err == nil {
		err = fmt.Errorf("it is so")
	} else if neg {
		err = nil
	}
	if err != nil {
		r := s.last
		ts.Fatalf("%v\nseen: status %d, %v\n%d bytes, error %v, after %v: %.300q", err, r.status, r.header, r.size, r.err, r.took, r.head)
	}
}

func (s *state) want(ts *testscript.TestScript, what string, args []string) error {
	r := s.last
	first := ""
	if len(args) > 0 {
		first = args[0]
	}
	switch what {
	case "status":
		for one := range strings.SplitSeq(first, "|") {
			if strconv.Itoa(r.status) == one {
				return nil
			}
		}
		return fmt.Errorf("status %d", r.status)
	case "header", "noheader":
		return wantHeader(r, what == "noheader", args)
	case "body":
		return s.wantBody(args)
	case "whole":
		return r.err
	case "cut":
		return wantCut(r, first)
	case "code":
		return wantCode(r, first)
	case "text":
		return match(expand(ts, first), string(r.head))
	case "size":
		return compare("=="+first, float64(r.size))
	case "within":
		return within(first, r.took)
	case "first":
		return within(first, r.first)
	}
	return fmt.Errorf("cannot want %q", what)
}

func within(bound string, took time.Duration) error {
	d, err := time.ParseDuration(bound)
	if err == nil && took > d {
		err = fmt.Errorf("it took %v", took)
	}
	return err
}

func match(pattern, text string) error {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return err
	}
	if !re.MatchString(text) {
		return fmt.Errorf("%.300q does not match %s", text, pattern)
	}
	return nil
}

func wantHeader(r result, absent bool, args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("which header?")
	}
	values := r.header.Values(args[0])
	switch {
	case absent && len(values) > 0:
		return fmt.Errorf("header %s is %q", args[0], values)
	case absent || len(args) < 2:
		return nil
	case len(values) != 1:
		return fmt.Errorf("header %s comes %d times: %q", args[0], len(values), values)
	}
	return match(args[1], values[0])
}

// wantBody compares the digest of a complete answer with that of a blob, or of a part of it.
func (s *state) wantBody(args []string) error {
	b, err := (&player{content: s.content}).slice(args)
	if err != nil {
		return err
	}
	if s.last.err != nil {
		return fmt.Errorf("the body was cut: %w", s.last.err)
	}
	if s.last.digest != digest(b) {
		return fmt.Errorf("another body than %v, which has %d bytes", args, len(b))
	}
	return nil
}

// wantCut asks for an answer that was cut short after at least so many bytes.
func wantCut(r result, least string) error {
	if r.err == nil || r.status == 0 {
		return fmt.Errorf("not cut (error %v)", r.err)
	}
	if least == "" {
		return nil
	}
	return compare(">="+least, float64(r.size))
}

// wantCode asks for an error in the registry's own form.
func wantCode(r result, pattern string) error {
	var doc struct {
		Errors []struct{ Code, Message string }
	}
	if err := json.Unmarshal(r.head, &doc); err != nil || len(doc.Errors) == 0 {
		return fmt.Errorf("not an error document (%v)", err)
	}
	if t := r.header.Get("Content-Type"); t != "application/json" {
		return fmt.Errorf("an error document of type %q", t)
	}
	return match("^("+pattern+")$", doc.Errors[0].Code)
}

// cmdHerd lets N clients ask at once; some leave at a byte that the script's name determines.
func cmdHerd(ts *testscript.TestScript, _ bool, args []string) {
	usage(ts, args, 3, 4)
	s := of(ts)
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	leavers := 0
	if len(args) == 4 {
		leavers, err = strconv.Atoi(args[3])
		ts.Check(err)
	}
	blob := known(ts, args[2])
	rng := rand.New(rand.NewPCG(uint64(len(s.name)), uint64(n)))
	results := make(chan result, n)
	for i := range n {
		r := target(ts, []string{args[1]})
		if i < leavers {
			r.leave = rng.Int64N(int64(len(blob)))
		}
		s.herds.Go(func() { results <- r.do(s.done) })
	}
	whole, want := 0, digest(blob)
	for range n {
		if r := <-results; r.err == nil && r.digest == want {
			whole++
		} else if r.err != nil {
			ts.Logf("status %d, %d bytes, %v", r.status, r.size, r.err)
		}
	}
	if whole < n-leavers {
		ts.Fatalf("%d of %d clients that stayed got the blob", whole, n-leavers)
	}
}

func cmdRaw(ts *testscript.TestScript, _ bool, args []string) {
	usage(ts, args, 1, 1)
	steps, err := ParseSteps(expand(ts, ts.ReadFile(args[0])))
	ts.Check(err)
	ts.Check(of(ts).raw(running(ts).Addr, steps))
}

// cmdAsked compares how many requests of an origin match.
func cmdAsked(ts *testscript.TestScript, _ bool, args []string) {
	usage(ts, args, 3, 3)
	re, err := regexp.Compile(expand(ts, args[2]))
	ts.Check(err)
	n := 0
	var all []string
	for _, r := range origin(ts, args[0]).Requests() {
		all = append(all, r.String()+" "+r.Header.Get("Range"))
		if re.MatchString(r.String()) {
			n++
		}
	}
	if err := compare(args[1], float64(n)); err != nil {
		ts.Fatalf("the number of requests %q %v:\n%s", re, err, strings.Join(all, "\n"))
	}
}

// cmdSent looks for a header line among all requests that an origin got.
func cmdSent(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, args, 2, 2)
	re, err := regexp.Compile(expand(ts, args[1]))
	ts.Check(err)
	found := ""
	for _, r := range origin(ts, args[0]).Requests() {
		for _, line := range append(r.headers(), r.URI) {
			if re.MatchString(line) {
				found = r.String() + " with " + line
			}
		}
	}
	if neg == (found != "") {
		ts.Fatalf("a request with %q: %q", re, found)
	}
}
