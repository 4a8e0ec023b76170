package command

import (
	"errors"

	"github.com/spf13/cobra"

	"cistern/bench/origin"
	"cistern/bench/peer"
	"cistern/bench/proc"
)

func measureCommand() *cobra.Command {
	var s settings
	var name, target, registry, control string
	var pid int
	c := &cobra.Command{
		Use:   "measure",
		Short: "Put the load on an address of yours",
		Long: `Put the load on a proxy that runs already, with the registry that "upstream"
started behind it. Its costs are measured when its process id is given. It is not
restarted, so the scenarios "start" and "resume" have nothing to say about it, and
what "image" calls its first pull is the first of its round.`,
		Example: `  cistern-bench upstream          # prints {"registry":"http://127.0.0.1:R","cdn":...,"control":"http://127.0.0.1:C"}
  some-proxy --upstream http://127.0.0.1:R --listen 127.0.0.1:5000 &
  cistern-bench measure --target http://127.0.0.1:5000 --pid $! \
      --registry http://127.0.0.1:R --control http://127.0.0.1:C --only herd,many-small`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if target == "" || registry == "" || control == "" {
				return errors.New("--target, --registry and --control are needed")
			}
			t := peer.Target{Name: name, Base: target}
			if pid != 0 {
				t.Pids = proc.Family(pid)
			}
			s.variants = []string{peer.Plain}
			o := peer.Options{
				External: []peer.Target{t},
				Registry: &peer.Origin{Control: origin.Control{Base: control}, Registry: registry, Variant: peer.Plain},
			}
			return s.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), o, name, []string{peer.Direct, name})
		},
	}
	s.flags(c)
	f := c.Flags()
	f.StringVar(&name, "name", "proxy", "what to call it in the report")
	f.StringVar(&target, "target", "", "base URL of the proxy")
	f.IntVar(&pid, "pid", 0, "its process id, for CPU and memory (children are found)")
	f.StringVar(&registry, "registry", "", "registry address that upstream printed")
	f.StringVar(&control, "control", "", "control address that upstream printed")
	return c
}
