// Package store keeps a node's part of the cluster's history on disk: a log of
// entries, a snapshot in place of the older ones, and small values such as the
// clock of elections. It is a bbolt file; what an entry means is not known here.
//
// Every entry carries a checksum over its bytes, its place and its session. A
// file that was cut or changed is noticed when it is opened: what is whole up
// to the damage is kept, the file is put aside, and Damage tells where the rest
// must be fetched from peers. Nothing is ever half-applied.
//
// It imports ids alone of ours. A Log has one writer; readers may be many.
package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/skein-run/skein/internal/ids"
)

// Format is the layout of the file. It grows by one when an older skein could
// not read it any more.
//
//	1  2026-11-22  first
const Format = 1

// Entry is one record of the log.
type Entry struct {
	Index   uint64      `json:"index"` // 1, 2, 3, ... without gaps
	Session ids.Session `json:"session"`
	Data    []byte      `json:"data"`
}

// Snapshot stands for all entries up to Index.
type Snapshot struct {
	Index   uint64      `json:"index"` // 0: there is none
	Session ids.Session `json:"session"`
	Data    []byte      `json:"data"`
}

// Log is an open file.
type Log struct {
	db     *bolt.DB
	path   string
	damage string
}

var (
	bucketEntries = []byte("entries")
	bucketMeta    = []byte("meta")
	keyFormat     = []byte("format")
	keySnapshot   = []byte("snapshot")
)

// ErrOpen tells that another process has the file.
var ErrOpen = errors.New("the state is used by another process")

// Open opens the file, or makes it.
func Open(path string) (*Log, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("open the cluster's state: %w", err)
	}
	header := checkHeaders(path)
	if unable(header) {
		return nil, explain(path, "open the cluster's state", header)
	}
	db, err := open(path)
	if errors.Is(err, berrors.ErrTimeout) {
		return nil, fmt.Errorf("open %s: %w; stop the other node, or give this one a SKEIN_HOME of its own", path, ErrOpen)
	}
	if unable(err) || errors.Is(err, errFormat) {
		return nil, explain(path, "open the cluster's state", err)
	}
	var kept *contents
	if err == nil {
		kept, err = verify(db)
		if errors.Is(err, errFormat) || unable(err) {
			return nil, errors.Join(explain(path, "open "+path, err), db.Close())
		}
		if err == nil && header == nil {
			return &Log{db: db, path: path}, nil
		}
		err = errors.Join(header, err)
		if kept == nil {
			kept = &contents{}
		}
		if closeErr := db.Close(); closeErr != nil {
			return nil, fmt.Errorf("close the damaged %s: %w", path, closeErr)
		}
	} else {
		kept = &contents{}
	}
	return salvage(path, kept, err)
}

func open(path string) (db *bolt.DB, err error) {
	defer guard(&err)()
	return bolt.Open(path, 0o600, &bolt.Options{Timeout: time.Second, FreelistType: bolt.FreelistMapType})
}

// guard turns what bbolt does on a cut file, a panic or a fault in the mapped
// memory, into an error.
func guard(err *error) func() {
	old := debug.SetPanicOnFault(true)
	return func() {
		debug.SetPanicOnFault(old)
		if r := recover(); r != nil {
			*err = fmt.Errorf("the file is damaged: %v", r)
		}
	}
}

// contents is what could be read of a damaged file.
type contents struct {
	snapshot Snapshot
	entries  []Entry
	values   map[string][]byte
}

var errFormat = errors.New("the file was written by a newer skein; install that version again, or use another SKEIN_HOME")

// verify reads everything once. On damage it gives what is whole before it.
func verify(db *bolt.DB) (c *contents, err error) {
	c = &contents{values: map[string][]byte{}}
	defer guard(&err)()
	err = db.Update(func(tx *bolt.Tx) error {
		meta, err := tx.CreateBucketIfNotExists(bucketMeta)
		if err != nil {
			return err
		}
		if _, err := tx.CreateBucketIfNotExists(bucketEntries); err != nil {
			return err
		}
		if f := meta.Get(keyFormat); f == nil {
			return meta.Put(keyFormat, []byte{Format})
		} else if len(f) != 1 || f[0] > Format {
			return fmt.Errorf("format %v: %w", f, errFormat)
		}
		return nil
	})
	if err != nil {
		return c, err
	}
	err = db.View(func(tx *bolt.Tx) error {
		meta := tx.Bucket(bucketMeta)
		err := meta.ForEach(func(k, v []byte) error {
			switch string(k) {
			case string(keyFormat), string(keySnapshot), keyProbe:
				return nil
			}
			c.values[string(k)] = append([]byte(nil), v...)
			return nil
		})
		if err != nil {
			return err
		}
		if b := meta.Get(keySnapshot); b != nil {
			e, err := decode(b)
			if err != nil {
				return fmt.Errorf("snapshot: %w", err)
			}
			c.snapshot = Snapshot(e)
		}
		want := c.snapshot.Index + 1
		cur := tx.Bucket(bucketEntries).Cursor()
		for k, v := cur.First(); k != nil; k, v = cur.Next() {
			e, err := decode(v)
			if err != nil {
				return fmt.Errorf("entry %d: %w", want, err)
			}
			if e.Index != want || len(k) != 8 || binary.BigEndian.Uint64(k) != want {
				return fmt.Errorf("entry %d is missing", want)
			}
			c.entries = append(c.entries, e)
			want++
		}
		var found error
		for err := range tx.Check() { // to its end: it reads the file until then
			if found == nil {
				found = err
			}
		}
		return found
	})
	return c, err
}

