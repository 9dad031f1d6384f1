//go:build !race

package sim

const usualSeeds = 10_000
