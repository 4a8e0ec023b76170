package arch

import (
	"go/ast"
	"go/token"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The grain: what can be read in one go.
const (
	maxFileLines     = 400
	maxTestFileLines = 800
	maxFuncLines     = 70
	maxMainLines     = 40
	maxMethods       = 5 // of an interface; embedded ones count as one
)

func TestFileLength(t *testing.T) {
	t.Parallel()
	for _, f := range source(t, nil) {
		limit := maxFileLines
		if f.test {
			limit = maxTestFileLines
		}
		if f.lines > limit {
			t.Errorf("%s has %d lines, more than %d: split it by what it is about", f.path, f.lines, limit)
		}
	}
}

func TestFunctionLength(t *testing.T) {
	t.Parallel()
	for _, f := range source(t, production) {
		for _, d := range f.ast.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Body == nil {
				continue
			}
			limit := maxFuncLines
			if f.ast.Name.Name == "main" && fn.Recv == nil && fn.Name.Name == "main" {
				limit = maxMainLines
			}
			if n := f.fset.Position(fn.End()).Line - f.fset.Position(fn.Pos()).Line + 1; n > limit {
				t.Errorf("%s: %s has %d lines, more than %d", f.at(fn.Pos()), fn.Name.Name, n, limit)
			}
		}
	}
}

// wide are the files whose interface may be larger, and why.
var wide = map[string]string{
	"internal/durable/fs.go": "the file system below the store, so that disk faults can be injected without touching it",
}

func TestInterfaceSize(t *testing.T) {
	t.Parallel()
	for _, f := range source(t, func(f *file) bool { return !f.test && wide[f.path] == "" }) {
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if i, ok := n.(*ast.InterfaceType); ok && i.Methods.NumFields() > maxMethods {
				t.Errorf("%s: an interface of %d methods, more than %d: ask for what is used", f.at(i.Pos()), i.Methods.NumFields(), maxMethods)
			}
			return true
		})
	}
}

func TestNoInit(t *testing.T) {
	t.Parallel()
	for _, f := range source(t, nil) {
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s: init(): what a package needs is passed to it", f.at(fn.Pos()))
			}
		}
	}
}

// TestNoPackageState finds variables of a package that its code assigns to, or whose type is made to be changed.
func TestNoPackageState(t *testing.T) {
	t.Parallel()
	vars := map[string]map[string]string{} // folder -> name -> place
	files := source(t, production)
	for _, f := range files {
		for name, pos := range packageVars(f) {
			if vars[f.dir] == nil {
				vars[f.dir] = map[string]string{}
			}
			vars[f.dir][name] = pos
		}
	}
	for _, f := range files {
		top := topLevel(f)
		for _, id := range assigned(f) {
			if place, ok := vars[f.dir][id.Name]; ok && (declaredAs(id) == nil || top[declaredAs(id)]) {
				t.Errorf("%s: assigns to %s of %s: no state in packages, two servers in one process must not meet", f.at(id.Pos()), id.Name, place)
			}
		}
	}
}

// packageVars are the variables a file declares at package level, with their places.
func packageVars(f *file) map[string]string {
	out := map[string]string{}
	for _, d := range f.ast.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.VAR {
			continue
		}
		for _, s := range g.Specs {
			for _, name := range s.(*ast.ValueSpec).Names {
				if name.Name != "_" {
					out[name.Name] = f.at(name.Pos())
				}
			}
		}
	}
	return out
}

// assigned are the variables on the left of assignments: x, and the x of x.f, x[i] and *x.
func assigned(f *file) []*ast.Ident {
	var out []*ast.Ident
	note := func(e ast.Expr) {
		if id := rootOf(e); id != nil {
			out = append(out, id)
		}
	}
	ast.Inspect(f.ast, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.AssignStmt:
			for _, e := range n.Lhs {
				if n.Tok != token.DEFINE {
					note(e)
				}
			}
		case *ast.IncDecStmt:
			note(n.X)
		}
		return true
	})
	return out
}

