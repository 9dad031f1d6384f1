package runner

import (
	"errors"
	"time"

	"github.com/skein-run/skein/internal/runner/link"
	"github.com/skein-run/skein/internal/runner/shard"
)

// linked is a mesh as package shard wants one.
type linked struct{ mesh *link.Mesh }

// The kinds of both packages.
var linkKinds = [...]link.Kind{shard.KindPlan: link.KindPlan, shard.KindHidden: link.KindActivation, shard.KindResult: link.KindResult}

func (l linked) Send(to int, k shard.Kind, seq uint64, body []byte) error {
	return lostShard(l.mesh.Send(to, linkKinds[k], seq, body))
}

func (l linked) Receive(from int, k shard.Kind, seq uint64) ([]byte, error) {
	b, err := l.mesh.Receive(from, linkKinds[k], seq)
	return b, lostShard(err)
}

func (l linked) SendFloats(to int, k shard.Kind, seq uint64, values []float32) error {
	return lostShard(l.mesh.SendFloats(to, linkKinds[k], seq, values))
}

func (l linked) ReceiveFloats(from int, k shard.Kind, seq uint64, values []float32) error {
	return lostShard(l.mesh.ReceiveFloats(from, linkKinds[k], seq, values))
}

func (l linked) SetDeadline(d time.Duration) { l.mesh.SetDeadline(d) }

func (l linked) Fail(shard int, cause string) { l.mesh.Fail(shard, cause) }

// lostShard puts a link's error in the words of package shard.
func lostShard(err error) error {
	var b *link.BrokenError
	if errors.As(err, &b) {
		return &shard.LostError{Shard: b.Culprit, Cause: errors.New(b.Cause)}
	}
	return err
}
