//go:build !linux

package place

func machine() string { return "" }
