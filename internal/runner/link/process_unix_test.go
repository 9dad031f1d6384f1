//go:build unix

package link

import "syscall"

func stop(p *process) error { return p.cmd.Process.Signal(syscall.SIGSTOP) }

func kill(p *process) error { return p.cmd.Process.Kill() }
