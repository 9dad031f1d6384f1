package cluster

import "slices"

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
