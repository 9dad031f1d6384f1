package cli

import "errors"

// openLocalLibrary opens the library of SKEIN_HOME without a node.
func (a *app) openLocalLibrary() (library, error) {
	return nil, errors.New("no node is running; start one with 'skein serve'")
}
