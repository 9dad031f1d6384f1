// Package slicestore brings the bytes of a model to a machine that lacks its
// files: Source serves ranges of them over HTTP, a Shelf those of many models,
// and Store fetches what one shard needs, or all of it, from whichever holder
// gives it, checks it, and keeps it.
//
// What is kept is a copy of each file in which only those ranges are filled;
// the rest are holes that take no room where the file system has such. So a
// runner reads it as it reads the whole file, and nothing knows the difference.
// A journal beside it says what has arrived, with its hash: an interrupted
// fetch goes on where it was, and every use checks the hashes again.
//
// What a piece is says package piece. It imports gguf and the standard library's
// network, and no other part. Sources
// and Shelves may be used from any goroutine; a Store likewise, also by several
// processes. None has goroutines beyond its calls.
package slicestore

import "github.com/skein-run/skein/internal/slicestore/piece"

// The words of package piece that stores and holders are asked in.
type (
	ID    = piece.ID
	Part  = piece.Part
	Block = piece.Block
)
