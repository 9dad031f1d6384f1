package place

import (
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
