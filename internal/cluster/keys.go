package cluster

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// Role is what the holder of a key may do.
type Role string

// Roles.
const (
	RoleChat   Role = "chat"   // inference, and to see which models there are
	RoleRead   Role = "read"   // to look at everything but keys
	RoleManage Role = "manage" // everything
)

// Roles lists them, the least first.
func Roles() []Role { return []Role{RoleChat, RoleRead, RoleManage} }

// Known tells whether r is a role.
func (r Role) Known() bool { return slices.Contains(Roles(), r) }

const (
	// maxKeys bounds how many keys there are: each request is compared with all.
	maxKeys = 256
	// maxLimit bounds the limits of a key.
	maxLimit = 1_000_000
)

// Key is a key of the API that all nodes accept. Its secret is nowhere; what
// the log keeps is its hash.
type Key struct {
	Name string `json:"name"`
	ID   string `json:"id"` // tells it from an earlier key of its name
	Role Role   `json:"role"`
	// Hash is in the log and in snapshots, which are for nodes, and in no other
	// JSON or text that is made of a State or a Change.
	Hash    KeyHash   `json:"-"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires,omitzero"` // zero: never
	// PerMinute and Concurrent limit its requests at each node; 0: not at all.
	PerMinute  int    `json:"requests_per_minute,omitempty"`
	Concurrent int    `json:"concurrent,omitempty"`
	By         string `json:"by,omitempty"` // who made it
}

// Expired tells whether the key is worth nothing any more.
func (k Key) Expired(now time.Time) bool { return !k.Expires.IsZero() && !now.Before(k.Expires) }

// KeyHash is the SHA-256 of a secret. However it is printed, it does not show.
type KeyHash [32]byte

const hidden = "(hidden)"

// Format implements fmt.Formatter, for every verb.
func (KeyHash) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, hidden) // a printer's buffer takes everything
}

// MarshalText keeps it out of JSON.
func (KeyHash) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// sealedKey is a key as the log has it.
type sealedKey struct {
	Key
	Hash string `json:"hash"`
}

func seal(k Key) sealedKey { return sealedKey{k, hex.EncodeToString(k.Hash[:])} }

func (s sealedKey) open() (Key, error) {
	b, err := hex.DecodeString(s.Hash)
	if err != nil || len(b) != len(KeyHash{}) {
		return Key{}, errors.New("it has no hash of a key")
	}
	s.Key.Hash = KeyHash(b)
	return s.Key, nil
}

// sealed is a change with something that only nodes may read.
type sealed interface {
	// seal gives what the log has of it.
	seal() any
}

// EncodeChange writes a change for other nodes: for the log, or in a command.
// What is for people's eyes is made with package json, and lacks secrets.
func EncodeChange(c Change) ([]byte, error) {
	if s, ok := c.(sealed); ok {
		return json.Marshal(s.seal())
	}
	return json.Marshal(c)
}

// KeyName says why a key can't have a name; nil: it can.
func KeyName(name string) error {
	ok := len(name) >= 1 && len(name) <= 64 && name[0] != '-' && name[0] != '.' && name[0] != '_'
	for _, c := range []byte(name) {
		ok = ok && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == '_')
	}
	switch {
	case !ok:
		return fmt.Errorf("the name of a key must be of a-z, 0-9, '.', '_' and '-', begin with a letter or digit, and have at most 64; %.70q is not", name)
	case name == "local" || name == "open":
		return fmt.Errorf("%s is what audits call callers without a key of theirs; choose another name", name)
	}
	return nil
}

// KeyAdded makes a key. Created and By of it are not looked at.
type KeyAdded struct {
	Key Key `json:"key"`
}

func (KeyAdded) kind() string { return "key_added" }

func (c KeyAdded) seal() any {
	return struct {
		Key sealedKey `json:"key"`
	}{seal(c.Key)}
}

func openKeyAdded(b []byte) (Change, error) {
	var w struct {
		Key sealedKey `json:"key"`
	}
	if err := json.Unmarshal(b, &w); err != nil {
		return nil, err
	}
	k, err := w.Key.open()
	return KeyAdded{k}, err
}

func (c KeyAdded) fits(s State) error {
	k := c.Key
	if err := k.check(); err != nil {
		return err
	}
	if _, ok := s.Keys[k.Name]; ok {
		return fmt.Errorf("there is a key %s already; revoke it first, or choose another name", k.Name)
	}
	for _, other := range s.Keys {
		if other.Hash == k.Hash {
			return fmt.Errorf("the secret of key %s is that of another key", k.Name)
		}
	}
	if len(s.Keys) >= maxKeys {
		return fmt.Errorf("there are %d keys, the most there may be; revoke some", len(s.Keys))
	}
	return nil
}

// check says what is wrong with a key by itself.
func (k Key) check() error {
	if err := KeyName(k.Name); err != nil {
		return err
	}
	switch {
	case !k.Role.Known():
		return fmt.Errorf("the role of key %s must be one of %v, not %.20q", k.Name, Roles(), k.Role)
	case k.ID == "" || len(k.ID) > 64:
		return fmt.Errorf("key %s needs an id of at most 64 letters", k.Name)
	case k.Hash == KeyHash{}:
		return fmt.Errorf("key %s has no hash", k.Name)
	case k.PerMinute < 0 || k.PerMinute > maxLimit || k.Concurrent < 0 || k.Concurrent > maxLimit:
		return fmt.Errorf("the limits of key %s must be from 0, which is none, to %d", k.Name, maxLimit)
	}
	return nil
}

func (c KeyAdded) apply(s State, e Event) State {
	k := c.Key
	k.Created, k.By = e.At, e.By
	s.Keys = put(s.Keys, k.Name, k)
	return s
}

// KeyRevoked ends a key.
type KeyRevoked struct {
	Name string `json:"name"`
	// ID is that of the key that is meant; "": whichever has the name.
	ID string `json:"id,omitempty"`
}

func (KeyRevoked) kind() string { return "key_revoked" }

func (c KeyRevoked) fits(s State) error {
	k, ok := s.Keys[c.Name]
	switch {
	case !ok:
		return fmt.Errorf("there is no key %s", c.Name)
	case c.ID != "" && c.ID != k.ID:
		return fmt.Errorf("the key %s that was to be revoked is gone, and there is a newer one", c.Name)
	}
	return nil
}

func (c KeyRevoked) apply(s State, _ Event) State {
	s.Keys = without(s.Keys, c.Name)
	return s
}
