//! The examples and explanations below the help of each command.

pub(super) const EXAMPLES: &str = "\
EXAMPLES:
  A first look, in a directory that is removed at the end:
    taskpassd dev
  A new installation:
    taskpassd init --dir /var/lib/taskpass --trust-domain acme.test
    taskpassd run --config /var/lib/taskpass/taskpass.toml
  After a change of policy or configuration:
    taskpassd reload --config /var/lib/taskpass/taskpass.toml
  Look for problems in it:
    taskpassd config check --config /var/lib/taskpass/taskpass.toml
    taskpassd doctor --config /var/lib/taskpass/taskpass.toml
  Issue an identity to an operator who has no valid one, or to a new operator:
    taskpassd operator issue admin --config /var/lib/taskpass/taskpass.toml --dir ./admin
  End the identities of an operator whose laptop was stolen:
    taskpassd operator withdraw ann --config /var/lib/taskpass/taskpass.toml --reason stolen
  See how the root certificate stands, and replace it while agents are served:
    taskpassd root status --config /var/lib/taskpass/taskpass.toml
  Seal the private keys, so that a stolen backup holds none:
    taskpassd keys seal --config /var/lib/taskpass/taskpass.toml
  Move old parts of the ledger to another disk:
    taskpassd ledger archive --config /var/lib/taskpass/taskpass.toml \\
      --before 2026-09-01T00:00:00Z --to /mnt/archive/taskpass
  Go on after the machine's clock had been wrong:
    taskpassd clock accept --config /var/lib/taskpass/taskpass.toml --time 2026-11-28T09:30:00Z

EXIT CODES:
  0 done, 1 failed, 2 wrong usage";

pub(super) const INIT_EXAMPLES: &str = "\
EXAMPLES:
  taskpassd init --dir /var/lib/taskpass --trust-domain acme.test
  taskpassd init --dir ./tp --trust-domain dev.example --operator alice
  taskpassd init --dir /var/lib/taskpass --trust-domain acme.test --keys ./keys.toml";

pub(super) const RUN_AFTER: &str = "\
When the broker serves, it prints one line on standard output:
  ready addr=127.0.0.1:7443 trust_domain=acme.test
Logs go to standard error; TASKPASS_LOG=debug shows more.

SIGNALS:
  TERM, INT  finish requests in flight, then stop; a second one stops at once
  HUP        read policy and configuration again, as `taskpassd reload` does; the log says
             what changed, or why nothing did

EXAMPLES:
  taskpassd run --config /var/lib/taskpass/taskpass.toml";

pub(super) const RELOAD_AFTER: &str = "\
The broker takes over policy, providers, roles and limits from its files, all or nothing. It
prints what changed. Where it refuses, it prints why with file and line, goes on with what it had
read before, and the command exits with 1. Requests in flight are answered by what was in force
when they began. A provider that is no longer in the file goes on revoking what it minted. Some
keys need a restart; `taskpassd config reference` says which.

Run it on the broker's machine as the user that the broker runs as, or as root. It finds the
broker through `data_dir`.

EXAMPLES:
  taskpassd reload --config /var/lib/taskpass/taskpass.toml";

pub(super) const DEV_AFTER: &str = "\
The broker keeps everything in a new temporary directory and removes it when it stops. It
listens on a free port of 127.0.0.1 and prints the environment for `taskpass`, to be pasted
into another terminal. It has no providers: agents get identities, but no credentials. For
credentials, make an installation with `init`.

EXAMPLES:
  taskpassd dev
  taskpassd dev --trust-domain demo.example";

pub(super) const CHECK_EXAMPLES: &str = "\
Reads the file and the policies and session policies that it names. It opens no ledger, calls
no provider and reads no files with secrets; `taskpassd doctor` does.

EXAMPLES:
  taskpassd config check --config /var/lib/taskpass/taskpass.toml";

pub(super) const REFERENCE_EXAMPLES: &str = "\
EXAMPLES:
  taskpassd config reference | less";

pub(super) const SCHEMA_EXAMPLES: &str = "\
For editors: they complete keys and mark mistakes with it. In VS Code, the extension Even Better
TOML takes it from a first line `#:schema ./taskpass.schema.json` of taskpass.toml.

