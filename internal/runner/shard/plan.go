package shard

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/skein-run/skein/internal/runner/sample"
	"github.com/skein-run/skein/internal/runner/schedule"
)

// planVersion is the first byte of every message between shards. It grows with
// every incompatible change.
const planVersion = 1

// What a message says, its second byte.
const (
	tagPlan     = 1
	tagWanted   = 2 // the wish for a whole row
	tagRows     = 3
	tagOutcomes = 4
	tagRow      = 5
)

// begin starts a message.
func begin(b []byte, tag byte) []byte { return append(b, planVersion, tag) }

// EditKind is the kind of an Edit.
type EditKind uint8

// Kinds of edits.
const (
	EditRemove  EditKind = 1 // forget positions >= From of Slot
	EditCopy    EditKind = 2 // make Slot a copy of Source
	EditSave    EditKind = 3 // keep Slot's state as snapshot ID
	EditRestore EditKind = 4 // set Slot's state from snapshot ID
	EditDrop    EditKind = 5 // forget snapshot ID
)

// Edit is one change of a shard's state. Every shard of the group applies it at
// the same place in the sequence of steps.
type Edit struct {
	Kind   EditKind
	Slot   int
	Source int    // EditCopy
	From   int    // EditRemove
	ID     uint64 // EditSave, EditRestore, EditDrop; chosen by the head
}

// reports tells that the head wants to know how an edit went.
func (e Edit) reports() bool { return e.Kind == EditSave || e.Kind == EditRestore }

// Plan is one step, in this order: Before, Items, After.
type Plan struct {
	Seq    uint64 // 1 for the first one of an epoch
	Before []Edit
	Items  []schedule.Item // one batch; none: only edits
	After  []Edit
	Needs  []sample.Need // one for each item with Output, in order
}

// outputs is the number of items whose logits are wanted.
func (p *Plan) outputs() int {
	n := 0
	for i := range p.Items {
		if p.Items[i].Output {
			n++
		}
	}
	return n
}

// errMessage marks bytes that are no message of this protocol.
var errMessage = errors.New("not a message between shards")

// AppendPlan encodes p.
func AppendPlan(b []byte, p *Plan) []byte {
	b = begin(b, tagPlan)
	b = binary.LittleEndian.AppendUint64(b, p.Seq)
	b = appendEdits(b, p.Before)
	b = binary.AppendUvarint(b, uint64(len(p.Items)))
	for _, it := range p.Items {
		out := byte(0)
		if it.Output {
			out = 1
		}
		b = append(b, out)
		b = binary.LittleEndian.AppendUint32(b, uint32(it.Token))
		b = binary.AppendUvarint(b, uint64(it.Slot))
		b = binary.AppendUvarint(b, uint64(it.Position))
	}
	b = appendEdits(b, p.After)
	b = binary.AppendUvarint(b, uint64(len(p.Needs)))
	for i := range p.Needs {
		b = appendNeed(b, &p.Needs[i])
	}
	return b
}

func appendEdits(b []byte, edits []Edit) []byte {
	b = binary.AppendUvarint(b, uint64(len(edits)))
	for _, e := range edits {
		b = append(b, byte(e.Kind))
		b = binary.AppendUvarint(b, uint64(e.Slot))
		switch e.Kind {
		case EditRemove:
			b = binary.AppendUvarint(b, uint64(e.From))
		case EditCopy:
			b = binary.AppendUvarint(b, uint64(e.Source))
		default:
			b = binary.AppendUvarint(b, e.ID)
		}
	}
	return b
}

// DecodePlan reads a plan into p, whose slices are reused.
func DecodePlan(body []byte, p *Plan) error {
	r := reader{b: body}
	r.begin(tagPlan)
	p.Seq = r.u64()
	p.Before = r.edits(p.Before[:0])
	p.Items = p.Items[:0]
	for range r.count(7) { // bytes that an item takes at least
		var it schedule.Item
		switch r.u8() {
		case 0:
		case 1:
			it.Output = true
		default:
			r.fail("an item's flag")
		}
		it.Token, it.Slot, it.Position = int32(r.u32()), r.small(), r.small()
		p.Items = append(p.Items, it)
	}
	p.After = r.edits(p.After[:0])
	p.Needs = p.Needs[:0]
	for range r.count(7) {
		p.Needs = append(p.Needs, r.need())
	}
	if err := r.end(); err != nil {
		return fmt.Errorf("plan: %w", err)
	}
	if n := p.outputs(); len(p.Needs) != n {
		return fmt.Errorf("plan: %w: %d needs for %d outputs", errMessage, len(p.Needs), n)
	}
	return nil
}

// reader reads the fields of a message. After the first fault every field is
// zero and end tells it.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail(what string) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s", errMessage, what)
	}
	r.b = nil
}

func (r *reader) end() error {
	if r.err == nil && len(r.b) > 0 {
		r.fail("bytes are left over")
	}
	return r.err
}

func (r *reader) take(n int) []byte {
	if n < 0 || n > len(r.b) {
		r.fail("it ends too early")
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

// begin reads what begin wrote.
func (r *reader) begin(tag byte) {
	if v := r.u8(); r.err == nil && v != planVersion {
		r.fail(fmt.Sprintf("version %d, this build speaks %d; use one build of skein for all shards", v, planVersion))
	}
	if t := r.u8(); r.err == nil && t != tag {
		r.fail(fmt.Sprintf("kind %d where %d was expected", t, tag))
	}
}

func (r *reader) u8() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) u32() uint32 {
	if b := r.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if b := r.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail("a number")
		return 0
	}
	r.b = r.b[n:]
	return v
}

// small reads a number that is a position, a slot or the like.
func (r *reader) small() int {
	v := r.uvarint()
	if v > 1<<31-1 {
		r.fail("a number is too large")
		return 0
	}
	return int(v)
}

// count reads how many entries of at least size bytes follow: no more than
// there is room for, so that nothing is allocated for a length alone.
func (r *reader) count(size int) int {
	n := r.uvarint()
	if n > uint64(len(r.b)/size) {
		r.fail("more entries than bytes")
		return 0
	}
	return int(n)
}

const (
	needFull = 1 << iota
	needMass
	needAll = needFull | needMass
)

func appendNeed(b []byte, n *sample.Need) []byte {
	flags := byte(0)
	if n.Full {
		flags |= needFull
	}
	if n.Mass {
		flags |= needMass
	}
	b = append(b, flags)
	b = binary.AppendUvarint(b, uint64(n.Top))
	b = binary.LittleEndian.AppendUint32(b, math.Float32bits(n.Warm))
	b = binary.AppendUvarint(b, uint64(len(n.Named)))
	for _, t := range n.Named {
		b = binary.LittleEndian.AppendUint32(b, uint32(t))
	}
	return b
}

func (r *reader) need() sample.Need {
	flags := r.u8()
	if flags&^needAll != 0 {
		r.fail("a need's flags")
	}
	n := sample.Need{Full: flags&needFull != 0, Mass: flags&needMass != 0, Top: r.small(), Warm: math.Float32frombits(r.u32())}
	for range r.count(4) {
		n.Named = append(n.Named, int32(r.u32()))
	}
	return n
}

func (r *reader) edits(out []Edit) []Edit {
	for range r.count(3) {
		e := Edit{Kind: EditKind(r.u8()), Slot: r.small()}
		switch e.Kind {
		case EditRemove:
			e.From = r.small()
		case EditCopy:
			e.Source = r.small()
		case EditSave, EditRestore, EditDrop:
			e.ID = r.uvarint()
		default:
			r.fail("an unknown edit")
		}
		out = append(out, e)
	}
	return out
}
