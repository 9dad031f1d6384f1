package shard

import "sync"

// Store keeps the states of sequences by snapshot ID. Any goroutine may use it;
// the bytes are not changed once they are in.
type Store struct {
	mu     sync.Mutex // guards states
	states map[uint64][]byte
}

// NewStore returns an empty store.
func NewStore() *Store { return &Store{states: map[uint64][]byte{}} }

// Put keeps b, which becomes the store's, under id.
func (s *Store) Put(id uint64, b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.states[id] = b
}

// Get gives what is kept under id; nil: nothing. It must not be changed.
func (s *Store) Get(id uint64) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.states[id]
}

// Drop forgets what is kept under id, if anything.
func (s *Store) Drop(id uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.states, id)
}

// Clear forgets everything.
func (s *Store) Clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.states)
}
