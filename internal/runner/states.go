package runner

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/skein-run/skein/internal/gguf/slice"
	"github.com/skein-run/skein/internal/runner/loop"
	"github.com/skein-run/skein/internal/runner/schedule"
	"github.com/skein-run/skein/internal/runner/wire"
)

// arrival is a snapshot whose bytes are coming in.
type arrival struct {
	ref   uint64
	info  wire.StateInfo
	bytes []byte
}

// weights names the weights of the loaded model: equal for equal files only, as
// far as a sample of each tensor tells. A fine-tuned model differs from its base
// in every tensor that was trained.
func (r *process) weights() (string, error) {
	whole, files, err := parse(r.model.req.Paths)
	defer closeAll(files)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	var sample [512]byte
	for _, t := range whole.Tensors() {
		fmt.Fprintf(h, "%s %v %v\n", t.Name, t.Type, t.Shape)
		n, err := whole.Data(t).ReadAt(sample[:], max(0, t.Bytes/2-int64(len(sample))))
		if err != nil && !errors.Is(err, io.EOF) {
			return "", err
		}
		h.Write(sample[:n])
	}
	return hex.EncodeToString(h.Sum(nil)[:16]), nil
}

// shardName names the weights and this process's part of them.
func (r *process) shardName() (string, error) {
	name, err := r.weights()
	if err != nil {
		return "", err
	}
	var spec *slice.Spec
	if m := r.model.member; m != nil {
		spec = &m.layout.Shards[m.layout.Index]
	}
	b, err := json.Marshal(spec)
	return fmt.Sprintf("%s %s %s", r.lib.VersionString(), name, b), err
}

// snapshots lists what the cache keeps; what is in the slots is put there first.
func (r *process) snapshots(f wire.Frame) {
	refuse := r.refusal(f.Ref)
	r.alone(refuse, func(l *loop.Loop) error {
		kept, err := l.Kept()
		if err != nil {
			refuse(faultCode(err), err)
			return err
		}
		model, err := r.weights()
		if err != nil {
			refuse(wire.CodeModel, err)
			return nil
		}
		s := wire.Snapshots{Model: model, Chunk: l.Chunk()}
		for _, k := range kept {
			s.Entries = append(s.Entries, wire.Snapshot(k))
		}
		return r.conn.SendJSON(wire.TypeResult, f.Ref, s)
	})
}

// adopt makes snapshots known to the scheduler.
func (r *process) adopt(f wire.Frame) error {
	var req wire.AdoptRequest
	if err := f.Decode(&req); err != nil {
		return err
	}
	refuse := r.refusal(f.Ref)
	r.alone(refuse, func(l *loop.Loop) error {
		model, err := r.weights()
		switch chunk := l.Chunk(); {
		case err != nil:
		case model != req.Model:
			err = errors.New("adopt snapshots: they are of another model")
		case chunk != req.Chunk:
			err = fmt.Errorf("adopt snapshots: they were made in chunks of %d tokens, this model is loaded with %d", req.Chunk, chunk)
		default:
			kept := make([]schedule.Kept, len(req.Entries))
			for i, e := range req.Entries {
				kept[i] = schedule.Kept(e)
			}
			err = l.Adopt(kept)
		}
		if err != nil {
			refuse(wire.CodeInvalid, err)
			return nil
		}
		return r.conn.SendJSON(wire.TypeResult, f.Ref, struct{}{})
	})
	return nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// stateGet sends this process's bytes of a snapshot.
func (r *process) stateGet(f wire.Frame) error {
	var req wire.StateRequest
	if err := f.Decode(&req); err != nil {
		return err
	}
	var b []byte
	if r.model != nil && r.model.states != nil {
		b = r.model.states.Get(req.ID)
	}
	if b == nil {
		return r.fail(f.Ref, wire.CodeInvalid, fmt.Errorf("snapshot %d is not here", req.ID))
	}
	name, err := r.shardName()
	if err != nil {
		return r.fail(f.Ref, wire.CodeModel, err)
	}
	info := wire.StateInfo{ID: req.ID, Version: wire.StateVersion, Shard: name, Bytes: int64(len(b)), Sum: crc32.Checksum(b, castagnoli)}
	for len(b) > 0 {
		n := min(len(b), wire.StatePiece)
		if err := r.conn.Send(wire.TypeState, f.Ref, b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return r.conn.SendJSON(wire.TypeResult, f.Ref, info)
}

// statePut takes this process's bytes of a snapshot. A refused one's pieces are
// passed over.
func (r *process) statePut(f wire.Frame) error {
	if f.Type == wire.TypeState {
		if r.put == nil || r.put.ref != f.Ref {
			return nil
		}
		r.put.bytes = append(r.put.bytes, f.Body...)
		return r.arrived()
	}
	var info wire.StateInfo
	if err := f.Decode(&info); err != nil {
		return err
	}
	if r.model == nil || r.model.states == nil {
		return r.fail(f.Ref, wire.CodeInvalid, errors.New("put a snapshot: no model is loaded"))
	}
	name, err := r.shardName()
	switch {
	case err != nil:
		return r.fail(f.Ref, wire.CodeModel, err)
	case r.put != nil:
		err = errors.New("put a snapshot: another one is not complete")
	case info.Version != wire.StateVersion:
		err = fmt.Errorf("put a snapshot: it is of version %d, this build knows version %d; its prompt must be computed again", info.Version, wire.StateVersion)
	case info.Shard != name:
		err = errors.New("put a snapshot: it belongs to another model, or to another part of it")
	case info.ID == 0 || r.model.states.Get(info.ID) != nil:
		err = fmt.Errorf("put a snapshot: there is one of number %d", info.ID)
	case info.Bytes < 1 || info.Bytes > r.model.req.CacheBytes:
		err = fmt.Errorf("put a snapshot: %d bytes, the cache has room for %d", info.Bytes, r.model.req.CacheBytes)
	}
	if err != nil {
		return r.fail(f.Ref, wire.CodeInvalid, err)
	}
	r.put = &arrival{ref: f.Ref, info: info}
	return nil
}

// arrived takes a snapshot in whose bytes are all there.
func (r *process) arrived() error {
	p := r.put
	switch n := int64(len(p.bytes)); {
	case n < p.info.Bytes:
		return nil
	case n > p.info.Bytes, crc32.Checksum(p.bytes, castagnoli) != p.info.Sum:
		r.put = nil
		return r.fail(p.ref, wire.CodeInvalid, fmt.Errorf("put snapshot %d: its bytes are damaged", p.info.ID))
	}
	r.put = nil
	r.model.states.Put(p.info.ID, p.bytes)
	return r.conn.SendJSON(wire.TypeResult, p.ref, struct{}{})
}