// rootOf is the variable that an expression to assign to belongs to.
func rootOf(e ast.Expr) *ast.Ident {
	for {
		switch x := e.(type) {
		case *ast.Ident:
			return x
		case *ast.SelectorExpr:
			e = x.X
		case *ast.IndexExpr:
			e = x.X
		case *ast.StarExpr:
			e = x.X
		case *ast.ParenExpr:
			e = x.X
		default:
			return nil
		}
	}
}

// topLevel are the declarations of a file that are in no function.
func topLevel(f *file) map[any]bool {
	out := map[any]bool{}
	for _, d := range f.ast.Decls {
		if g, ok := d.(*ast.GenDecl); ok {
			for _, s := range g.Specs {
				out[s] = true
			}
		}
	}
	return out
}

// marks are words of unfinished work in comments.
var marks = regexp.MustCompile(`\b(TODO|FIXME|XXX|HACK)\b`)

func TestNoMarks(t *testing.T) {
	t.Parallel()
	for _, f := range source(t, func(f *file) bool { return f.dir != "internal/arch" }) {
		for _, g := range f.ast.Comments {
			for _, c := range g.List {
				if m := marks.FindString(c.Text); m != "" {
					t.Errorf("%s: %s: finish it, or file an issue", f.at(c.Pos()), m)
				}
			}
		}
	}
}

func TestFolderNames(t *testing.T) {
	t.Parallel()
	for _, f := range source(t, nil) {
		if slices.Contains([]string{"utils", "util", "common", "helpers", "helper", "pkg", "misc"}, path.Base(f.dir)) {
			t.Errorf("%s: a folder is named for what it is about", f.path)
		}
	}
}

func TestPackageDocs(t *testing.T) {
	t.Parallel()
	documented := map[string]bool{}
	for _, f := range source(t, nil) {
		key := f.dir + " " + strings.TrimSuffix(f.ast.Name.Name, "_test")
		documented[key] = documented[key] || f.ast.Doc != nil
	}
	for key, ok := range documented {
		if !ok {
			dir, name, _ := strings.Cut(key, " ")
			t.Errorf("%s: package %s has no comment that says what it is for, and what not", dir, name)
		}
	}
}

func TestExportedNamesAreDocumented(t *testing.T) {
	t.Parallel()
	for _, f := range source(t, func(f *file) bool { return !f.test && f.ast.Name.Name != "main" }) {
		for _, d := range f.ast.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Name.IsExported() && exportedReceiver(d) && d.Doc == nil {
					t.Errorf("%s: %s has no comment", f.at(d.Pos()), d.Name.Name)
				}
			case *ast.GenDecl:
				for _, s := range d.Specs {
					if name := undocumented(d, s); name != "" {
						t.Errorf("%s: %s has no comment", f.at(s.Pos()), name)
					}
				}
			}
		}
	}
}

// exportedReceiver reports whether a function is none's method, or one of an exported type.
func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil || len(d.Recv.List) == 0 {
		return true
	}
	e := d.Recv.List[0].Type
	for {
		switch x := e.(type) {
		case *ast.StarExpr:
			e = x.X
		case *ast.IndexExpr:
			e = x.X
		case *ast.IndexListExpr:
			e = x.X
		case *ast.Ident:
			return x.IsExported()
		default:
			return false
		}
	}
}

// undocumented is the first exported name of a declaration without a comment; one above a group or behind a line will do.
func undocumented(d *ast.GenDecl, s ast.Spec) string {
	switch s := s.(type) {
	case *ast.TypeSpec:
		if s.Name.IsExported() && s.Doc == nil && d.Doc == nil {
			return s.Name.Name
		}
	case *ast.ValueSpec:
		for _, n := range s.Names {
			if n.IsExported() && s.Doc == nil && s.Comment == nil && d.Doc == nil {
				return n.Name
			}
		}
	}
	return ""
}
