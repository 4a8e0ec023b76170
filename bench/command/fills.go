package command

import (
	"github.com/spf13/cobra"

	"cistern/bench/scenario"
)

func fillsCommand() *cobra.Command {
	var f scenario.Fills
	c := &cobra.Command{
		Use:   "fills",
		Short: "Ask a proxy for one blob after the other that it does not have, at a steady pace",
		Long: `Ask a proxy for one blob after the other of an image of the synthetic registry, at a steady
pace, each once, until it is interrupted. Fewer blobs than that takes are an error.`,
		Example: `  cistern-bench fills --target http://127.0.0.1:5000 --control http://127.0.0.1:C --repository any/600x1m --tag a`,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return f.Run(cmd.Context()) },
	}
	flags := c.Flags()
	flags.StringVar(&f.Target, "target", "", "base URL of the proxy")
	flags.StringVar(&f.Control, "control", "", "control address that upstream printed")
	flags.StringVar(&f.Repository, "repository", "", "whose last part says how many blobs there are")
	flags.StringVar(&f.Tag, "tag", "v1", "which")
	flags.IntVar(&f.Clients, "clients", 2, "how many at once")
	flags.DurationVar(&f.Every, "every", f.Every, "between the starts of two requests of a client (0: no pause)")
	return c
}
