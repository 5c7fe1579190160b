# The rights of the broker's own token in Vault or OpenBao, for a provider with
# `token_role = "taskpass"`. `taskpass provider check NAME` names missing ones and superfluous ones.
#
#     vault write auth/token/roles/taskpass allowed_policies_glob="taskpass-*" \
#         orphan=true token_no_default_policy=true token_type=service token_explicit_max_ttl=8h
#     vault policy write broker-of-taskpass vault-broker-policy.hcl
#     vault token create -orphan -period=24h -policy=broker-of-taskpass
#
# The broker never holds the rights of the tasks itself: it makes tokens for them, and the token role
# allows the policies of the roles and no others. So a thief of this token gets what the roles give,
# for `token_explicit_max_ttl` at most: without it a token that the thief makes lives for Vault's
# `max_lease_ttl`, a month by default. The thief can also revoke tokens and leases with names that he
# knows or may list. The name of this policy must not begin with `taskpass-`, since such a thief could
# then keep it with a token of his own.

path "auth/token/create/taskpass" {
  capabilities = ["update"]
}
path "auth/token/renew-accessor" {
  capabilities = ["update"]
}
path "auth/token/lookup-accessor" {
  capabilities = ["update"]
}
path "auth/token/revoke-accessor" {
  capabilities = ["update"]
}

path "sys/leases/lookup" {
  capabilities = ["update"]
}
path "sys/leases/renew" {
  capabilities = ["update"]
}
path "sys/leases/revoke" {
  capabilities = ["update"]
}
# Optional: proves that an issue without a known outcome left no lease behind. Lists lease ids,
# never secrets. One rule for each role of type `dynamic`: `sys/leases/lookup/`, the role's `path`,
# and a slash at the end. For a parameter in the path write `+`. Not `sys/leases/lookup/*`: with that
# a thief of the token finds the leases of everybody else in this Vault, and revokes them.
path "sys/leases/lookup/database/creds/ci/" {
  capabilities = ["list", "sudo"]
}
path "sys/leases/lookup/pki/issue/ci/" {
  capabilities = ["list", "sudo"]
}
# Optional: tells the type of the engine of a credential without a known outcome, since some engines
# revoke nothing. Shows the paths and settings of engines, never secrets.
path "sys/mounts" {
  capabilities = ["read"]
}

# The token looks after itself.
path "auth/token/lookup-self" {
  capabilities = ["read"]
}
path "auth/token/renew-self" {
  capabilities = ["update"]
}

# For `taskpass provider check`: what this token may do, whether a token with the policies of a role
# could use the role's path, and whether the token role allows no more than it must.
path "sys/capabilities-self" {
  capabilities = ["update"]
}
path "sys/capabilities-accessor" {
  capabilities = ["update"]
}
path "auth/token/roles/taskpass" {
  capabilities = ["read"]
}
