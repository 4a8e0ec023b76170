package script

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"cistern/test/lab"
)

// commands are what a script can say. Names in capitals are the script's own; $NAME gives a blob's or an image's digest,
// an origin's address, and after "cistern" $CISTERN, $ADMIN and $CACHE.
//
//	blob NAME SIZE                  random bytes, served by every origin
//	text NAME TEXT                  a blob with this text
//	spoil NAME OF OFFSET            blob OF with one bit turned at OFFSET (negative: from the end)
//	join NAME A B                   blob A followed by blob B
//	image NAME REPO:TAG BLOB...     an image of these layers, served by every origin; $NAME_CONFIG is its config
//	origin NAME [FILE]              start an origin with the rules in FILE; the first one is the daemon's upstream
//	rules NAME FILE                 replace its rules
//	down NAME, up NAME              refuse connections, accept them again
//	release EVENT                   let all who "await" it go on
//	config FILE                     the daemon's configuration, instead of docker.io and direct.test at the first origin
//	cache tmpfs SIZE | readonly | fill | free     what the cache directory lies on; fill: leave no byte free
//	cistern [ARG...]                start the daemon with further arguments, and cache the canary
//	! cistern [ARG...]              it must refuse to start, within ten seconds
//	sigkill, sigterm, restart           SIGKILL; SIGTERM and wait; start again on the same cache
//	second                          another daemon on the same cache directory, which must refuse within five seconds
//	get [FLAG...] PATH              a request to the daemon: -method M, -header 'K: V', -range A-B, -leave N, -rate N, -never true
//	start NAME get ARG...           the same in the background
//	await NAME                      until it has ended; then "want" looks at it
//	want status N[|N...] | header K RE | noheader K | body BLOB [A B] | cut [MIN] | whole | code RE | text RE | within D | first D | size N
//	herd N PATH BLOB [LEAVERS]      N clients at once, of which so many leave on their way; all others must get the blob
//	raw FILE                        a raw client
//	asked NAME OP RE                how many requests matched: "asked O ==1 '^GET .*blobs'"
//	sent NAME RE, ! sent NAME RE    a header line that the origin got
//	log RE, ! log RE                a line of the daemon's output
//	metric NAME OP [RE...]          the sum over the series whose labels match: "metric cistern_requests_total >=1 'outcome=\"hit\"'"
//	exits N                         the daemon has ended with this code
//	check [-evicted]                last: the daemon lives, nothing has panicked, and without any origin the canary is still a hit,
//	                                unless the cache had to make room
func commands() map[string]func(*testscript.TestScript, bool, []string) {
	return map[string]func(*testscript.TestScript, bool, []string){
		"blob": cmdBlob, "text": cmdText, "spoil": cmdSpoil, "join": cmdJoin, "image": cmdImage,
		"origin": cmdOrigin, "rules": cmdRules, "down": cmdDown, "up": cmdUp, "release": cmdRelease,
		"config": cmdConfig, "cache": cmdCache, "cistern": cmdCistern, "sigkill": cmdKill, "sigterm": cmdTerm, "second": cmdSecond, "restart": cmdRestart,
		"get": cmdGet, "start": cmdStart, "await": cmdWait, "want": cmdWant, "herd": cmdHerd, "raw": cmdRaw,
		"asked": cmdAsked, "sent": cmdSent, "log": cmdLog, "metric": cmdMetric, "exits": cmdExits, "check": cmdCheck,
	}
}

// usage fails the script unless there are from least to most arguments.
func usage(ts *testscript.TestScript, args []string, least, most int) {
	if len(args) < least || len(args) > most {
		ts.Fatalf("%d arguments where %d to %d belong", len(args), least, most)
	}
}

func cmdBlob(ts *testscript.TestScript, _ bool, args []string) {
	usage(ts, args, 2, 2)
	size, err := strconv.Atoi(args[1])
	ts.Check(err)
	s := of(ts)
	ts.Setenv(args[0], s.content.Random(args[0], s.name, size))
	ts.Setenv(args[0]+"_SIZE", args[1])
}

func cmdText(ts *testscript.TestScript, _ bool, args []string) {
	usage(ts, args, 2, 2)
	ts.Setenv(args[0], of(ts).content.Add(args[0], []byte(args[1])))
	ts.Setenv(args[0]+"_SIZE", strconv.Itoa(len(args[1])))
}

