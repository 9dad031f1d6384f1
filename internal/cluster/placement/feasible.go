package placement

import (
	"cmp"
	"slices"

	"github.com/skein-run/skein/internal/cluster/placement/cost"
)

// The yes or no of a pipeline is decided here and not by the candidates that
// place.go tries: candidates line nodes up by memory and speed, so a little more
// memory may change the order, and an order that worked may no longer. The two
// criteria of this file can't fall when memory grows; a plan exists if one of
// them holds, and each comes with a way to build it.

// stages is how many stages a pipeline must have.
func (t *table) stages() int { return max(t.request.MinNodes, 2) }

// room is what a seat holds when all layers are taken to be as large as the
// largest.
type room struct {
	seat       *seat
	most, last int // layers, without and with the output head
}

// rooms gives the best room of each spot, the required first, then the largest,
// so that few nodes are used; musts is how many are required. ok is false if a
// required one has no room.
func (t *table) rooms(spots []spot) (rooms []room, musts int, ok bool) {
	for _, s := range spots {
		best := room{}
		for _, seat := range s.seats {
			t.steps++
			if r := (room{seat, t.layersIn(seat, false), t.layersIn(seat, true)}); best.seat == nil || r.most > best.most {
				best = r
			}
		}
		switch {
		case best.most > 0:
			rooms = append(rooms, best)
			if s.must {
				musts++
			}
		case s.must:
			return nil, 0, false
		}
	}
	slices.SortStableFunc(rooms, func(a, b room) int {
		if a.seat.must != b.seat.must {
			if a.seat.must {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(b.most, a.most), cmp.Compare(a.seat.node, b.seat.node))
	})
	return rooms, musts, true
}

// roomy says how many layers each seat holds when all are taken to be as large
// as the largest, and builds stages from that. The sum does not depend on any
// order. It applies where stages may begin and end anywhere.
func (t *table) roomy(spots []spot) []*stage {
	n := len(t.request.Model.Layers)
	if t.request.Model.Least != nil || n < t.stages() {
		return nil
	}
	rooms, musts, ok := t.rooms(spots)
	if !ok {
		return nil
	}
	if musts == n { // a layer for each of them, and none for others
		rooms = rooms[:musts]
	}
	total, head := 0, -1
	for i, r := range rooms {
		total += r.most
		if r.last > 0 && (head < 0 || r.most-r.last < rooms[head].most-rooms[head].last) {
			head = i
		}
	}
	if head < 0 || musts > n || len(rooms) < t.stages() || total-rooms[head].most+rooms[head].last < n {
		return nil
	}
	least := max(t.stages(), musts)
	if !rooms[head].seat.must {
		least = max(least, musts+1)
	}
	// The one with the output head, and of the others as many as are needed.
	used := []room{rooms[head]}
	rooms = slices.Delete(rooms, head, head+1)
	count := used[0].last
	for i, r := range rooms {
		if i+1 >= least && count >= n {
			break
		}
		used = append(used, r)
		count += r.most
	}
	return fillRooms(used, n)
}

// fillRooms lays n layers out over rooms, of which the first has the output head:
// each gets one layer, the rest goes to the first ones. nil: they do not fit.
func fillRooms(used []room, n int) []*stage {
	layers := make([]int, len(used))
	left := n - len(used)
	for i, r := range used {
		most := r.most
		if i == 0 {
			most = r.last
		}
		extra := min(most-1, left)
		layers[i] = 1 + extra
		left -= extra
	}
	if left > 0 || len(used) > n {
		return nil
	}
	var out []*stage
	first := 0
	for i := len(used) - 1; i >= 0; i-- {
		g := single(used[i].seat)
		g.first, g.end = first, first+layers[i]
		first = g.end
		out = append(out, g)
	}
	return out
}

// layersIn is how many of the largest layers fit a seat.
func (t *table) layersIn(s *seat, last bool) int {
	low, high := 0, len(t.request.Model.Layers)
	for low < high {
		mid := (low + high + 1) / 2
		t.steps++
		if cost.Headroom(t.sums.Largest(mid, last)) <= s.free {
			low = mid
		} else {
			high = mid - 1
		}
	}
	return low
}

// chain looks for a pipeline along a fixed order of nodes, which does not
// depend on memory: the one with the most stages, so that a wanted number of
// nodes is met if it can be. Required nodes are never left out.
func (t *table) chain(spots []spot) []*stage {
	n := len(t.request.Model.Layers)
	const none = -1
	// count[i]: the most stages that hold the layers from i on, on the nodes
	// looked at so far, from the last one of the order to the first.
	count := make([]int, n+1)
	for i := range n {
		count[i] = none
	}
	type choice struct {
		seat *seat
		end  int32
	}
	taken := make([][]choice, len(spots))
	for k := len(spots) - 1; k >= 0; k-- {
		s := spots[k]
		next := slices.Clone(count)
		if s.must {
			for i := range next {
				next[i] = none
			}
		}
		taken[k] = make([]choice, n+1)
		for _, seat := range s.seats {
			if !t.anyLayer(seat) {
				continue
			}
			fit := t.ends(single(seat))
			t.windows(fit, count, func(first, end int) {
				if c := count[end] + 1; c > next[first] {
					next[first], taken[k][first] = c, choice{seat, int32(end)}
				}
			})
		}
		count = next
	}
	if count[0] < t.stages() {
		return nil
	}
	var out []*stage
	at := 0
	for k := range spots {
		c := taken[k][at]
		if c.seat == nil {
			continue
		}
		g := single(c.seat)
		g.first, g.end = at, int(c.end)
		out = append(out, g)
		at = g.end
	}
	return out
}

// windows finds, for each first layer, the end within what a stage may have
// and what fits for which count is largest (at least 0), in one pass: both
// bounds only move forward.
func (t *table) windows(fit, count []int, found func(first, end int)) {
	var queue []int // ends in the window, counts falling
	next := 0
	low := 0
	for first := range fit {
		t.steps++
		if least := t.least(first); least <= len(fit) {
			low = max(low, least)
		} else {
			continue // no stage begins here
		}
		for next = max(next, first+1); next <= fit[first]; next++ {
			if count[next] < 0 {
				continue
			}
			for len(queue) > 0 && count[queue[len(queue)-1]] <= count[next] {
				queue = queue[:len(queue)-1]
			}
			queue = append(queue, next)
		}
		for len(queue) > 0 && queue[0] < low {
			queue = queue[1:]
		}
		if len(queue) > 0 {
			found(first, queue[0])
		}
	}
}

// anyLayer tells whether a seat could hold a single layer of any kind.
func (t *table) anyLayer(s *seat) bool {
	t.steps++
	return cost.Headroom(t.sums.Smallest()) <= s.free
}

func single(s *seat) *stage { return &stage{seats: []*seat{s}, units: []int{1}, all: 1} }
