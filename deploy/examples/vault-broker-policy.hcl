# The rights of the broker's own token in Vault or OpenBao. `taskpass provider check NAME` names
# missing ones.
#
#     vault policy write taskpass-broker vault-broker-policy.hcl
#     vault token create -orphan -period=24h -policy=taskpass-broker
#
# It never holds the rights of the tasks itself: every task gets an orphan token with the policies
# of its roles. Vault asks for sudo on create-orphan for that, and sudo lets the broker give a token
# any policy but root. Guard this token as you guard the broker.

path "auth/token/create-orphan" {
  capabilities = ["update", "sudo"]
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
# never secrets.
path "sys/leases/lookup/*" {
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
path "sys/capabilities-self" {
  capabilities = ["update"]
}
