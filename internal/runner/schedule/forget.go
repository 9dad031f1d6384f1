package schedule

// Forget tells that a slot no longer holds what it did: its state was used for
// something else. The next batch clears it. It must be free, with nothing in
// flight.
func (s *Scheduler) Forget(slot int) {
	sl := &s.slots[slot]
	sl.content, sl.unclean = content{}, true
}
