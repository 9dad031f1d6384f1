// Command skein makes one AI cluster out of the machines people have. This file
// turns signals into a context, joins the commands with the node they may run,
// and exits with their code.
package main

import (
	"context"
	"os"

	"github.com/skein-run/skein/internal/cli"
	"github.com/skein-run/skein/internal/interrupt"
)

func main() { os.Exit(run()) }

func run() int {
	interrupts := interrupt.Listen(context.Background())
	defer interrupts.Close()
	// Only used to find files beside the program; without it the other places
	// are searched.
	executable, err := os.Executable()
	if err != nil {
		executable = ""
	}
	p := program{executable: executable}
	return cli.Main(interrupts.Context(), cli.Deps{
		Stdin:      os.Stdin,
		Stdout:     os.Stdout,
		Stderr:     os.Stderr,
		Getenv:     os.Getenv,
		Executable: executable,
		Interrupts: interrupts,
		Serve:      p.serve,
		Local:      p.local,
		Shards:     p.shards,
		Runner:     p.runner,
	}, os.Args[1:])
}
