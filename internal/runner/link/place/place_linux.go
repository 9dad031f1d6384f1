package place

import (
	"bytes"
	"fmt"
	"os"
	"strings"
)

// machine names this start of the machine, and the namespaces that this process
// sees others in; "" where /proc does not tell.
func machine() string {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	name := strings.TrimSpace(string(boot))
	for _, space := range []string{"pid", "net"} {
		s, err := os.Readlink("/proc/self/ns/" + space)
		if err != nil {
			return ""
		}
		name += " " + s
	}
	return name
}

// Lives tells that a process is there and would run if it were let. 0 does not.
func Lives(process int) bool {
	if process == 0 {
		return false
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", process))
	if err != nil {
		return false
	}
	// The name before the state may hold anything, a parenthesis too.
	at := bytes.LastIndexByte(b, ')') + 2
	return at > 1 && at < len(b) && !strings.ContainsRune("TtZXx", rune(b[at]))
}
