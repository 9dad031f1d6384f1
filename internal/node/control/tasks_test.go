package control

import "testing"

// A request is found by the id that its client knows, in all its parts, as long
// as it is open.
func TestTasksAreCancelledByTheirID(t *testing.T) {
	tasks := newTasks()
	cancelled := map[string]int{}
	begin := func(id string) func() {
		_, end := tasks.Begin("chat", "m", id, func() { cancelled[id]++ })
		return end
	}
	endA, endB, other := begin("a"), begin("a"), begin("b")
	_, silent := tasks.Begin("chat", "m", "", nil) // of nobody: it can't be cancelled
	if n := len(tasks.List()); n != 4 {
		t.Errorf("%d open, want 4", n)
	}
	if !tasks.Cancel("a") || cancelled["a"] != 2 || cancelled["b"] != 0 {
		t.Errorf("cancelled %v", cancelled)
	}
	if tasks.Cancel("c") || tasks.Cancel("") {
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
	if tasks.Cancel("a") || len(tasks.List()) > 0 {
		t.Error("what has ended is still open")
	}
}
