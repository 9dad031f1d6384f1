// Package child starts a program that does not outlive this process, and hands
// out its pipes and its end. It knows nothing of what the program does and
// imports nothing of ours. Start may be called from any goroutine.
//
// What ties the program to this process differs by system: on Linux the
// parent-death signal, on Windows a job object that kills when it closes; on
// all of them the end of its stdin, which the program should exit on. On Unix
// it has a process group of its own and on Windows a console group of its own,
// so that Ctrl-C reaches this process alone.
package child

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"

	"github.com/skein-run/skein/internal/calm"
)

// Command is what to start.
type Command struct {
	Path string
	Args []string // without the program's name
	Env  []string // whole environment; nil: this process's own
	// Computes tells that the program computes on all cores: see calm.Start. Its
	// timers fire up to a few milliseconds late.
	Computes bool
}

// Child is a started program. Its owner closes the pipes, and calls Wait once.
type Child struct {
	Stdin  io.WriteCloser
	Stdout io.ReadCloser
	Stderr io.ReadCloser
	PID    int
	// Wait blocks until the program is gone and reaped, and tells how it
	// ended: "exit status 1", "signal: killed". It has one caller.
	Wait func() string
	// Kill ends the program at once. One that is gone is no error, and its
	// number is never mistaken for another program that got it.
	Kill func() error
}

// Start starts the program with its three pipes.
func Start(c Command) (*Child, error) {
	cmd := exec.Command(c.Path, c.Args...)
	cmd.Env = c.Env
	tie(cmd)

	// Pipes of our own instead of StdoutPipe and the like: those are closed
	// by Wait, which would lose what the program wrote last.
	var ends []*os.File
	closeAll := func(files []*os.File) {
		for _, f := range files {
			_ = f.Close() // unused pipe ends hold no data
		}
	}
	for range 3 {
		r, w, err := os.Pipe()
		if err != nil {
			closeAll(ends)
			return nil, fmt.Errorf("make a pipe: %w", err)
		}
		ends = append(ends, r, w)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = ends[0], ends[3], ends[5]
	theirs := []*os.File{ends[0], ends[3], ends[5]}
	ours := []*os.File{ends[1], ends[2], ends[4]}

	started := make(chan error, 1)
	exit := make(chan string, 1)
	go func() {
		// The parent-death signal of Linux is sent when the thread that
		// started the program ends, and not the process. So this thread is kept
		// for as long as the program lives, and does the waiting meanwhile.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		start := cmd.Start
		if c.Computes {
			start = func() error { return calm.Start(cmd) }
		}
		err := start()
		closeAll(theirs)
		if err != nil {
			started <- err
			return
		}
		release, err := hold(cmd.Process)
		if err != nil {
			err = errors.Join(fmt.Errorf("tie the program to this process: %w", err), kill(cmd.Process))
			_ = cmd.Wait() // killed above: its status says nothing new
			started <- err
			return
		}
		started <- nil
		err = cmd.Wait()
		release()
		if state := cmd.ProcessState; state != nil {
			exit <- state.String()
		} else {
			exit <- err.Error()
		}
	}()
	if err := <-started; err != nil {
		closeAll(ours)
		return nil, err
	}
	return &Child{
		Stdin: ours[0], Stdout: calm.File(ours[1]), Stderr: ours[2], PID: cmd.Process.Pid,
		Wait: func() string { return <-exit },
		Kill: func() error { return kill(cmd.Process) },
	}, nil
}

func kill(p *os.Process) error {
	if err := p.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill process %d: %w", p.Pid, err)
	}
	return nil
}