EXAMPLES:
  taskpassd config schema > taskpass.schema.json";

pub(super) const DOCTOR_EXAMPLES: &str = "\
`doctor` only reads, so it can run beside a broker, and asks that broker how its reconcilers
stand. It exits with 1 if any check failed.

EXAMPLES:
  taskpassd doctor --config /var/lib/taskpass/taskpass.toml
  taskpassd doctor --config /var/lib/taskpass/taskpass.toml -o json";

pub(super) const ISSUE_AFTER: &str = "\
Use it for an operator whose certificate has expired or was renewed by a thief, and for a new
operator. Make sure first that the person is this operator: the command does not check it.

The identity lives for `[identity] operator_svid_ttl`, 30 days by default, and `taskpass` renews it
when it is used in the last third of its life, if policy permits `svid.renew`.

Stop the broker, run the command as the user that the broker runs as, and start the broker
again. Every other certificate of this operator stops counting. Policy says what operators may
do; for a new name there is none yet. The ledger gets an entry, marked as `local`.

EXAMPLES:
  taskpassd operator issue admin --config /var/lib/taskpass/taskpass.toml --dir ./admin
  taskpassd operator issue ann --config /var/lib/taskpass/taskpass.toml --dir ./ann -o json";

pub(super) const WITHDRAW_AFTER: &str = "\
The running broker refuses the operator from now on, also on open connections. The use of a
withdrawn identity is on record as `identity_conflict`. Afterwards, `taskpassd operator issue` makes
the operator another identity.

Run it on the broker's machine as the user that the broker runs as, or as root.

EXAMPLES:
  taskpassd operator withdraw ann --config /var/lib/taskpass/taskpass.toml --reason stolen";

pub(super) const ROOT_AFTER: &str = "\
A root is replaced in three steps, while the broker serves old and new agents throughout:
  prepare   makes another root and publishes it in the trust bundle beside the present one
  activate  has the new root sign everything from then on; the old one's key is erased
  retire    takes the old root out of the bundle, once nothing hangs on it

Agents and operators get the new bundle when they renew; `taskpass` renews with its next command
where the bundle has changed. The old root has signed the new one across, so a client that knows
only the old root is served as well until it is retired.

EXAMPLES:
  taskpassd root status --config /var/lib/taskpass/taskpass.toml
  taskpassd root prepare --config /var/lib/taskpass/taskpass.toml
  taskpassd root activate --config /var/lib/taskpass/taskpass.toml
  taskpassd root retire --config /var/lib/taskpass/taskpass.toml";

pub(super) const ROOT_STEP_AFTER: &str = "\
Ask the running broker, on its machine, as the user that it runs as, or as root.

EXAMPLES:
  taskpassd root status --config /var/lib/taskpass/taskpass.toml
  taskpassd root status --config /var/lib/taskpass/taskpass.toml -o json";

pub(super) const ROOT_PREPARE_AFTER: &str = "\
Nothing is signed by the new root yet. Where nothing presses, wait for an hour before you activate
it: by then every agent that is at work has fetched the new bundle.

EXAMPLES:
  taskpassd root prepare --config /var/lib/taskpass/taskpass.toml";

pub(super) const ROOT_ACTIVATE_AFTER: &str = "\
The broker's own certificate, new certificates of agents and operators and new join tokens hang on
the new root from then on. What hangs on the old one goes on working until the old root is retired.

EXAMPLES:
  taskpassd root activate --config /var/lib/taskpass/taskpass.toml";

pub(super) const ROOT_RETIRE_AFTER: &str = "\
Refused while certificates that count or unused join tokens hang on the outgoing root; the refusal
says how many, and `status` which. Agents move to the new root within an hour, operators with the
next command of `taskpass`, and join tokens end after a day at most.

With --force all of these end at once, for a root that was stolen. So does every task of an agent
that is left without a certificate, with its credentials. Such an agent then logs in anew with a
join token that is made afterwards, and operators get an identity from `taskpassd operator issue`.

EXAMPLES:
  taskpassd root retire --config /var/lib/taskpass/taskpass.toml
  taskpassd root retire --force --config /var/lib/taskpass/taskpass.toml";

