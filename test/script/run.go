package script

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"cistern/test/lab"
)

// state is what one running script has made.
type state struct {
	t       testing.TB
	name    string
	content *Content
	events  events
	done    chan struct{} // closed when the script is over

	origins map[string]*Origin
	daemon  *lab.Cistern
	config  string // of the daemon, as the script gave it; empty: the default one
	cache   string // of the daemon
	dead    bool   // the script has ended the daemon on purpose
	checked bool   // "check" was run after everything else
	canary  string // digest of the blob that must survive; empty: none was cached

	last       result
	background map[string]chan result
	herds      sync.WaitGroup
}

// key finds the state in a running script.
type key struct{}

// Run runs every script in the folder as a parallel subtest. A script that does not end with "check" fails.
func Run(t *testing.T, dir string) {
	testscript.Run(t, testscript.Params{
		Dir:                dir,
		RequireUniqueNames: true,
		Setup: func(env *testscript.Env) error {
			t, ok := env.T().(testing.TB)
			if !ok {
				return fmt.Errorf("scripts run under testing only, not under %T", env.T())
			}
			s := &state{
				t: t, name: filepath.Base(env.WorkDir), content: NewContent(), done: make(chan struct{}),
				origins: map[string]*Origin{}, background: map[string]chan result{}, cache: lab.Dir(t),
			}
			env.Values[key{}] = s
			env.Setenv("CISTERN_BIN", os.Getenv("CISTERN_BIN"))
			env.Defer(s.end)
			return nil
		},
		Cmds: commands(),
	})
}

// end stops what the script has started. Processes are stopped by their own clean-up.
func (s *state) end() {
	close(s.done)
	for _, o := range s.origins {
		o.Down()
	}
	for _, b := range s.background {
		<-b
	}
	s.herds.Wait()
	if !s.checked && !s.t.Failed() {
		s.t.Error("the script does not end with \"check\"")
	}
}

// of is the state of a script.
func of(ts *testscript.TestScript) *state {
	s, ok := ts.Value(key{}).(*state)
	if !ok {
		ts.Fatalf("no state")
	}
	return s
}

// expand replaces ${NAME} by the script's variables, in rules and steps as in commands.
func expand(ts *testscript.TestScript, text string) string {
	return os.Expand(text, func(name string) string {
		value := ts.Getenv(name)
		if value == "" {
			ts.Fatalf("no variable $%s yet", name)
		}
		return value
	})
}

// defaultConfig knows the main origin twice: as docker.io, reached as a mirror is, and under a name with a dot for
// direct pulls. Tags are fresh for an hour, so that a script has to ask for anything else.
func defaultConfig(origin string) string {
	return strings.NewReplacer("ORIGIN", origin).Replace(`cache: { max_size: 1GiB, min_free: 0B }
upstreams:
  docker.io: { endpoints: ["http://ORIGIN"], tags: [{ match: ".*", fresh: 1h }] }
  direct.test: { endpoints: ["http://ORIGIN"], tags: [{ match: ".*", fresh: 1h }] }
`)
}