// salvage puts a damaged file aside and goes on with what was whole.
func salvage(path string, c *contents, cause error) (*Log, error) {
	aside := path + ".damaged"
	if err := os.Rename(path, aside); err != nil {
		return nil, fmt.Errorf("put the damaged %s aside (%w): %w", path, cause, err)
	}
	db, err := open(path)
	if err != nil {
		return nil, fmt.Errorf("open the cluster's state: %w", err)
	}
	l := &Log{db: db, path: path, damage: fmt.Sprintf("%v; the damaged file is kept as %s", cause, aside)}
	if _, err := verify(db); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	for k, v := range c.values {
		if err := l.Put(k, v); err != nil {
			return nil, errors.Join(err, db.Close())
		}
	}
	if c.snapshot.Index > 0 {
		if err := l.Install(c.snapshot); err != nil {
			return nil, errors.Join(err, db.Close())
		}
	}
	if err := l.Append(c.entries...); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return l, nil
}

// Damage tells what was wrong with the file when it was opened; "": nothing.
func (l *Log) Damage() string { return l.damage }

// Close closes the file.
func (l *Log) Close() error { return l.db.Close() }

// Last is the index and session of the last entry, or of the snapshot.
func (l *Log) Last() (index uint64, session ids.Session, err error) {
	err = l.db.View(func(tx *bolt.Tx) error {
		e, err := last(tx)
		index, session = e.Index, e.Session
		return err
	})
	return index, session, err
}

func last(tx *bolt.Tx) (Entry, error) {
	b := tx.Bucket(bucketMeta).Get(keySnapshot)
	if k, v := tx.Bucket(bucketEntries).Cursor().Last(); k != nil {
		b = v
	}
	if b == nil {
		return Entry{}, nil
	}
	return decode(b)
}

// Append adds entries after the last one. When it returns they are on disk;
// when it fails none of them is.
func (l *Log) Append(entries ...Entry) error {
	if len(entries) == 0 {
		return nil
	}
	err := l.db.Update(func(tx *bolt.Tx) error {
		prev, err := last(tx)
		if err != nil {
			return err
		}
		b := tx.Bucket(bucketEntries)
		b.FillPercent = 0.95 // keys only grow
		for _, e := range entries {
			if e.Index != prev.Index+1 {
				return fmt.Errorf("entry %d does not follow entry %d", e.Index, prev.Index)
			}
			if err := b.Put(key(e.Index), encode(e)); err != nil {
				return err
			}
			prev = e
		}
		return nil
	})
	return l.explain("write the cluster's state", err)
}

// probed is how much Probe writes: what a busy second may bring.
const probed = 256 << 10

const keyProbe = "probe"

// Probe finds out whether the log can be written, by writing so much and
// forgetting it again; nil: it can. What it takes of the file is used again by what
// comes next.
func (l *Log) Probe() error {
	if err := l.Put(keyProbe, make([]byte, probed)); err != nil {
		return err
	}
	return l.explain("write the cluster's state", l.db.Update(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketMeta).Delete([]byte(keyProbe))
	}))
}

// Entries gives up to limit entries from index on. Those that a snapshot
// replaced are gone: ok is false if from is one of them.
func (l *Log) Entries(from uint64, limit int) (entries []Entry, ok bool, err error) {
	err = l.db.View(func(tx *bolt.Tx) error {
		if b := tx.Bucket(bucketMeta).Get(keySnapshot); b != nil {
			s, err := decode(b)
			if err != nil {
				return err
			}
			if from <= s.Index {
				return nil
			}
		}
		ok = true
		cur := tx.Bucket(bucketEntries).Cursor()
		for k, v := cur.Seek(key(from)); k != nil && len(entries) < limit; k, v = cur.Next() {
			e, err := decode(v)
			if err != nil {
				return fmt.Errorf("entry %d: %w", binary.BigEndian.Uint64(k), err)
			}
			entries = append(entries, e)
		}
		return nil
	})
	return entries, ok, err
}

