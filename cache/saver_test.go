package cache

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cistern/internal/oci"
)

// rebooted has a closed cache's directory be one that the machine was rebooted
// over: the kernel has another name now.
func rebooted(t *testing.T, dir string) {
	t.Helper()
	file := filepath.Join(dir, "boot")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, at, _ := strings.Cut(string(text), "@")
	if err := os.WriteFile(file, []byte("another@"+at), 0o600); err != nil {
		t.Fatal(err)
	}
}

// trickle sends 5 MiB a second.
func trickle(data []byte) (steps []step) {
	for off := 0; off < len(data); off += mib {
		come := make(chan struct{})
		time.AfterFunc(time.Duration(off/mib)*200*time.Millisecond, func() { close(come) })
		steps = append(steps, step{wait: come, data: data[off:min(len(data), off+mib)]})
	}
	return steps
}

// slowly is partial for a link that brings 5 MiB a second.
func slowly(t *testing.T, data []byte, n int) (dir string) {
	t.Helper()
	dir = t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		o, c := newOrigin(), open(t, Options{Dir: dir})
		d := o.put(data)
		o.blob = func(k int, _ oci.Digest, _, _ int64) (*Body, error) {
			if k > 1 {
				return nil, oci.ErrDenied
			}
			return body(int64(len(data)), 0, append(trickle(data[:n]), step{err: errReset})...)
		}
		if got, _, err := c.get(o.repo("a"), d); err == nil {
			t.Errorf("%d bytes", len(got))
		}
		c.close()
	})
	return dir
}

// FAULTS row 37: a large fill goes on after a power cut with what was synced of
// it, and with nothing else.
func TestResumeAfterAReboot(t *testing.T) {
	t.Parallel()
	data := noise(3*saveStep, 5)
	size := int64(len(data))
	for name, spoil := range map[string]func(file string) error{
		"nothing lost": func(string) error { return nil },
		"what was not synced is lost": func(file string) error {
			f, err := os.OpenFile(file, os.O_RDWR, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt(make([]byte, 4096), 5*saveStep/2-mib)
			return errors.Join(err, f.Close())
		},
		"not all is as it was": func(file string) error { // a synced piece, the fourth
			f, err := os.OpenFile(file, os.O_RDWR, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt([]byte{^data[3*mib+7]}, 3*mib+7)
			return errors.Join(err, f.Close())
		},
		"all but the piece state is lost": func(file string) error { return os.Truncate(file, 0) },
		"the piece state is lost":         func(file string) error { return os.Truncate(file+".pieces", 10) },
		"the file is lost":                os.Remove,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, d := slowly(t, data, 5*saveStep/2), oci.FromBytes(data)
			rebooted(t, dir)
			if err := spoil(filepath.Join(dir, "fills/sha256", d.Hex()[:2], d.Hex())); err != nil {
				t.Fatal(err)
			}
			o, c := newOrigin(), open(t, Options{Dir: dir})
			o.put(data)
			c.want(o.repo("a"), d, OutcomeMiss)
			c.idle()
			c.want(o.repo("a"), d, OutcomeHit)
			c.account()
			if name == "not all is as it was" { // that piece, and what is behind the synced ones
				if len(o.ranges) != 2 || o.ranges[0] != "3145728-4194304" {
					t.Errorf("asked for %v", o.ranges)
				}
				o.ranges = o.ranges[1:]
			}
			from, _, _ := strings.Cut(o.ranges[0], "-")
			off, err := strconv.ParseInt(from, 10, 64)
			least, most := int64(0), int64(0)
			switch name {
			case "nothing lost", "what was not synced is lost", "not all is as it was":
				least, most = saveStep, size
			}
			if err != nil || len(o.ranges) != 1 || off < least || off > most {
				t.Errorf("asked for %v", o.ranges)
			}
			if left, _ := filepath.Glob(filepath.Join(dir, "fills/sha256/*/*")); len(left) != 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}
