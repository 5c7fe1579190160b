//! Every limit that is not configuration, by name. Units are last in the names.

use std::time::Duration;

/// Bytes of a short name (agent, provider, role, parameter, label key).
pub const NAME_BYTES_MAX: usize = 63;
/// Bytes of the name of an environment variable.
pub const VARIABLE_BYTES_MAX: usize = 255;
/// Bytes of one free text: purpose, reason, label value.
pub const TEXT_BYTES_MAX: usize = 512;
/// Labels of one agent or task.
pub const LABELS_MAX: usize = 16;
/// Parameters of one scope.
pub const SCOPE_PARAMS_MAX: usize = 32;
/// Bytes of one scope parameter's value.
pub const SCOPE_VALUE_BYTES_MAX: usize = 512;
/// Roles that one task may ask credentials of.
pub const TASK_ROLES_MAX: usize = 32;
/// How many tasks deep delegation may go; a task without a parent is at depth 0.
pub const TASK_DEPTH_MAX: u8 = 4;
/// Direct and indirect open children of one task.
pub const TASK_DESCENDANTS_MAX: usize = 256;
/// Bytes of an idempotency key.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 128;
/// How long an idempotency key is remembered.
pub const IDEMPOTENCY_KEPT: Duration = Duration::from_secs(24 * 3600);
/// Bytes of memory that one remembered idempotency key takes at most, however long the key and the
/// names of its caller are: only hashes of them are kept.
pub const IDEMPOTENCY_RECORD_BYTES_MAX: usize = 512;
/// How long repeats of one denial, or of one reading, are counted before an entry says how many
/// there were.
pub const FOLD_WINDOW: Duration = Duration::from_secs(60);
/// Decisions, over all callers, whose repeats are counted at a time. A further one is recorded each
/// time, and a denial then counts against its agent's budget each time.
pub const FOLDS_MAX: usize = 8192;
/// The same of one agent with all its tasks, or of one operator, so that no caller takes all
/// places.
pub const FOLDS_PER_CALLER_MAX: usize = 128;
/// How much later than asked a credential may end and still count as ending when asked: clocks
/// differ, and providers round.
pub const EXPIRY_SLACK: Duration = Duration::from_secs(2);
/// Rows in one page of a listing.
pub const PAGE_ROWS_MAX: usize = 1000;
/// Rows in one page when the caller does not say.
pub const PAGE_ROWS_DEFAULT: usize = 100;
/// Join tokens of one agent that are neither used nor expired.
pub const JOIN_TOKENS_PER_AGENT_MAX: usize = 16;
/// The longest life of a join token.
pub const JOIN_TOKEN_TTL_MAX: Duration = Duration::from_secs(24 * 3600);
/// SVIDs of one identity that were issued but not yet used. A newer one takes the place of the
/// oldest.
pub const PENDING_SVIDS_PER_IDENTITY_MAX: usize = 4;
/// Superseded SVIDs of one identity that are remembered until their end, to notice their use. Of
/// more, the oldest half and the newest half stay: a thief that renews again and again pushes out
/// neither its victim's SVID nor its own.
pub const SUPERSEDED_SVIDS_PER_IDENTITY_MAX: usize = 16;
/// SVIDs are valid from this long before they are signed, for machines with a clock that lags.
pub const SVID_BACKDATE: Duration = Duration::from_secs(10);
/// The life of an operator's SVID where the configuration says nothing. `taskpass` renews it when
/// it is used after two thirds of this life.
pub const OPERATOR_SVID_SECONDS_DEFAULT: u64 = 30 * 86_400;
/// The longest life of an operator's SVID that the configuration may say.
pub const OPERATOR_SVID_SECONDS_MAX: u64 = 365 * 86_400;
/// Bytes of a certificate signing request.
pub const CSR_BYTES_MAX: usize = 8 * 1024;
/// Bytes of a handle, as JSON.
pub const HANDLE_BYTES_MAX: usize = 8 * 1024;
/// Characters of a provider's error text that are kept in the ledger.
pub const ERROR_TEXT_CHARS_MAX: usize = 240;
/// The longest pause between two attempts to revoke.
pub const REVOKE_RETRY_MAX: Duration = Duration::from_secs(300);
/// The pause before the second attempt to revoke; it doubles from there.
pub const REVOKE_RETRY_MIN: Duration = Duration::from_secs(1);
/// Failed attempts after which a credential is stuck and the log says so as an error. Retrying goes
/// on.
pub const REVOKE_ATTEMPTS_BEFORE_STUCK: u32 = 10;
/// A credential is not stuck before revoking it was due for this long, which is more than any
/// provider asks the broker to wait.
pub const REVOKE_TIME_BEFORE_STUCK: Duration = Duration::from_secs(180);

/// Refused attempts to attest that the log shows in one minute; it counts the others.
pub const REFUSALS_LOGGED_PER_MINUTE: u64 = 10;
