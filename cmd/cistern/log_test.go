package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// accessFields are what one line of the access log carries.
func accessFields() []zapcore.Field {
	return []zapcore.Field{
		zap.String("method", "GET"), zap.String("upstream", "docker.io"), zap.String("repository", "library/nginx"),
		zap.String("reference", "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
		zap.String("kind", "blob"), zap.Int("status", 200), zap.String("outcome", "hit"), zap.Int64("bytes", 4096),
		zap.Duration("duration", 123*time.Microsecond), zap.String("client", "10.1.2.3"), zap.String("agent", "containerd/2.1.4"),
	}
}

func TestEveryLineIsOneJSONObject(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	l, err := newLogger(f, "info", "")
	if err != nil {
		t.Fatal(err)
	}
	hostile := make([]byte, 0, 256)
	for b := range 256 {
		hostile = append(hostile, byte(b))
	}
	l.Info("request", append(accessFields(), zap.String("raw", string(hostile)))...)
	l.Debug("hidden")
	l.level.SetLevel(zap.DebugLevel)
	l.Debug("shown")
	l.Error("at once")
	written, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(written), "at once") {
		t.Error("an error waited in the buffer")
	}
	l.Info("last")
	l.flush()
	if written, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(written), "\n"), "\n")
	var messages []string
	for _, line := range lines {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Errorf("%q: %v", line, err)
		}
		messages = append(messages, fields["msg"].(string))
	}
	if got, want := strings.Join(messages, ","), "request,shown,at once,last"; got != want {
		t.Errorf("messages %s, want %s", got, want)
	}
}

func TestConsoleLinesCannotBeForged(t *testing.T) {
	t.Parallel()
	enc := newEncoder("console", false)
	for b := range 256 {
		line, err := enc.EncodeEntry(zapcore.Entry{Message: "request"}, []zapcore.Field{zap.String("raw", "a"+string([]byte{byte(b)})+"b")})
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(line.String(), "\n"); n != 1 {
			t.Errorf("byte %d: %d lines", b, n)
		}
	}
}

func TestUnknownLevelIsAnError(t *testing.T) {
	t.Parallel()
	if _, err := newLogger(os.Stderr, "loud", ""); err == nil {
		t.Error("no error")
	}
}

// BenchmarkAccessLine is the cost of one line a request; 10 us is the bound.
func BenchmarkAccessLine(b *testing.B) {
	for _, format := range []string{"json", "console"} {
		b.Run(format, func(b *testing.B) {
			f, err := os.Create(filepath.Join(b.TempDir(), "log"))
			if err != nil {
				b.Fatal(err)
			}
			defer f.Close()
			l, err := newLogger(f, "info", format)
			if err != nil {
				b.Fatal(err)
			}
			defer l.flush()
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				l.Info("request", accessFields()...)
			}
		})
	}
}
