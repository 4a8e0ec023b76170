package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"cistern/internal/admin"
)

// thisVersion says which program this is.
func thisVersion() admin.Version {
	v := admin.Version{Version: version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				v.Revision = s.Value
			}
		}
	}
	return v
}

func (a *app) versionCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "version", Short: "Print the version of this program", Args: noArgs}
	out := outputFlag(cmd)
	cmd.RunE = failing(func(*cobra.Command, []string) error {
		v := thisVersion()
		return a.print(*out, v, func() { fmt.Fprintf(a.stdout, "cistern %s (%s, %s)\n", v.Version, v.Go, v.Platform) })
	})
	return cmd
}
