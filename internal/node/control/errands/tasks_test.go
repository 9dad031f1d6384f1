package errands

import "testing"

// A request is found by the id that its client knows, in all its parts, as long
// as it is open.
func TestTasksAreCancelledByTheirID(t *testing.T) {
	tasks := NewTasks()
	cancelled := map[string]int{}
	begin := func(id string) func() {
		_, end := tasks.Begin("chat", "m", id, "key/"+id, func() { cancelled[id]++ })
		return end
	}
	endA, endB, other := begin("a"), begin("a"), begin("b")
	_, silent := tasks.Begin("chat", "m", "", "", nil) // of nobody: it can't be cancelled
	if n := len(tasks.List()); n != 4 {
		t.Errorf("%d open, want 4", n)
	}
	anybody := Canceller{Any: true}
	for _, by := range []Canceller{{}, {Owner: "key/b"}, {Owner: "key"}} {
		if tasks.Cancel("a", by) || len(cancelled) > 0 {
			t.Errorf("%+v ended somebody else's request", by)
		}
	}
	if !tasks.Cancel("b", Canceller{Owner: "key/b"}) || cancelled["b"] != 1 {
		t.Errorf("one's own can't be ended: %v", cancelled)
	}
	delete(cancelled, "b")
	if !tasks.Cancel("a", anybody) || cancelled["a"] != 2 || cancelled["b"] != 0 {
		t.Errorf("cancelled %v", cancelled)
	}
	if tasks.Cancel("c", anybody) || tasks.Cancel("", anybody) {
		t.Error("what is not there was cancelled")
	}
	for _, x := range tasks.List() {
		if x.ID == "" {
			t.Errorf("%+v has no id", x)
		}
	}
	endA()
	endB()
	other()
	silent()
	if tasks.Cancel("a", anybody) || len(tasks.List()) > 0 {
		t.Error("what has ended is still open")
	}
}
