// Command archs asks `skein shard check` about every model of a folder, in
// several ways to cut it, and prints how many are right, refused and wrong, and
// why. `make bench-archs` calls it with llama.cpp's own set of tiny models. It
// fails when any is wrong, or could not be compared at all.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
)

func main() {
	var o options
	flag.StringVar(&o.program, "skein", "bin/skein", "the program")
	flag.StringVar(&o.layouts, "layouts", "2x1,1x2,2x2", "ways to cut: STAGESxRANKS, with commas between them")
	flag.IntVar(&o.tokens, "tokens", 40, "positions compared")
	flag.IntVar(&o.jobs, "jobs", 2, "checks at once")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	if err := run(ctx, o, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "archs:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	program      string
	layouts      string
	tokens, jobs int
}

// layout is a way to cut.
type layout struct{ stages, ranks int }

func (l layout) String() string { return fmt.Sprintf("%dx%d", l.stages, l.ranks) }

// verdict is the part of a check's report that counts.
type verdict struct {
	Model        string   `json:"model"`
	Architecture string   `json:"architecture"`
	NMSE         *float64 `json:"nmse"`
	Verdict      string   `json:"verdict"`
	Reason       string   `json:"reason"`
}

func run(ctx context.Context, o options, args []string) error {
	if len(args) != 1 || o.jobs < 1 || o.tokens < 1 {
		return errors.New("say which folder of models to check: archs [flags] FOLDER")
	}
	layouts, err := parseLayouts(o.layouts)
	if err != nil {
		return err
	}
	models, err := filepath.Glob(filepath.Join(args[0], "*.gguf"))
	if err != nil {
		return err
	}
	if len(models) == 0 {
		return fmt.Errorf("no .gguf files in %s", args[0])
	}
	results := map[layout][]verdict{}
	for _, l := range layouts {
		fmt.Fprintf(os.Stderr, "checking %d models in %v\n", len(models), l)
		if results[l], err = checkAll(ctx, o, l, models); err != nil {
			return err
		}
	}
	return report(os.Stdout, layouts, results)
}

func parseLayouts(s string) ([]layout, error) {
	var out []layout
	for part := range strings.SplitSeq(s, ",") {
		p, r, ok := strings.Cut(part, "x")
		stages, err1 := strconv.Atoi(p)
		ranks, err2 := strconv.Atoi(r)
		if !ok || err1 != nil || err2 != nil || stages < 1 || ranks < 1 {
			return nil, fmt.Errorf("layout %q: write STAGESxRANKS, such as 2x1", part)
		}
		out = append(out, layout{stages, ranks})
	}
	return out, nil
}

// checkAll gives the verdicts in the order of models.
func checkAll(ctx context.Context, o options, l layout, models []string) ([]verdict, error) {
	out, errs := make([]verdict, len(models)), make([]error, len(models))
	next := make(chan int)
	var work sync.WaitGroup
	for range o.jobs {
		work.Go(func() {
			for i := range next {
				out[i], errs[i] = check(ctx, o, l, models[i])
			}
		})
	}
	for i := range models {
		next <- i
	}
	close(next)
	work.Wait()
	return out, errors.Join(errs...)
}

func check(ctx context.Context, o options, l layout, model string) (v verdict, err error) {
	cmd := exec.CommandContext(ctx, o.program, "shard", "check", model, "--json",
		"--stages", strconv.Itoa(l.stages), "--ranks", strconv.Itoa(l.ranks), "--tokens", strconv.Itoa(o.tokens))
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	var status *exec.ExitError
	if err != nil && !errors.As(err, &status) {
		return v, err
	}
	if ctx.Err() != nil {
		return v, ctx.Err()
	}
	// The exit code repeats the verdict; without a report it is all there is.
	if e := json.Unmarshal(stdout.Bytes(), &v); e != nil {
		return v, fmt.Errorf("check %s: %w: %s", model, errors.Join(err, e), bytes.TrimSpace(stderr.Bytes()))
	}
	return v, nil
}

// report prints the table and returns an error when the set is not clean.
func report(w io.Writer, layouts []layout, results map[layout][]verdict) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "SHARDS\tMODELS\tRIGHT\tREFUSED\tWRONG\tERROR\tLARGEST NMSE")
	var bad []string
	for _, l := range layouts {
		count, largest := map[string]int{}, 0.0
		for _, v := range results[l] {
			count[v.Verdict]++
			switch v.Verdict {
			case "right":
				if v.NMSE != nil {
					largest = max(largest, *v.NMSE)
				}
			case "refused":
			default:
				bad = append(bad, fmt.Sprintf("%s in %v: %s: %s", v.Model, l, v.Verdict, v.Reason))
			}
		}
		right, refused, wrong := count["right"], count["refused"], count["wrong"]
		fmt.Fprintf(table, "%v\t%d\t%d\t%d\t%d\t%d\t%.3g\n", l, len(results[l]), right, refused, wrong, len(results[l])-right-refused-wrong, largest)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, l := range layouts {
		fmt.Fprintf(w, "\nrefused in %v:\n", l)
		for _, line := range refused(results[l]) {
			fmt.Fprintln(w, "  "+line)
		}
	}
	if len(bad) > 0 {
		return fmt.Errorf("%d are not as they must be:\n  %s", len(bad), strings.Join(bad, "\n  "))
	}
	return nil
}

// refused groups models by the reason.
func refused(all []verdict) []string {
	models := map[string][]string{}
	for _, v := range all {
		if v.Verdict == "refused" {
			models[v.Reason] = append(models[v.Reason], v.Model)
		}
	}
	var out []string
	for reason, who := range models {
		out = append(out, strings.Join(who, ", ")+": "+reason)
	}
	slices.Sort(out)
	return out
}
