package engine

import (
	"fmt"
	"io/fs"
	"path"
	"strings"
)

// Machine is what Detect looks at.
type Machine struct {
	Platform Platform
	// Root is the root of the file system (on Windows: of the system drive).
	Root fs.FS
	// LibraryDirs are folders searched for shared libraries beside the usual
	// ones, slash-separated and relative to Root (from LD_LIBRARY_PATH).
	LibraryDirs []string
}

// Choice is the backend that fits a machine, and why.
type Choice struct {
	Backend Backend `json:"backend"`
	CUDA12  bool    `json:"cuda12,omitempty"`
	Why     string  `json:"why"`
}

// Detect chooses the backend for Auto: Metal on Apple's chips, CUDA where an
// NVIDIA driver and a CUDA runtime are, Vulkan where its loader and a GPU are,
// otherwise the CPU. It reads the file system only, so that a broken driver
// cannot harm it; whether the device works is asked of the library in a child.
func Detect(m Machine) Choice {
	switch m.Platform.OS {
	case "darwin":
		if m.Platform.Arch == "arm64" {
			return Choice{Backend: Metal, Why: "an Apple chip with Metal"}
		}
		return Choice{Backend: CPU, Why: "Metal is used on Apple's own chips only"}
	case "windows":
		return detectWindows(m)
	case "linux":
		return detectLinux(m)
	}
	return Choice{Backend: CPU, Why: "no GPU package for " + m.Platform.String()}
}

func detectLinux(m Machine) Choice {
	if m.Platform.Arch != "amd64" {
		return Choice{Backend: CPU, Why: "no GPU package for " + m.Platform.String()}
	}
	nvidia := m.any("proc/driver/nvidia/version", "dev/nvidiactl")
	why := "no GPU with a driver was found"
	if nvidia {
		if runtime := m.cudaRuntime(); runtime != 0 {
			return cudaChoice(runtime)
		}
		why = "an NVIDIA driver is there, but no CUDA 12 or 13 runtime (libcudart, libcublas)"
	}
	if m.hasLibrary("libvulkan.so.1") && (nvidia || m.any("dev/dri/renderD*")) {
		return Choice{Backend: Vulkan, Why: "a GPU and a Vulkan loader were found"}
	}
	if !nvidia && m.any("dev/dri/renderD*") {
		why = "a GPU is there, but no Vulkan loader (libvulkan.so.1)"
	}
	return Choice{Backend: CPU, Why: why}
}

func cudaChoice(runtime int) Choice {
	if runtime == 12 {
		return Choice{Backend: CUDA, CUDA12: true, Why: "an NVIDIA driver and the CUDA 12 runtime were found"}
	}
	return Choice{Backend: CUDA, Why: "an NVIDIA driver and the CUDA 13 runtime were found"}
}

func detectWindows(m Machine) Choice {
	if m.Platform.Arch != "amd64" {
		return Choice{Backend: CPU, Why: "no GPU package for " + m.Platform.String()}
	}
	if m.any("Windows/System32/nvcuda.dll") {
		const toolkit = "Program Files/NVIDIA GPU Computing Toolkit/CUDA/"
		switch {
		case m.any(toolkit + "v13*"):
			return cudaChoice(13)
		case m.any(toolkit + "v12*"):
			return cudaChoice(12)
		}
	}
	if m.any("Windows/System32/vulkan-1.dll") {
		return Choice{Backend: Vulkan, Why: "a Vulkan loader was found"}
	}
	return Choice{Backend: CPU, Why: "no GPU with a driver was found"}
}

// cudaRuntime gives the newest major version, 13 or 12, of which both
// libraries that the backend links are there; 0 without one.
func (m Machine) cudaRuntime() int {
	for _, v := range []int{13, 12} {
		suffix := fmt.Sprintf(".so.%d", v)
		if m.hasLibrary("libcudart"+suffix) && m.hasLibrary("libcublas"+suffix) {
			return v
		}
	}
	return 0
}

var libraryDirs = []string{
	"usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu", "usr/lib64", "lib64", "usr/lib", "usr/local/lib",
	"usr/local/cuda*/lib64", "usr/local/cuda*/targets/x86_64-linux/lib", "opt/cuda/lib64",
}

func (m Machine) hasLibrary(name string) bool {
	for _, dir := range libraryDirs {
		if m.any(path.Join(dir, name)) {
			return true
		}
	}
	for _, dir := range m.LibraryDirs {
		// A folder's name is literal, unlike the patterns above.
		if _, err := fs.Stat(m.Root, path.Join(strings.TrimPrefix(dir, "/"), name)); err == nil {
			return true
		}
	}
	return false
}

func (m Machine) any(patterns ...string) bool {
	for _, p := range patterns {
		if found, err := fs.Glob(m.Root, p); err == nil && len(found) > 0 {
			return true
		}
	}
	return false
}
