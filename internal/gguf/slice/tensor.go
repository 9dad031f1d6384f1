package slice

import "fmt"

// cutTensor keeps one rank's part of the stage that the draft holds.
func cutTensor(d *draft) error {
	return fmt.Errorf("tensor ranks are not known for %s: %w", d.arch, ErrRefused)
}
