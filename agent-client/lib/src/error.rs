//! The failures between a program and the broker, in words for people.
//!
//! A refusal by the broker is a [`Refusal`]: its stable reason, the wrong fields, and how long to
//! wait. No variant carries a secret.

use std::{collections::HashMap, error::Error as StdError, io, path::PathBuf, time::Duration};

use taskpass_core::{CredentialId, EntropyError, InvalidValue, TaskId};
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// The domain of the reasons that the broker itself gives (`google.rpc.ErrorInfo`).
const ERROR_DOMAIN: &str = "taskpass";
/// Where the broker puts the id of a request: in the metadata of its `ErrorInfo`,
const REQUEST_ID: &str = "request_id";
/// and in this header of every response.
const REQUEST_ID_HEADER: &str = "x-request-id";
/// The reasons of the library itself, beside the broker's reasons.
const LEDGER_KEY_CHANGED: &str = "LEDGER_KEY_CHANGED";
const LEDGER_REWRITTEN: &str = "LEDGER_REWRITTEN";
/// Bytes of a request id. The broker's own are half as long.
const REQUEST_ID_BYTES_MAX: usize = 64;

/// Why a call, or the work around it, failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no connection, or it broke.
    #[error("cannot reach the broker at `{addr}`; is it running, and is the address right?")]
    Unreachable {
        /// The address.
        addr: String,
        /// The failure of the network.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The broker did not answer before the deadline of the call.
    #[error("the broker at `{addr}` did not answer within {seconds} s")]
    Timeout {
        /// The address.
        addr: String,
        /// The deadline.
        seconds: u64,
    },
    /// The server did not prove to be the broker.
    #[error(
        "the server at `{addr}` is not the broker this identity trusts: {why}; either another server answers there, or the broker's root was replaced while this identity was not used, and then a new login helps"
    )]
    Untrusted {
        /// The address.
        addr: String,
        /// The rule that its certificate breaks.
        why: String,
    },
    /// The broker ended the TLS handshake because of our certificate.
    #[error("the broker at `{addr}` does not accept this identity ({alert}); log in again")]
    Rejected {
        /// The address.
        addr: String,
        /// The TLS alert.
        alert: String,
    },
    /// The broker refused the request.
    #[error(transparent)]
    Refused(Box<Refusal>),
    /// A value cannot be right. Nothing was sent.
    #[error(transparent)]
    Invalid(#[from] InvalidValue),
    /// There is no identity to connect with.
    #[error("`{}` has no identity; log in first", dir.display())]
    NoIdentity {
        /// The identity directory.
        dir: PathBuf,
    },
    /// The identity directory holds another identity, which would be lost. The join token still
    /// counts.
    #[error(
        "`{}` holds the identity `{holder}`, and the join token is for another one; nothing was changed, and the token still counts",
        dir.display()
    )]
    OtherIdentity {
        /// The identity directory.
        dir: PathBuf,
        /// The SPIFFE ID of that identity.
        holder: String,
    },
    /// The identity directory holds an identity of another installation, which would be lost. The
    /// join token still counts.
    #[error(
        "`{}` holds the identity `{holder}` of another installation: the join token names another root certificate; nothing was changed, and the token still counts",
        dir.display()
    )]
    OtherInstallation {
        /// The identity directory.
        dir: PathBuf,
        /// The SPIFFE ID of that identity.
        holder: String,
    },
    /// The broker shows another ledger key than the pinned one. Nothing was stored.
    #[error(
        "the ledger's key changed: the broker shows `{shown}`, and `{}` has pinned `{pinned}`; the history may have been replaced, and nothing was stored",
        dir.display()
    )]
    LedgerKeyChanged {
        /// The identity directory.
        dir: PathBuf,
        /// The key that was pinned at login.
        pinned: String,
        /// The key that the broker shows.
        shown: String,
    },
    /// The broker's ledger does not continue the newest checkpoint that was seen. Nothing was
    /// stored.
    #[error(
        "the ledger was rewritten: it does not continue the checkpoint of {size} entries that `{}` keeps ({why}); nothing was stored",
        dir.display()
    )]
    LedgerRewritten {
        /// The identity directory.
        dir: PathBuf,
        /// How many entries the kept checkpoint has.
        size: u64,
        /// How the broker's ledger differs.
        why: String,
    },
    /// A file of the identity directory cannot be used.
    #[error("`{}` cannot be used: {why}", path.display())]
    IdentityFile {
        /// The file.
        path: PathBuf,
        /// The mistake, and how to mend it.
        why: String,
    },
    /// The SVID has expired, so only a new login helps.
    #[error("the identity `{spiffe_id}` expired at {expired_at}; log in again")]
    IdentityExpired {
        /// Its SPIFFE ID.
        spiffe_id: String,
        /// Its end.
        expired_at: taskpass_core::Timestamp,
    },
    /// Reading or writing a file failed.
    #[error("cannot {action} `{}`", path.display())]
    File {
        /// The verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The broker's reply breaks the protocol.
    #[error("the broker sent a reply that cannot be used: {0}")]
    Reply(String),
    /// A key, a certificate or the TLS configuration on this side cannot be used.
    #[error("cannot prepare the key or the TLS configuration: {0}")]
    Crypto(String),
    /// The system gave no randomness.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
    /// The credential has expired and could not be refreshed in time.
    #[error(
        "credential `{id}` expired and could not be refreshed; its secret is not returned any more"
    )]
    CredentialExpired {
        /// Which one.
        id: CredentialId,
        /// Why refreshing failed, when it was tried.
        #[source]
        source: Option<Box<Error>>,
    },
    /// The task is over.
    #[error("task `{task}` has ended ({why}); start another one")]
    TaskEnded {
        /// Which one.
        task: TaskId,
        /// As far as known, why.
        why: String,
    },
}

