package schedule

// Item is one token of a batch. It has the fields of the library's batch.
type Item struct {
	Token    int32
	Slot     int // sequence id
	Position int
	Output   bool // logits wanted
	// Keep holds on to the item's logits, in the place of what was kept of its
	// slot; Recall computes nothing and gives those. Only with Config.KeepRows.
	Keep, Recall bool
}

// OpKind is the kind of a KV edit.
type OpKind int

// Kinds of KV edits.
const (
	OpRemove  OpKind = iota // forget positions >= From of Slot
	OpCopy                  // make Slot, which is empty, a copy of Source
	OpSave                  // keep Slot's state under Snapshot.ID, if it is worth the memory
	OpRestore               // replace Slot's state by the one kept under Snapshot.ID
	OpDrop                  // forget what is kept under Snapshot.ID, if anything
)

// Op is one KV edit. Only the numbers of Snapshot (ID) matter to who carries
// it out.
type Op struct {
	Kind     OpKind
	Slot     int
	Source   int       // OpCopy
	From     int       // OpRemove
	Snapshot *Snapshot // OpSave, OpRestore, OpDrop
}

// Batch is one batch of the library with the KV edits around it, carried out
// in this order: Before, Items, After. Batches are carried out in the order in
// which they were planned, on every shard. A batch with an OpRestore has no
// items, and nothing of its slot is planned until its outcome is known: a shard
// that can't restore need not tell the others in the middle of a step.
type Batch struct {
	Before []Op
	Items  []Item // empty: edits only. All with Output (decode), or none (a part of one prompt). One with Recall is alone
	Fill   int    // the last items that are no part of the prompt, see Config.Tile
	After  []Op   // the fill is removed, then saves
}

// Outcome is what became of a batch's edits. All other edits have been carried
// out; one that can't be is a fault that ends the group.
type Outcome struct {
	// Saved is the size in bytes of each OpSave of Before and then After, on
	// all shards together; 0: it is not kept (on one shard at least).
	Saved []int64
	// Lost are the slots that could not be restored, on one shard at least.
	// Further edits of such a slot in the same batch need not be carried out;
	// the scheduler clears the slot with the next batch.
	Lost []int
}
