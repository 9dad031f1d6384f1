//go:build unix

package clustercmd

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// readerLook is how long one look at a stream waits: the time in which a command
// notices that it has been told to end.
const readerLook = 200 * time.Millisecond

// gone tells whether nobody can read any more what is written to a pipe. It
// waits a moment for that.
func gone(fd uintptr) bool {
	fds := []unix.PollFd{{Fd: int32(fd)}} // no events: hang-ups are told always
	n, err := unix.Poll(fds, int(readerLook/time.Millisecond))
	return err == nil && n > 0 && fds[0].Revents&(unix.POLLERR|unix.POLLHUP|unix.POLLNVAL) != 0
}

// whileRead gives a context that ends, with errUnread, when the reader of a
// stream closes its end of it: who writes seldom would not notice. stop ends
// the watch, and must be called.
func whileRead(ctx context.Context, stream any) (_ context.Context, stop func()) {
	f, ok := stream.(*os.File)
	if !ok {
		return ctx, func() {}
	}
	// Terminals can't be watched so on every system, and files have no reader.
	if info, err := f.Stat(); err != nil || info.Mode()&(os.ModeNamedPipe|os.ModeSocket) == 0 {
		return ctx, func() {}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if gone(f.Fd()) {
				cancel(errUnread)
			}
		}
	}()
	return ctx, func() { cancel(nil); <-done }
}