/// A refusal as the broker worded it (`google.rpc.Status`).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The gRPC code.
    pub code: Code,
    /// One line for people.
    pub message: String,
    /// The stable reason, upper case; empty when the answer did not come from the broker itself.
    pub reason: String,
    /// Values that belong to the reason, such as `credential_id`.
    pub metadata: HashMap<String, String>,
    /// The wrong fields of the request, each with its mistake.
    pub violations: Vec<(String, String)>,
    /// How long to wait before trying again.
    pub retry_after: Option<Duration>,
    /// The id of the request, which the broker's log has on each line about it.
    pub request_id: Option<String>,
}

impl Error {
    /// Reads the status of a failed call to `addr`.
    pub(crate) fn from_status(addr: &str, status: Status) -> Self {
        if let Some(failure) = status.source().and_then(|s| from_transport(addr, s)) {
            return failure;
        }
        let refusal = Refusal::from(status);
        if refusal.code == Code::Unavailable && refusal.reason.is_empty() {
            return Self::Unreachable {
                addr: addr.to_owned(),
                source: Box::new(refusal),
            };
        }
        Self::Refused(Box::new(refusal))
    }

    /// Reads a failure to connect to `addr`.
    pub(crate) fn from_connect(addr: &str, failure: tonic::transport::Error) -> Self {
        from_transport(addr, &failure).unwrap_or_else(|| Self::Unreachable {
            addr: addr.to_owned(),
            source: Box::new(failure),
        })
    }