// Truncate forgets the entries after index. It can't go behind the snapshot.
func (l *Log) Truncate(index uint64) error {
	err := l.db.Update(func(tx *bolt.Tx) error {
		if b := tx.Bucket(bucketMeta).Get(keySnapshot); b != nil {
			s, err := decode(b)
			if err != nil {
				return err
			}
			if index < s.Index {
				return fmt.Errorf("forget what follows entry %d: the snapshot holds %d already", index, s.Index)
			}
		}
		cur := tx.Bucket(bucketEntries).Cursor()
		for k, _ := cur.Seek(key(index + 1)); k != nil; k, _ = cur.Next() {
			if err := cur.Delete(); err != nil {
				return err
			}
		}
		return nil
	})
	return l.explain("write the cluster's state", err)
}

// Compact replaces the entries up to s.Index by the snapshot. The entries
// behind it stay.
func (l *Log) Compact(s Snapshot) error {
	return l.replace(s, func(cur *bolt.Cursor) ([]byte, bool) {
		k, _ := cur.First()
		return k, k != nil && binary.BigEndian.Uint64(k) <= s.Index
	})
}

// Install puts a peer's snapshot in place of everything.
func (l *Log) Install(s Snapshot) error {
	return l.replace(s, func(cur *bolt.Cursor) ([]byte, bool) {
		k, _ := cur.First()
		return k, k != nil
	})
}

func (l *Log) replace(s Snapshot, next func(*bolt.Cursor) ([]byte, bool)) error {
	err := l.db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketEntries)
		for {
			k, more := next(b.Cursor())
			if !more {
				break
			}
			if err := b.Delete(k); err != nil {
				return err
			}
		}
		return tx.Bucket(bucketMeta).Put(keySnapshot, encode(Entry(s)))
	})
	return l.explain("write a snapshot of the cluster's state", err)
}

// Snapshot gives the snapshot; Index 0 if there is none.
func (l *Log) Snapshot() (s Snapshot, err error) {
	err = l.db.View(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketMeta).Get(keySnapshot)
		if b == nil {
			return nil
		}
		e, err := decode(b)
		s = Snapshot(e)
		return err
	})
	return s, err
}

// Put keeps a small value under a name.
func (l *Log) Put(name string, value []byte) error {
	if name == string(keyFormat) || name == string(keySnapshot) {
		return fmt.Errorf("keep %q: the name is taken", name)
	}
	return l.explain("write the cluster's state", l.db.Update(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketMeta).Put([]byte(name), value)
	}))
}

// Get gives the value of a name; nil if there is none.
func (l *Log) Get(name string) (value []byte, err error) {
	err = l.db.View(func(tx *bolt.Tx) error {
		if v := tx.Bucket(bucketMeta).Get([]byte(name)); v != nil {
			value = append([]byte{}, v...)
		}
		return nil
	})
	return value, err
}

func (l *Log) explain(what string, err error) error { return explain(l.path, what, err) }

// unable tells that the file could not be used, which says nothing of what is
// in it: it must not be taken for damaged and put aside.
func unable(err error) bool {
	return errors.Is(err, fs.ErrPermission) || readOnly(err) || full(err) || busy(err)
}

// explain says what was done to the file at path, and what can be done about
// the error.
func explain(path, what string, err error) error {
	if err == nil {
		return nil
	}
	fix := ""
	if full(err) {
		fix = "; the disk is full: make room on the disk of " + filepath.Dir(path)
	} else if errors.Is(err, fs.ErrPermission) || readOnly(err) {
		fix = "; " + filepath.Dir(path) + " must be writable"
	}
	return fmt.Errorf("%s: %w%s", what, err, fix)
}

func key(index uint64) []byte { return binary.BigEndian.AppendUint64(nil, index) }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encode lays an entry out: checksum of what follows (4 bytes), index, clock of
// the session, length of the master's name (uvarint), the name, the data.
func encode(e Entry) []byte {
	b := make([]byte, 4, 40+len(e.Session.Master)+len(e.Data))
	b = binary.LittleEndian.AppendUint64(b, e.Index)
	b = binary.LittleEndian.AppendUint64(b, e.Session.Clock)
	b = binary.AppendUvarint(b, uint64(len(e.Session.Master)))
	b = append(b, e.Session.Master...)
	b = append(b, e.Data...)
	binary.LittleEndian.PutUint32(b, crc32.Checksum(b[4:], castagnoli))
	return b
}

var errChecksum = errors.New("its checksum is wrong")

func decode(b []byte) (Entry, error) {
	if len(b) < 21 || binary.LittleEndian.Uint32(b) != crc32.Checksum(b[4:], castagnoli) {
		return Entry{}, errChecksum
	}
	e := Entry{Index: binary.LittleEndian.Uint64(b[4:]), Session: ids.Session{Clock: binary.LittleEndian.Uint64(b[12:])}}
	n, used := binary.Uvarint(b[20:])
	rest := b[20+max(used, 0):]
	if used <= 0 || n > uint64(len(rest)) {
		return Entry{}, errors.New("it is cut off")
	}
	e.Session.Master = ids.Node(rest[:n])
	e.Data = append([]byte{}, rest[n:]...)
	return e, nil
}
