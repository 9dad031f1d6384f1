package chat

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"time"

	"github.com/dop251/goja"
	"github.com/ncruces/go-strftime"
)

// The bundle is made by `make deps` (npm, then scripts/build-jinja.mjs) and is
// not committed. A build that stops here with "no matching files found" lacks
// it: run `make deps` once.
//
//go:embed jinja/jinja.bundle.js
var bundle string

// maxCallDepth bounds the recursion of a template's macros and of the nesting
// of its expressions, in JavaScript calls.
const maxCallDepth = 4000

// vm is one JavaScript runtime with one parsed template. It is used by one
// goroutine at a time; Template's pool hands it out.
type vm struct {
	runtime  *goja.Runtime
	program  goja.Value // the template's syntax tree
	renderFn goja.Callable
	describe goja.Callable
	maxSteps int

	makeString, makeInteger, makeFloat, makeBoolean goja.Callable
	makeNone, makeList, makeDict                    goja.Callable
}

// newVM loads the library and parses source with it.
func newVM(ctx context.Context, library *goja.Program, source string, limits Limits) (*vm, error) {
	rt := goja.New()
	rt.SetMaxCallStackSize(maxCallDepth)
	// The library asks neither for time nor for chance; were it to, it would
	// get the same answers on every run.
	rt.SetTimeSource(func() time.Time { return time.Time{} })
	rt.SetRandSource(func() float64 { return 0 })
	if _, err := rt.RunProgram(library); err != nil {
		return nil, fmt.Errorf("load the template library: %w", err)
	}
	v := &vm{runtime: rt, maxSteps: limits.Steps}
	api := rt.Get("skein").ToObject(rt)
	var limit, compile goja.Callable
	for name, fn := range map[string]*goja.Callable{
		"limit": &limit, "compile": &compile, "render": &v.renderFn, "describe": &v.describe,
		"string": &v.makeString, "integer": &v.makeInteger, "float": &v.makeFloat,
		"boolean": &v.makeBoolean, "none": &v.makeNone, "list": &v.makeList, "dict": &v.makeDict,
	} {
		f, ok := goja.AssertFunction(api.Get(name))
		if !ok {
			return nil, fmt.Errorf("load the template library: it lacks %q; run `make deps` again", name)
		}
		*fn = f
	}
	if _, err := limit(goja.Undefined(), rt.ToValue(limits.Text), rt.ToValue(limits.Items)); err != nil {
		return nil, fmt.Errorf("load the template library: %w", err)
	}
	program, err := v.guarded(ctx, func() (goja.Value, error) {
		return compile(goja.Undefined(), rt.ToValue(source))
	})
	if err != nil {
		return nil, err
	}
	v.program = program
	return v, nil
}

// render runs the template with the given variables.
func (v *vm) render(ctx context.Context, vars Dict, now time.Time) (string, error) {
	out, err := v.guarded(ctx, func() (goja.Value, error) {
		names := make([]any, len(vars))
		values := make([]any, len(vars))
		for i, item := range vars {
			value, err := v.value(item.Value, 0)
			if err != nil {
				return nil, fmt.Errorf("template variable %q: %w", item.Key, err)
			}
			names[i], values[i] = item.Key, value
		}
		rt := v.runtime
		clock := func(format string) string { return strftime.Format(format, now) }
		return v.renderFn(goja.Undefined(), v.program, rt.NewArray(names...), rt.NewArray(values...),
			rt.ToValue(clock), rt.ToValue(v.maxSteps))
	})
	if err != nil {
		return "", err
	}
	return out.String(), nil
}

// guarded runs f, which calls into the runtime, and ends it when ctx does.
func (v *vm) guarded(ctx context.Context, f func() (goja.Value, error)) (goja.Value, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		v.runtime.Interrupt(context.Cause(ctx))
		close(interrupted)
	})
	out, err := f()
	if !stop() {
		// An interrupt that comes late must not end the next rendering.
		<-interrupted
	}
	v.runtime.ClearInterrupt()
	if err == nil {
		return out, nil
	}
	return nil, v.explain(ctx, err)
}

// explain turns what goja reports into this package's errors.
func (v *vm) explain(ctx context.Context, err error) error {
	var interrupted *goja.InterruptedError
	if errors.As(err, &interrupted) {
		return context.Cause(ctx)
	}
	var overflow *goja.StackOverflowError
	if errors.As(err, &overflow) {
		return &TemplateError{Kind: ErrorLimit, Message: "the template nests too deeply: does a macro call itself for ever?"}
	}
	var exception *goja.Exception
	if !errors.As(err, &exception) {
		return err
	}
	described, derr := v.describe(goja.Undefined(), exception.Value())
	if derr != nil {
		return errors.Join(err, derr)
	}
	pair := described.ToObject(v.runtime)
	return &TemplateError{Kind: ErrorKind(pair.Get("0").String()), Message: pair.Get("1").String()}
}
