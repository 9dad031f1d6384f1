package store

import (
	"testing"

	bolt "go.etcd.io/bbolt"
)

func putFormat(t testing.TB, l *Log, f byte) {
	t.Helper()
	if err := l.db.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucketMeta).Put(keyFormat, []byte{f}) }); err != nil {
		t.Fatal(err)
	}
}
