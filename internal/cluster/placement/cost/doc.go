// Package cost says what a model, or a piece of it, takes: memory in bytes, and
// time on a device of a given speed. A Model is its sizes layer by layer; Sums
// answers for any piece of it in constant work, so that a search may ask often.
//
// It knows nothing of nodes and lines, and it is as pure as placement, which is
// built on it. A Sums belongs to one goroutine; all else may be called from any.
package cost
