// Command figures prints the file that tests appended figures to as a table
// (internal/figures). The exit code is 1 when a bar is missed, 2 when there is
// no table.
package main

import (
	"fmt"
	"os"

	"github.com/skein-run/skein/internal/figures"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: figures FILE")
		os.Exit(2)
	}
	missed, err := table(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "figures:", err)
		os.Exit(2)
	}
	if missed {
		os.Exit(1)
	}
}

func table(path string) (missed bool, err error) {
	file, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer file.Close()
	all, err := figures.Read(file)
	if err != nil {
		return false, err
	}
	for _, f := range all {
		met, err := f.Met()
		if err != nil {
			return false, err
		}
		missed = missed || !met
	}
	return missed, figures.Table(os.Stdout, all)
}
