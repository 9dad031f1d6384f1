//go:build !linux

package link

func machine() string { return "" }

func lives(int) bool { return false }
