package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/internal/cli/doctor"
	"github.com/skein-run/skein/internal/config"
	"github.com/skein-run/skein/internal/home"
)

// newDoctorCommand makes `skein doctor`.
func newDoctorCommand(a *app) *cobra.Command {
	return doctor.New(doctor.Env{
		Stdout: a.Stdout, JSON: a.printJSON, Executable: a.Executable, Program: a.resolvedExecutable, Home: a.home, Backend: a.detectBackend,
		Settings: func(where home.Home) (config.Serve, error) {
			serve, _, err := a.resolve(where, "", nil)
			return serve, err
		},
		Alive: func(ctx context.Context, address, key string) error {
			c, err := a.dial(address, key)
			if err != nil {
				return err
			}
			defer c.Close()
			ctx, cancel := context.WithTimeout(ctx, aliveTimeout)
			defer cancel()
			return c.Alive(ctx)
		},
	})
}
