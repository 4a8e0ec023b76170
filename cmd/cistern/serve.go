package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"
	"time"

	systemd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"cistern/config"
	"cistern/internal/listener"
)

func (a *app) serveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the daemon",
		Long: "Run the daemon until SIGTERM or SIGINT, which let responses finish for 8 s; a second one ends it at once.\n" +
			"SIGHUP reads the configuration again, takes over the log level, and says what needs a restart.\n" +
			"Each flag has a variable: CISTERN_CACHE_DIR for --cache-dir. Order: defaults < file < environment < flags.",
		Args: noArgs,
	}
	flags := settingFlags(cmd)
	cmd.RunE = failing(func(*cobra.Command, []string) error { return a.serve(flags()) })
	return cmd
}

func (a *app) serve(flags map[string][]string) error {
	sources, err := a.sources(flags)
	if err != nil {
		return err
	}
	conf, err := loadConfig(sources)
	if err != nil {
		return err
	}
	log, err := newLogger(a.logTo, conf.Log.Level, conf.Log.Format)
	if err != nil {
		return err
	}
	defer log.flush()
	// From here on a signal is a request to end well, also during the start.
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(signals)

	defer paceHeap(a.getenv)()
	defer addProcs(a.getenv)()
	d, err := newDaemon(conf, log, a.getenv)
	if err != nil {
		return err
	}
	d.announce(a.stdout)
	d.warn(a.getenv)
	return d.run(signals, func() (*config.Config, error) { return loadConfig(sources) })
}

// run serves until a signal or a failing listener ends it.
func (d *daemon) run(signals <-chan os.Signal, reload func() (*config.Config, error)) error {
	failed := d.serve()
	notify(d.log, systemd.SdNotifyReady)
	defer d.feedWatchdog()()
	d.log.Info("serving", zap.String("version", version), zap.Stringer("listen", d.registry.Addr()),
		zap.String("config", d.conf.File), zap.String("cache", d.conf.Cache.Dir))
	var failure error
	for failure == nil {
		select {
		case s := <-signals:
			if s == syscall.SIGHUP && !d.log.hungUp() {
				d.reload(reload)
				continue
			}
			d.log.Info("stopping: responses have 8 s to finish", zap.Stringer("signal", s))
		case failure = <-failed:
			d.log.Error("stopping: a listener failed", zap.Error(failure))
		}
		break
	}
	if err := d.stop(signals); err != nil {
		return err
	}
	return failure
}

// closeTime is what the rest gets after the drain: the last checkpoint, mostly.
const closeTime = 6 * time.Second

var errCut = errors.New("a second signal: ended at once; what was not yet written is fetched again")

// stop drains and closes, in bounded time.
func (d *daemon) stop(signals <-chan os.Signal) error {
	notify(d.log, systemd.SdNotifyStopping)
	if d.admin != nil {
		d.admin.Stopping()
	}
	go func() {
		defer close(d.closed)
		d.close(d.drain)
	}()
	late := time.NewTimer(drainTime + closeTime)
	defer late.Stop()
	for {
		select {
		case <-d.closed:
			d.log.Info("stopped")
			return nil
		case s := <-signals:
			if s != syscall.SIGHUP {
				return errCut
			}
		case <-late.C:
			return errors.New("closing took too long: ended as it is; what was not yet written is fetched again")
		}
	}
}

func (d *daemon) drain(l *listener.Listener) {
	ctx, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	if l.Shutdown(ctx) {
		d.log.Warn("responses were cut that had not finished in time", zap.Duration("drain", drainTime))
	}
}

// notify tells systemd, where it listens.
func notify(log *logger, state string) {
	if _, err := systemd.SdNotify(false, state); err != nil {
		log.Warn("cannot tell systemd", zap.String("state", state), zap.Error(err))
	}
}

// feedWatchdog tells systemd that we live, where it asked for it, until the
// returned function is called.
func (d *daemon) feedWatchdog() (stop func()) {
	every, err := systemd.SdWatchdogEnabled(false)
	if err != nil || every <= 0 {
		return func() {}
	}
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(every / 2)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				notify(d.log, systemd.SdNotifyWatchdog)
			case <-quit:
				return
			}
		}
	}()
	return func() { close(quit); <-done }
}