// known is the bytes of a blob that the script must have made before.
func known(ts *testscript.TestScript, name string) []byte {
	b, ok := of(ts).content.Blob(name)
	if !ok {
		ts.Fatalf("no blob %q", name)
	}
	return b
}

func cmdSpoil(ts *testscript.TestScript, _ bool, args []string) {
	usage(ts, args, 3, 3)
	b := append([]byte(nil), known(ts, args[1])...)
	at, err := strconv.Atoi(args[2])
	ts.Check(err)
	if at < 0 {
		at += len(b)
	}
	b[at] ^= 1
	ts.Setenv(args[0], of(ts).content.Add(args[0], b))
	ts.Setenv(args[0]+"_SIZE", strconv.Itoa(len(b)))
}

func cmdJoin(ts *testscript.TestScript, _ bool, args []string) {
	usage(ts, args, 3, 3)
	b := append(append([]byte(nil), known(ts, args[1])...), known(ts, args[2])...)
	ts.Setenv(args[0], of(ts).content.Add(args[0], b))
	ts.Setenv(args[0]+"_SIZE", strconv.Itoa(len(b)))
}

func cmdImage(ts *testscript.TestScript, _ bool, args []string) {
	usage(ts, args, 2, 99)
	s := of(ts)
	d, err := s.content.Image(args[1], args[2:])
	ts.Check(err)
	raw, _ := s.content.Blob(args[1])
	s.content.name(args[0], raw)
	ts.Setenv(args[0], d)
	ts.Setenv(args[0]+"_SIZE", strconv.Itoa(len(raw)))
	config, _ := s.content.Blob("config of " + args[1])
	ts.Setenv(args[0]+"_CONFIG", digest(config))
}

func cmdOrigin(ts *testscript.TestScript, _ bool, args []string) {
	usage(ts, args, 1, 2)
	s := of(ts)
	o := &Origin{Addr: lab.Addr(), content: s.content, events: &s.events}
	ts.Setenv(args[0], o.Addr)
	_, port, _ := strings.Cut(o.Addr, ":")
	ts.Setenv(args[0]+"_PORT", port)
	if len(s.origins) == 0 {
		ts.Setenv("ORIGIN", o.Addr)
	}
	s.origins[args[0]] = o
	ts.Check(o.Up())
	if len(args) == 2 {
		cmdRules(ts, false, args)
	}
}

func cmdRules(ts *testscript.TestScript, _ bool, args []string) {
	usage(ts, args, 2, 2)
	rules, err := ParseRules(expand(ts, ts.ReadFile(args[1])))
	if err != nil {
		ts.Fatalf("%s: %v", args[1], err)
	}
	origin(ts, args[0]).Script(rules)
}

func origin(ts *testscript.TestScript, name string) *Origin {
	o := of(ts).origins[name]
	if o == nil {
		ts.Fatalf("no origin %q", name)
	}
	return o
}

func cmdDown(ts *testscript.TestScript, _ bool, args []string) {
	usage(ts, args, 1, 1)
	origin(ts, args[0]).Down()
}

func cmdUp(ts *testscript.TestScript, _ bool, args []string) {
	usage(ts, args, 1, 1)
	ts.Check(origin(ts, args[0]).Up())
}

func cmdRelease(ts *testscript.TestScript, _ bool, args []string) {
	usage(ts, args, 1, 1)
	close(of(ts).events.of(args[0]))
}

// compare reads "==3", ">=1", "<=2" or ">0" and applies it.
func compare(op string, got float64) error {
	for _, sign := range []string{"==", ">=", "<=", "!=", ">", "<"} {
		rest, ok := strings.CutPrefix(op, sign)
		if !ok {
			continue
		}
		want, err := strconv.ParseFloat(rest, 64)
		if err != nil {
			return err
		}
		if !map[string]bool{"==": got == want, ">=": got >= want, "<=": got <= want, "!=": got != want, ">": got > want, "<": got < want}[sign] {
			return fmt.Errorf("is %v, wanted %s", got, op)
		}
		return nil
	}
	return fmt.Errorf("%q does not compare", op)
}