    /// The broker's refusal, when this is one.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            Self::CredentialExpired {
                source: Some(source),
                ..
            } => source.refusal(),
            _ => None,
        }
    }

    /// The stable reason: the broker's, when it gave one, or this library's own for a ledger that
    /// is not the one it knows.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::LedgerKeyChanged { .. } => Some(LEDGER_KEY_CHANGED),
            Self::LedgerRewritten { .. } => Some(LEDGER_REWRITTEN),
            _ => self
                .refusal()
                .map(|r| r.reason.as_str())
                .filter(|reason| !reason.is_empty()),
        }
    }

    /// Whether the broker shows another history than the one this client knows. Only a person can
    /// decide then, so the same call never works later by itself.
    pub const fn is_other_ledger(&self) -> bool {
        matches!(
            self,
            Self::LedgerKeyChanged { .. } | Self::LedgerRewritten { .. }
        )
    }

    /// The id by which an operator finds the refused request in the broker's log, when the broker
    /// gave one.
    pub fn request_id(&self) -> Option<&str> {
        self.refusal().and_then(|r| r.request_id.as_deref())
    }

    /// Whether the broker was out of reach or not ready, so that the same call may work later.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Timeout { .. } => true,
            Self::Refused(refusal) => refusal.code == Code::Unavailable,
            _ => false,
        }
    }

    /// Whether the broker denied the request to this caller.
    pub fn is_denied(&self) -> bool {
        self.refusal()
            .is_some_and(|r| r.code == Code::PermissionDenied)
    }

    /// Whether the broker does not know this certificate (any more).
    pub(crate) fn is_unknown_identity(&self) -> bool {
        match self {
            Self::Rejected { .. } => true,
            Self::Refused(refusal) => refusal.code == Code::Unauthenticated,
            _ => false,
        }
    }

    /// How long the broker asks to wait; `None` when repeating the call is of no use.
    pub(crate) fn retry_hint(&self) -> Option<Option<Duration>> {
        match self {
            Self::Unreachable { .. } | Self::Timeout { .. } => Some(None),
            Self::Refused(r) if r.code == Code::Unavailable => Some(r.retry_after),
            Self::Refused(r) if r.code == Code::ResourceExhausted => r.retry_after.map(Some),
            _ => None,
        }
    }
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let info = details
            .error_info()
            .filter(|info| info.domain == ERROR_DOMAIN);
        let request_id = info
            .and_then(|info| info.metadata.get(REQUEST_ID).map(String::as_str))
            .or_else(|| status.metadata().get(REQUEST_ID_HEADER)?.to_str().ok())
            .filter(|id| is_request_id(id));
        let violations = details
            .bad_request()
            .map(|b| b.field_violations.as_slice())
            .unwrap_or_default();
        Self {
            code: status.code(),
            message: one_line(status.message(), status.code()),
            reason: info.map(|i| i.reason.clone()).unwrap_or_default(),
            metadata: info.map(|i| i.metadata.clone()).unwrap_or_default(),
            violations: violations
                .iter()
                .map(|v| (v.field.clone(), v.description.clone()))
                .collect(),
            retry_after: details.retry_info().and_then(|r| r.retry_delay),
            request_id: request_id.map(str::to_owned),
        }
    }
}

