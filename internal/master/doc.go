// Package master is a node's part in leading the cluster: it drives the
// election machine with real time and real messages.
//
// It owns one goroutine, between Start and Stop, and one for each peer that
// it sends to. How messages travel and where the clock of elections is kept
// are given by the node; who leads is told to Options.Changed, in order.
package master
