package child

import (
	"errors"
	"os"
	"os/exec"
	"reflect"
	"runtime"
	"syscall"

	"golang.org/x/sys/windows"
)

// tie keeps Ctrl-C in the console from the child, and its window away.
func tie(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{
		CreationFlags: windows.CREATE_NEW_PROCESS_GROUP,
		HideWindow:    true,
	}
}

// hold puts the child into a job object that kills it when the last handle
// to the job closes, which Windows does however this process ends. Between the start
// and here the end of stdin does the same.
func hold(p *os.Process) (release func(), err error) {
	job, err := windows.CreateJobObject(nil, nil)
	if err != nil {
		return nil, os.NewSyscallError("CreateJobObject", err)
	}
	// The child is reaped or being killed when the job closes.
	release = func() { _ = windows.CloseHandle(job) }
	info := &windows.JOBOBJECT_EXTENDED_LIMIT_INFORMATION{
		BasicLimitInformation: windows.JOBOBJECT_BASIC_LIMIT_INFORMATION{
			LimitFlags: windows.JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE,
		},
	}
	var pin runtime.Pinner // the call takes the address as a number, which keeps nothing alive
	pin.Pin(info)
	defer pin.Unpin()
	v := reflect.ValueOf(info)
	_, err = windows.SetInformationJobObject(job, windows.JobObjectExtendedLimitInformation, v.Pointer(), uint32(v.Type().Elem().Size()))
	if err != nil {
		release()
		return nil, os.NewSyscallError("SetInformationJobObject", err)
	}
	var assign error
	err = p.WithHandle(func(h uintptr) { assign = windows.AssignProcessToJobObject(job, windows.Handle(h)) })
	if err = errors.Join(err, os.NewSyscallError("AssignProcessToJobObject", assign)); err != nil {
		release()
		return nil, err
	}
	return release, nil
}
