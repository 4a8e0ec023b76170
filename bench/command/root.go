// Package command is the command line of cistern-bench. The work is done by the
// packages beside it.
package command

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/spf13/cobra"
)

// New returns the root command.
func New() *cobra.Command {
	root := &cobra.Command{
		Use:   "cistern-bench",
		Short: "Measure a container registry proxy against a synthetic registry",
		Long: `cistern-bench is a synthetic container registry, a load generator and what puts
both around a proxy. "run" does all of it; "measure" puts the load on any address.
Everything stays on loopback. Linux only.`,
		SilenceUsage: true, SilenceErrors: true,
	}
	root.AddCommand(upstreamCommand(), filesCommand(), floorCommand(), runCommand(), populateCommand(), measureCommand(), fillsCommand(), demoCommand(), evictSimCommand(), traceCommand())
	return root
}

// serve answers on addr until ctx ends.
func serve(ctx context.Context, addr string, h http.Handler) error {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() {
		// Serve returns, and that is all that is wanted of it.
		_ = srv.Close()
	})
	defer stop()
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving: %w", err)
	}
	return nil
}
