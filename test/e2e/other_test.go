//go:build !unix

package e2e

import "testing"

func TestNode(t *testing.T) {
	t.Skip("NOT RUN: the end-to-end tests send Unix signals to the program")
}
