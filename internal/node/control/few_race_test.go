//go:build race

package control

const fewNodes = 6
