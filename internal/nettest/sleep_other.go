//go:build !linux

package nettest

import "time"

func sleeper(bool) (sleep func(time.Duration), stop func()) { return timers, func() {} }
