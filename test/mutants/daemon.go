package main

// ofDaemon are the protections of a process's beginning and end, in the folder cmd/cistern and where the fills are kept.
func ofDaemon() []mutant {
	const crash = "test/crash"
	return []mutant{
		{"the drain has no bound", "cmd/cistern/daemon.go", "const drainTime = 8 * time.Second", "const drainTime = 80 * time.Second", crash, "TestTerm$"},
		{"a second signal is not heard", "cmd/cistern/serve.go", "if s != syscall.SIGHUP {", "if s == syscall.SIGQUIT {", crash, "TestTerm$"},
		{"a signal during the start ends the process on the spot", "cmd/cistern/serve.go",
			"signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)", "signal.Notify(signals, syscall.SIGHUP)", crash, "TestTermAtStart"},
		{"the watchdog hears nothing", "cmd/cistern/serve.go", "defer d.feedWatchdog()()", "_ = d.feedWatchdog", crash, "TestTerm$"},
		{"a fill that is cut is dropped", "cache/pour.go", "default:\n\t\tc.keepPartial(in)", "default:\n\t\tc.abort(in)", crash, "TestTerm$"},
		{"a standstill of the process is upstream's fault", "cache/bound.go",
			"return time.Since(deadline) > time.Second }", "return time.Since(deadline) > time.Hour }", crash, "TestStandstill"},
	}
}
