package arch

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"cistern/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// modulePath is the module of everything but test/, which is one of its own.
const modulePath = "cistern"

// file is one parsed source file.
type file struct {
	path  string // from the root of the tree, with slashes
	dir   string // its folder, "." for the root
	test  bool   // *_test.go
	lines int
	ast   *ast.File
	fset  *token.FileSet
}

// at is the place of a node, for messages.
func (f *file) at(p token.Pos) string {
	return f.path + ":" + strconv.Itoa(f.fset.Position(p).Line)
}

// imports are the paths that the file imports, by the name each has in the file.
func (f *file) imports() map[string]string {
	m := map[string]string{}
	for _, s := range f.ast.Imports {
		path, err := strconv.Unquote(s.Path.Value)
		if err != nil {
			continue
		}
		m[localName(s, path)] = path
	}
	return m
}

// localName is what an import is called in its file.
func localName(s *ast.ImportSpec, path string) string {
	if s.Name != nil && s.Name.Name != "_" {
		return s.Name.Name
	}
	parts := strings.Split(path, "/")
	name := parts[len(parts)-1]
	if len(parts) > 1 && len(name) > 1 && name[0] == 'v' && strings.Trim(name[1:], "0123456789") == "" {
		name = parts[len(parts)-2] // a major version
	}
	return strings.TrimPrefix(name, "go-")
}

// tree parses every source file once, for all tests.
var tree = sync.OnceValues(func() ([]*file, error) {
	root := filepath.Join("..", "..")
	var files []*file
	fset := token.NewFileSet()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if path != root && skipped(d.Name()) {
				return filepath.SkipDir
			}
			return nil
		}
		if filepath.Ext(path) != ".go" {
			return nil
		}
		f, err := parse(fset, root, path)
		if err == nil {
			files = append(files, f)
		}
		return err
	})
	return files, err
})

// skipped tells folders that are not the project's source: caches, build results, data of tests.
func skipped(dir string) bool {
	return strings.HasPrefix(dir, ".") || strings.HasPrefix(dir, "_") || slices.Contains([]string{"bin", "testdata", "vendor", "node_modules"}, dir)
}

// parse reads one file.
func parse(fset *token.FileSet, root, path string) (*file, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	rel, err := filepath.Rel(root, path)
	if err != nil {
		return nil, err
	}
	rel = filepath.ToSlash(rel)
	parsed, err := parser.ParseFile(fset, rel, text, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	dir := "."
	if i := strings.LastIndexByte(rel, '/'); i >= 0 {
		dir = rel[:i]
	}
	return &file{
		path: rel, dir: dir, test: strings.HasSuffix(rel, "_test.go"),
		lines: bytes.Count(text, []byte("\n")), ast: parsed, fset: fset,
	}, nil
}

// source gives the files that keep is true for; nil keeps all.
func source(t *testing.T, keep func(*file) bool) []*file {
	t.Helper()
	all, err := tree()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) == 0 {
		t.Fatal("no source files found: the walk starts in the wrong folder")
	}
	var out []*file
	for _, f := range all {
		if keep == nil || keep(f) {
			out = append(out, f)
		}
	}
	return out
}

// production keeps what is not a test's file.
func production(f *file) bool { return !f.test }

// ownModule keeps what the layer rules are about: the programs of this module. test/ imports what it needs, and so do the
// helpers of tests.
func ownModule(f *file) bool { return !f.test && !within(f.dir, "test") && !forTests(f.dir) }

// forTests tells the packages that help tests: internal/leaktest and others whose name ends so.
func forTests(dir string) bool { return within(dir, "internal") && strings.HasSuffix(dir, "test") }

// within reports whether dir is root or lies in it.
func within(dir, root string) bool {
	return dir == root || strings.HasPrefix(dir, root+"/")
}

// withinAny reports whether dir lies in one of roots.
func withinAny(dir string, roots ...string) bool {
	return slices.ContainsFunc(roots, func(root string) bool { return within(dir, root) })
}

// selectors calls do for every X.Name in the file whose X is an imported package.
func (f *file) selectors(do func(pos token.Pos, importPath, name string)) {
	imports := f.imports()
	ast.Inspect(f.ast, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if x, ok := sel.X.(*ast.Ident); ok && imports[x.Name] != "" && declaredAs(x) == nil {
			do(sel.Pos(), imports[x.Name], sel.Sel.Name)
		}
		return true
	})
}
