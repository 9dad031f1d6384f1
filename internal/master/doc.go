// Package master is a node's part in leading the cluster: it drives the
// election machine with real time and real messages (Elector), says what the
// replicated state makes of commands (Machine), and keeps the cluster's
// promises while this node is master (Keeper): nodes that come and go, models
// that are to run. Planner works out and gives load commands, on any node.
//
// What is decided, packages cluster/election, command and reconcile decide;
// here are their goroutines: an Elector has one and one for each peer it sends
// to, a Keeper one for as long as this node leads. How messages travel, where
// the clock of elections is kept and how nodes are asked for their free memory
// are given by the node; it must not know mesh, worker or httpapi.
package master
