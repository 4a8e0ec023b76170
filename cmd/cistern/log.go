package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sys/unix"
)

// Bounds of the log's buffer: a line waits for so long at most, and so many
// bytes at most are lost if the machine fails.
const (
	logFlush  = time.Second
	logBuffer = 256 << 10
)

// logger is the daemon's log: everything, one line a request included, goes to
// standard error, so that standard output is left for answers.
type logger struct {
	*zap.Logger
	level    zap.AtomicLevel
	buffer   *zapcore.BufferedWriteSyncer // nil: written line by line
	terminal *os.File                     // what a person reads; nil elsewhere
}

// newLogger writes to f. Lines on a terminal appear at once; elsewhere they are
// buffered for up to a second, since a write for each request costs more than
// making the line. Errors are written at once.
func newLogger(f *os.File, level, format string) (*logger, error) {
	l := &logger{level: zap.NewAtomicLevel()}
	if err := l.level.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("log level: %w", err)
	}
	out := zapcore.WriteSyncer(zapcore.Lock(f))
	terminal := isTerminal(f)
	if terminal {
		l.terminal = f
	} else {
		l.buffer = &zapcore.BufferedWriteSyncer{WS: unsynced(out), Size: logBuffer, FlushInterval: logFlush}
		out = l.buffer
	}
	core := zapcore.NewCore(newEncoder(format, terminal), out, l.level)
	l.Logger = zap.New(flushErrors{core}, zap.ErrorOutput(zapcore.Lock(f)))
	return l, nil
}

// unsynced has no Sync: a buffer would call it with each flush, and every
// request would wait for an fsync where the log goes to a file.
func unsynced(w io.Writer) zapcore.WriteSyncer { return zapcore.AddSync(struct{ io.Writer }{w}) }

// newEncoder makes json or console lines; "" is console on a terminal.
func newEncoder(format string, terminal bool) zapcore.Encoder {
	conf := zapcore.EncoderConfig{
		TimeKey: "time", LevelKey: "level", NameKey: "logger", MessageKey: "msg",
		LineEnding:     zapcore.DefaultLineEnding,
		EncodeTime:     zapcore.TimeEncoderOfLayout("2006-01-02T15:04:05.000Z07:00"),
		EncodeLevel:    zapcore.LowercaseLevelEncoder,
		EncodeDuration: zapcore.SecondsDurationEncoder,
	}
	if format == "console" || format == "" && terminal {
		conf.EncodeTime = zapcore.TimeEncoderOfLayout("15:04:05.000")
		conf.EncodeLevel = zapcore.CapitalLevelEncoder
		conf.EncodeDuration = zapcore.StringDurationEncoder
		return zapcore.NewConsoleEncoder(conf)
	}
	return zapcore.NewJSONEncoder(conf)
}

// flush writes what is buffered; nothing may be logged after it.
func (l *logger) flush() {
	if l.buffer != nil {
		_ = l.buffer.Stop()
	}
	_ = l.Sync()
}

// hungUp tells whether the terminal that was logged to is gone: then SIGHUP is
// what its name says, and no wish for a reload.
func (l *logger) hungUp() bool { return l.terminal != nil && !isTerminal(l.terminal) }

// flushErrors writes errors, and what was logged before them, at once: the
// process may not live for another second.
type flushErrors struct{ zapcore.Core }

// With keeps the wrapper around loggers with fields.
func (c flushErrors) With(fields []zapcore.Field) zapcore.Core {
	return flushErrors{c.Core.With(fields)}
}

// Check puts this core, not the one within, into the entry.
func (c flushErrors) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

// Write logs one line.
func (c flushErrors) Write(e zapcore.Entry, fields []zapcore.Field) error {
	err := c.Core.Write(e, fields)
	if e.Level >= zapcore.ErrorLevel {
		_ = c.Sync() // a pipe or terminal cannot be synced, and says so
	}
	return err
}

// onTerminal tells whether a person reads what is written to w.
func onTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && isTerminal(f)
}

// isTerminal tells whether a person reads f.
func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