/// Whether a text can be the id of a request. It goes to a terminal, and may come from a server
/// that is no broker.
fn is_request_id(text: &str) -> bool {
    (1..=REQUEST_ID_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The failure below the transport error, which says more than "transport error".
fn from_transport(addr: &str, failure: &(dyn StdError + 'static)) -> Option<Error> {
    let mut texts = Vec::new();
    let mut next = Some(failure);
    while let Some(error) = next {
        match error.downcast_ref::<Error>() {
            Some(Error::Untrusted { addr, why }) => {
                return Some(Error::Untrusted {
                    addr: addr.clone(),
                    why: why.clone(),
                });
            }
            Some(Error::Timeout { addr, seconds }) => {
                return Some(Error::Timeout {
                    addr: addr.clone(),
                    seconds: *seconds,
                });
            }
            _ => {}
        }
        texts.push(error.to_string());
        next = error.source();
    }
    // In TLS 1.3 a client learns after its handshake that its certificate was refused. h2 keeps no
    // source of that failure, so the alert is only found in a text.
    let alert = texts
        .iter()
        .find_map(|t| t.split_once("received fatal alert: "))
        .map(|(_, alert)| alert.to_owned())
        .filter(|alert| is_about_the_certificate(alert));
    if let Some(alert) = alert {
        return Some(Error::Rejected {
            addr: addr.to_owned(),
            alert,
        });
    }
    let innermost = texts.pop()?;
    Some(Error::Unreachable {
        addr: addr.to_owned(),
        source: innermost.into(),
    })
}

/// Whether an alert, as rustls spells it, refuses the client's certificate (RFC 8446, 6.2). After
/// any other alert the same identity may be accepted later.
fn is_about_the_certificate(alert: &str) -> bool {
    const REFUSALS: [&str; 9] = [
        "BadCertificate",
        "UnsupportedCertificate",
        "CertificateRevoked",
        "CertificateExpired",
        "CertificateUnknown",
        "CertificateRequired",
        "UnknownCA",
        "AccessDenied",
        "DecryptError",
    ];
    REFUSALS.iter().any(|refusal| alert.starts_with(refusal))
}

/// A message that fits on one line and is never empty.
fn one_line(message: &str, code: Code) -> String {
    if message.is_empty() {
        return format!("the broker refused without a message ({code:?})");
    }
    message
        .chars()
        .map(|c| if taskpass_core::is_hidden(c) { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use rustls::AlertDescription;
    use tonic_types::ErrorDetails;

    use super::*;

    fn read(alert: AlertDescription) -> Error {
        let failure = std::io::Error::other(rustls::Error::AlertReceived(alert));
        from_transport("broker:9443", &failure).unwrap()
    }

    #[test]
    fn a_refusal_has_the_id_of_its_request() {
        let id = |status: Status| {
            let error = Error::from_status("broker:9443", status);
            error.request_id().map(str::to_owned)
        };
        let info = |domain: &str, id: &str| {
            let metadata: HashMap<_, _> = [(REQUEST_ID.to_owned(), id.to_owned())].into();
            let details = ErrorDetails::with_error_info("DENIED", domain, metadata);
            Status::with_error_details(Code::PermissionDenied, "no", details)
        };
        let header = |mut status: Status, id: &'static str| {
            let id = tonic::metadata::MetadataValue::from_static(id);
            status.metadata_mut().insert(REQUEST_ID_HEADER, id);
            status
        };
        assert_eq!(id(info(ERROR_DOMAIN, "1b-2")).as_deref(), Some("1b-2"));
        let both = header(info(ERROR_DOMAIN, "1b-2"), "1b-3");
        assert_eq!(id(both).as_deref(), Some("1b-2"));
        // What refuses a request before the API does, such as a limit of the transport, sends no
        // details.
        let bare = header(Status::resource_exhausted("too many"), "1b-4");
        assert_eq!(id(bare).as_deref(), Some("1b-4"));
        let long = "x".repeat(REQUEST_ID_BYTES_MAX + 1);
        for no in [
            Status::permission_denied("no"),
            info("elsewhere", "1b-2"),
            info(ERROR_DOMAIN, ""),
            info(ERROR_DOMAIN, "two words\n"),
            info(ERROR_DOMAIN, &long),
        ] {
            assert_eq!(id(no), None);
        }
    }

    #[test]
    fn only_an_alert_about_the_certificate_refuses_the_identity() {
        use AlertDescription as Alert;
        for alert in [
            Alert::BadCertificate,
            Alert::CertificateExpired,
            Alert::CertificateUnknown,
            Alert::CertificateRequired,
            Alert::UnknownCA,
            Alert::AccessDenied,
        ] {
            assert!(read(alert).is_unknown_identity(), "{alert:?}");
        }
        for alert in [
            Alert::InternalError,
            Alert::HandshakeFailure,
            Alert::ProtocolVersion,
            Alert::DecodeError,
        ] {
            let error = read(alert);
            assert!(error.is_unavailable(), "{alert:?}");
            assert!(!error.is_unknown_identity(), "{alert:?}");
        }
    }
}
