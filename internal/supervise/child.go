package supervise

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
)

// launch starts the runner program with its three pipes.
func launch(o *Options) (*child, error) {
	cmd := exec.Command(o.Executable, o.Args...)
	cmd.Env = o.Env
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
		// started the child ends, and not the process. So this thread is kept
		// for as long as the child lives, and does the waiting meanwhile.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		closeAll(theirs)
		if err != nil {
			started <- err
			return
		}
		release, err := hold(cmd.Process)
		if err != nil {
			err = errors.Join(fmt.Errorf("tie the runner to this process: %w", err), ignoreDone(cmd.Process.Kill()))
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
	return &child{
		stdin: ours[0], stdout: ours[1], stderr: ours[2],
		pid:  cmd.Process.Pid,
		wait: func() string { return <-exit },
		// os.Process knows whether the child was reaped and never signals a
		// stranger that got its number.
		kill: func() {
			if err := ignoreDone(cmd.Process.Kill()); err != nil {
				o.Logger.Error("kill the runner", "model", o.Name, "pid", cmd.Process.Pid, "error", err)
			}
		},
	}, nil
}

func ignoreDone(err error) error {
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}
