//go:build !unix

package link

import "errors"

func stop(*process) error { return errors.New("processes can't be stopped here") }

func kill(p *process) error { return p.cmd.Process.Kill() }
