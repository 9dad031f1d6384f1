package cluster

// KindOf names a change as it is named in the log.
func KindOf(c Change) string { return c.kind() }

// DecodeChange reads a change of a kind. A kind that this version does not know
// is ErrVersion.
func DecodeChange(kind string, b []byte) (Change, error) { return decodeChange(kind, b) }