pub(super) const ACCEPT_AFTER: &str = "\
A broker issues nothing while the machine's clock is more than five minutes from the time that has
passed, while it is behind the newest entry of the ledger, and while it is more than 30 days ahead
of that entry at the start. When the clock is set right, the broker goes on by itself. Use this
command where the clock is right and the broker cannot know: after a time in which a wrong clock
dated the ledger ahead, after a virtual machine was paused, after months without a broker.

Look at a clock that you trust, and set this machine's clock first. Without `--time`, the command
prints what it would accept and changes nothing. Stop the broker, run the command as the user that
the broker runs as, and start the broker again. The ledger gets an entry with both times, and no
history is lost. Identities made while the clock was ahead have to be made again.

EXAMPLES:
  taskpassd clock accept --config /var/lib/taskpass/taskpass.toml
  taskpassd clock accept --config /var/lib/taskpass/taskpass.toml --time 2026-11-28T09:30:00Z";

pub(super) const STATUS_AFTER: &str = "\
It asks the seal for the data key, changes nothing and can run beside a broker. It exits with 1 if
a broker could not start with these keys.

EXAMPLES:
  taskpassd keys status --config /var/lib/taskpass/taskpass.toml
  taskpassd keys status --config /var/lib/taskpass/taskpass.toml -o json";

pub(super) const SEAL_AFTER: &str = "\
Name the seal in [keys] of the configuration first: a passphrase in a file, a credential of
systemd, AWS KMS, or Vault's transit engine. Stop the broker, run the command as the user that the
broker runs as, and start the broker again. Each file is sealed beside the old one, read back, and
only then replaced, and the old bytes are overwritten. After a crash, run it again. The ledger gets
an entry.

Backups and snapshots of before hold the keys in plain text. A backup of after cannot be restored
without the passphrase, or without the key of the key service.

EXAMPLES:
  taskpassd keys seal --config /var/lib/taskpass/taskpass.toml";

pub(super) const RESEAL_AFTER: &str = "\
Changes the seal, or the passphrase: keep a copy of the configuration, write the new seal into
[keys], and give the copy as `--from`. A new passphrase needs a file of its own. Without `--from`,
the keys get a new data key by the same seal. What was sealed before opens with the old seal as
before, so keep old backups as secret as that.

EXAMPLES:
  taskpassd keys reseal --config /var/lib/taskpass/taskpass.toml --from ./old-taskpass.toml
  taskpassd keys reseal --config /var/lib/taskpass/taskpass.toml";

pub(super) const UNSEAL_AFTER: &str = "\
A copy of the data directory then signs as this broker. Stop the broker, run the command, write
`seal = \"plain\"` into [keys], and start the broker. The ledger gets an entry.

EXAMPLES:
  taskpassd keys unseal --config /var/lib/taskpass/taskpass.toml";

pub(super) const ARCHIVE_AFTER: &str = "\
The ledger is kept in segments. Whole segments with entries from before the time are copied to the
directory. Each copy is read back and compared with the signed tree. Then the ledger gets an entry,
and only then are the segments deleted here. The tree's tiles and checkpoints stay, so proofs and
verification work as before. To run it again does no harm, also after it was interrupted. A
directory without an archive gets one, and the command says so; `[ledger] keep` begins none. A
segment that an export still reads stays here until the next run.

The directory should be on another disk. The user that the broker runs as must be able to write
there; under systemd, name it in `ReadWritePaths=`. Keep it: without it nobody can read the old
entries, and a lost index cannot be built again. Name it as `[ledger] archive`, and the broker
reads old entries there.

Run it on the broker's machine as the user that the broker runs as, or as root. A running broker
does the work; without one the command does it itself.

EXAMPLES:
  taskpassd ledger archive --config /var/lib/taskpass/taskpass.toml \\
    --before 2026-09-01T00:00:00Z --to /mnt/archive/taskpass
  taskpass ledger verify --archive /mnt/archive/taskpass /var/lib/taskpass/data/ledger";

pub(super) const COMPLETIONS_EXAMPLES: &str = "\
EXAMPLES:
  taskpassd completions bash > /etc/bash_completion.d/taskpassd";
