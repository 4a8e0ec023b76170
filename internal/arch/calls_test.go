package arch

import (
	"go/ast"
	"go/token"
	"slices"
	"strings"
	"testing"
)

// declaredAs is what the parser knows of an identifier within its file: nil if it comes from outside.
func declaredAs(id *ast.Ident) any {
	if id.Obj == nil {
		return nil
	}
	return id.Obj.Decl
}

// uses calls do for every use of a name of the package at importPath.
func (f *file) uses(importPath string, do func(pos, name string)) {
	f.selectors(func(pos token.Pos, path, name string) {
		if path == importPath {
			do(f.at(pos), name)
		}
	})
}

// forbidden is a name of a library that only some folders may use.
type forbidden struct {
	library string
	names   []string
	only    []string // folders it is fine in
	why     string
}

var forbiddenNames = []forbidden{
	{"go.uber.org/zap", []string{"New", "NewProduction", "NewDevelopment", "NewExample", "Must", "L", "S", "ReplaceGlobals"}, []string{"cmd"},
		"only cmd/ builds a logger; others are given one (zap.NewNop where there is none)"},
	{"net/http", []string{"DefaultClient", "DefaultTransport", "Get", "Head", "Post", "PostForm"}, []string{"bench", "test"},
		"outbound requests go through the guarded transport of upstream, with its bounds"},
	{"net/http", []string{"Transport"}, []string{"upstream", "internal/admin", "cmd", "bench", "test"},
		"there is one outbound transport, with a guard at connect time"},
	{"net/http", []string{"HandleFunc", "Handle", "DefaultServeMux", "ListenAndServe", "ListenAndServeTLS"}, nil,
		"the default mux is global and has no timeouts; build a server"},
	{"os", []string{"Exit"}, []string{"cmd", "bench", "test"}, "only main ends the process"},
	{"log", []string{"Print", "Printf", "Println", "Fatal", "Fatalf", "Fatalln", "Default", "SetOutput"}, []string{"bench", "test"}, "logs go through zap"},
	{"log/slog", []string{"*"}, []string{"bench", "test"}, "logs go through zap"},
	{"fmt", []string{"Print", "Printf", "Println"}, []string{"bench", "test"}, "output goes to the writer that the caller gives"},
}

// concerns reports whether the rule says anything about folder dir.
func (r forbidden) concerns(dir string) bool {
	return !withinAny(dir, r.only...) && !forTests(dir)
}

func TestForbiddenNames(t *testing.T) {
	t.Parallel()
	for _, f := range source(t, production) {
		f.selectors(func(pos token.Pos, path, name string) {
			for _, r := range forbiddenNames {
				if path == r.library && (slices.Contains(r.names, name) || r.names[0] == "*") && r.concerns(f.dir) {
					t.Errorf("%s: %s.%s: %s", f.at(pos), path, name, r.why)
				}
			}
		})
	}
}

// TestNoClock: what the vocabulary and the configuration say does not depend on when they are asked.
func TestNoClock(t *testing.T) {
	t.Parallel()
	clock := []string{"Now", "Since", "Until", "After", "AfterFunc", "Sleep", "Tick", "NewTimer", "NewTicker"}
	for _, f := range source(t, func(f *file) bool { return !f.test && withinAny(f.dir, "internal/oci", "config") }) {
		f.uses("time", func(pos, name string) {
			if slices.Contains(clock, name) {
				t.Errorf("%s: time.%s in a package of pure functions", pos, name)
			}
		})
	}
}

// TestPanics: the one panic of production code is the one that net/http wants for cutting a response.
func TestPanics(t *testing.T) {
	t.Parallel()
	for _, f := range source(t, ownModule) {
		for _, d := range f.ast.Decls {
			if len(callsOf(d, "recover")) > 0 {
				continue // may throw on what it caught
			}
			for _, call := range callsOf(d, "panic") {
				if !isAbort(call) {
					t.Errorf("%s: panic: return an error; only http.ErrAbortHandler may be thrown, and what was recovered thrown on", f.at(call.Pos()))
				}
			}
		}
	}
}

// callsOf are the calls of a built-in function within a declaration.
func callsOf(d ast.Decl, name string) []*ast.CallExpr {
	var out []*ast.CallExpr
	ast.Inspect(d, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok && isIdent(call.Fun, name) {
			out = append(out, call)
		}
		return true
	})
	return out
}

// isAbort accepts panic(http.ErrAbortHandler).
func isAbort(call *ast.CallExpr) bool {
	if len(call.Args) != 1 {
		return false
	}
	sel, ok := call.Args[0].(*ast.SelectorExpr)
	return ok && sel.Sel.Name == "ErrAbortHandler"
}

// isIdent reports whether an expression is that plain name.
func isIdent(e ast.Expr, name string) bool {
	id, ok := e.(*ast.Ident)
	return ok && id.Name == name
}

// TestTests: tests wait for what they wait for, and run or do not exist.
func TestTests(t *testing.T) {
	t.Parallel()
	for _, f := range source(t, func(f *file) bool { return f.test }) {
		f.uses("time", func(pos, name string) {
			if name == "Sleep" && !importsSynctest(f) {
				t.Errorf("%s: time.Sleep in a test: wait for the thing itself, or use testing/synctest", pos)
			}
		})
		ast.Inspect(f.ast, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			if sel, ok := call.Fun.(*ast.SelectorExpr); ok && isTestVariable(sel.X) && strings.HasPrefix(sel.Sel.Name, "Skip") {
				t.Errorf("%s: %s: a test that does not run proves nothing", f.at(call.Pos()), sel.Sel.Name)
			}
			return true
		})
	}
}

// importsSynctest: within a bubble time.Sleep takes no time.
func importsSynctest(f *file) bool {
	return f.imports()["synctest"] == "testing/synctest"
}

// isTestVariable tells t, b, f and tb as they are named everywhere.
func isTestVariable(x ast.Expr) bool {
	id, ok := x.(*ast.Ident)
	return ok && slices.Contains([]string{"t", "b", "f", "tb"}, id.Name)
}

// TestLeaks: every package with tests checks for what they leave behind.
func TestLeaks(t *testing.T) {
	t.Parallel()
	guarded, tested := map[string]bool{}, map[string]string{}
	for _, f := range source(t, func(f *file) bool { return f.test && !within(f.dir, "test") }) {
		tested[f.dir] = f.path
		f.uses("cistern/internal/leaktest", func(_, name string) { guarded[f.dir] = guarded[f.dir] || name == "Main" || name == "Run" })
	}
	for dir, path := range tested {
		if !guarded[dir] && dir != "internal/leaktest" {
			t.Errorf("%s: no TestMain in %s calls leaktest.Main", path, dir)
		}
	}
}
