package config

// Sources is where a configuration comes from. Load reads nothing else but the one file, so a test can state them all.
type Sources struct {
	// Flags are the flags that were set on the command line: their values by name (see Settings), in order.
	Flags map[string][]string
	// Getenv looks up a variable of the environment, os.Getenv outside tests; empty means unset. nil: no environment.
	Getenv func(name string) string
	// DefaultFile is read if neither a flag nor the environment names a file and it exists; empty: none.
	// `cistern serve` passes the constant of that name.
	DefaultFile string
	// WorkDir is what paths in flags and variables are relative to; absolute.
	WorkDir string
	// Root is true if the process runs as root, for whom the cache lies in RootCacheDir by default.
	Root bool
	// UserCacheDir is os.UserCacheDir, the place of the default cache of other users; empty if unknown.
	UserCacheDir string
	// Available is asked, if nobody chose a cache size, how many bytes a cache in dir (which may not exist yet) could
	// come to hold: what is free there and what the cache already holds, or it would shrink with every restart.
	// nil or an error: the size is DefaultMaxSize.
	Available func(dir string) (int64, error)
}

// Setting is one flag of `cistern serve` and the variable that stands for it.
type Setting struct {
	// Name is the flag without its dashes.
	Name string
	// Usage is its line of help; the word in back quotes names the value, as pflag wants it.
	Usage string
	// Repeatable is true if the flag may be given more than once.
	Repeatable bool

	apply func(l *loader, v value) // nil: read before the file (config)
}

// Env is the variable that stands for the setting: CISTERN_CACHE_DIR for cache-dir. A repeatable setting takes a list
// there, separated by commas or white space.
func (s Setting) Env() string { return envName(s.Name) }

// Settings lists the flags of `cistern serve`, in the order of its help. The command line is made from this list, so it
// cannot differ from what Load reads.
func Settings() []Setting {
	return []Setting{
		{Name: "config", Usage: "configuration `FILE` (default " + DefaultFile + " if it is there)"},
		{Name: "listen", Usage: "`ADDRESS` of the registry listener (default \"" + DefaultListen + "\")", apply: (*loader).listen},
		{Name: "admin-listen", Usage: "`ADDRESS` of metrics, health and the admin API; unix:/path, or off (default \"" + DefaultAdminListen + "\")", apply: (*loader).adminListen},
		{Name: "cache-dir", Usage: "cache `DIR` (default $CACHE_DIRECTORY, " + RootCacheDir + " for root, or the user's cache folder)", apply: (*loader).cacheDir},
		{Name: "cache-size", Usage: "`SIZE` the cache may grow to, such as 50GiB (default 50GiB or half of what is free)", apply: (*loader).cacheSize},
		{Name: "upstream", Usage: "add a registry as `NAME=URL`; the same name again adds an endpoint", Repeatable: true, apply: (*loader).addUpstream},
		{Name: "default-upstream", Usage: "`NAME` of the upstream of requests that name none (default docker.io, or the only one)", apply: (*loader).defaultUpstream},
		{Name: "log-level", Usage: "`LEVEL`: debug, info, warn or error (default \"" + DefaultLogLevel + "\")", apply: (*loader).logLevel},
	}
}
