package main

import (
	"path/filepath"
	"testing"
)

// TestMutantsAreThere: whoever changes a protection sees here that a mutant is about it.
func TestMutantsAreThere(t *testing.T) {
	t.Parallel()
	l, names := newLab(filepath.Join("..", ".."), t.TempDir()), map[string]bool{}
	for _, m := range protections() {
		if _, err := l.overlay(m); err != nil {
			t.Errorf("%s: %s: %v", m.file, m.name, err)
		}
		if names[m.name] {
			t.Errorf("%s: twice", m.name)
		}
		names[m.name] = true
	}
}
