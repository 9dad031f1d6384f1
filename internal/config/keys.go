package config

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// NamedKey is a key of the API with a name and a role.
type NamedKey struct{ Name, Role, Secret string }

// keyRoles are the roles that a key may have.
var keyRoles = []string{"chat", "read", "manage"}

// keyName is what a key may be called.
var keyName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)

// namedKeys reads "NAME:ROLE:KEY"; the key may hold colons.
func (r resolver) namedKeys() []NamedKey {
	var out []NamedKey
	for _, v := range r.list("named-key") {
		name, rest, _ := strings.Cut(v, ":")
		role, secret, _ := strings.Cut(rest, ":")
		out = append(out, NamedKey{name, role, secret})
	}
	return out
}

// refuse says what is wrong with a key, after those before it; "": nothing. It
// never repeats what may be a secret: of a value that is not of this form,
// any part may be.
func (k NamedKey) refuse(before []NamedKey) string {
	switch {
	case k.Secret == "":
		return "named-key must be NAME:ROLE:KEY, such as ci:chat:sk-..."
	case !keyName.MatchString(k.Name):
		return "the name of a named-key must be of a-z, 0-9, '.', '_' and '-', at most 64"
	case !slices.Contains(keyRoles, k.Role):
		return "the role of a named-key must be one of " + strings.Join(keyRoles, ", ") + "; it is written NAME:ROLE:KEY"
	case slices.ContainsFunc(before, func(x NamedKey) bool { return x.Name == k.Name }):
		return fmt.Sprintf("there are two named-keys %s; give each a name of its own", k.Name)
	}
	return ""
}
