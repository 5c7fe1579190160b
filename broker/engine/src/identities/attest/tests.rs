use serde_json::{Value, json};
use taskpass_core::{EvidenceKind, Ttl};
use taskpass_store::Entry;

use super::*;
use crate::{
    CreateJoinToken, CreatedJoinToken, Requests, Settings,
    testing::{Bench, NOW},
};

/// A new join token for the agent `builder`.
async fn join_token(bench: &Bench) -> CreatedJoinToken {
    let request = CreateJoinToken {
        agent: "builder".parse().unwrap(),
        ttl: Some(Ttl::from_seconds(60).unwrap()),
    };
    let made = bench
        .engine
        .create_join_token(&bench.operator, None, &request);
    made.await.unwrap()
}

fn shown(token: &CreatedJoinToken) -> Evidence {
    Evidence::JoinToken(JoinTokenText::parse(token.text.expose()).unwrap())
}

fn attest(evidence: Evidence, csr: &[u8]) -> Attest<'_> {
    Attest {
        evidence,
        csr,
        in_place_of: None,
        ip: None,
    }
}

/// With an authority that signs.
async fn bench(settings: Settings) -> Bench {
    let bench = Bench::new(&["a"], settings).await;
    bench.engine.rotate_authority().await.unwrap();
    bench
}

fn csr() -> Vec<u8> {
    taskpass_ca::NewKey::generate().unwrap().csr_der().unwrap()
}

/// The event of the newest ledger entry, in the words of the ledger.
fn newest_event(bench: &Bench) -> Value {
    let reader = &bench.engine.context.ledger;
    let bytes = reader.entry(reader.size() - 1).unwrap();
    let entry = Entry::parse(&bytes).unwrap();
    serde_json::to_value(&entry.event).unwrap()
}

/// A caller learns the agent of a token only from a refusal that is on record.
#[tokio::test]
async fn an_attestation_that_cannot_be_recorded_is_not_answered() {
    let bench = bench(Settings::default()).await;
    let evidence = shown(&join_token(&bench).await);
    let csr = csr();
    let attest = Attest {
        in_place_of: Some("spiffe://acme.test/agent/tester".parse().unwrap()),
        ..attest(evidence, &csr)
    };
    let whose = async || bench.engine.attest(&attest).await.unwrap_err().message();
    let told = whose().await;
    assert!(told.contains("agent/builder"), "{told}");
    // A repeat within the minute is on record already.
    bench.clock.advance(taskpass_core::limits::FOLD_WINDOW);
    bench.store.close().await.unwrap();
    let told = whose().await;
    assert!(!told.contains("builder"), "{told}");
}

#[tokio::test]
async fn the_ledger_names_the_evidence_and_its_issuer() {
    let bench = bench(Settings::default()).await;
    let made = join_token(&bench).await;
    let (id, secret) = (made.token.id, made.text.expose().split('.').nth(2).unwrap());
    bench
        .engine
        .attest(&attest(shown(&made), &csr()))
        .await
        .unwrap();
    let event = newest_event(&bench);
    assert_eq!(event["type"], "svid_issued");
    assert_eq!(event["join_token"], json!(id));
    assert_eq!(
        event["evidence"],
        json!({
            "kind": "join_token",
            "issuer": "spiffe://acme.test/operator/admin",
            "subject": id,
        })
    );
    assert!(!event.to_string().contains(secret));
}

/// An SVID that follows from another SVID rests on no new evidence.
#[tokio::test]
async fn a_renewal_names_no_evidence() {
    let bench = bench(Settings::default()).await;
    let key = PublicKey::from_csr(&csr()).unwrap();
    bench.engine.renew_svid(&bench.agent, &key).await.unwrap();
    let event = newest_event(&bench);
    assert_eq!(event["type"], "svid_issued");
    assert_eq!(event.get("evidence"), None);
    assert_eq!(event.get("join_token"), None);
}

#[tokio::test]
async fn evidence_without_an_attestor_is_a_mistake_in_the_request() {
    let mut bench = bench(Settings::default()).await;
    let evidence = shown(&join_token(&bench).await);
    let engine = Arc::get_mut(&mut bench.engine).unwrap();
    engine.context.attestors = Attestors::default();
    let before = bench.store.size();
    let error = bench
        .engine
        .attest(&attest(evidence, &csr()))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, Error::Invalid { field: Field::Evidence, message } if message.contains("join token")),
        "{error}"
    );
    assert_eq!(bench.store.size(), before);
}

/// Each attestor knows its own kind, and evidence is named without its secret.
#[tokio::test]
async fn an_attestor_is_found_by_its_kind() {
    let bench = bench(Settings::default()).await;
    let made = join_token(&bench).await;
    let evidence = shown(&made);
    let attestor = bench
        .engine
        .context
        .attestors
        .of(EvidenceKind::JoinToken)
        .unwrap();
    assert_eq!(attestor.kind(), evidence.kind());
    assert_eq!(
        attestor.verify(&evidence, NOW).await.unwrap(),
        Claims {
            agent: "builder".parse().unwrap(),
            issuer: "spiffe://acme.test/operator/admin".to_owned(),
            subject: made.token.id.to_string(),
            uses_up: Some(made.token.id),
        }
    );
    assert!(matches!(
        attestor.verify(&evidence, made.token.expires_at).await,
        Err(Refusal::NotGood)
    ));
    assert_eq!(
        evidence.to_string(),
        format!("join token `{}`", made.token.id)
    );
}

/// An attestor with a fixed answer, which ignores the evidence.
#[derive(Debug)]
struct Stub(fn() -> Result<Claims, Refusal>);

#[async_trait::async_trait]
impl Attestor for Stub {
    fn kind(&self) -> EvidenceKind {
        EvidenceKind::JoinToken
    }

    fn refusal(&self) -> &'static str {
        "the stub refuses"
    }

    async fn verify(&self, _: &Evidence, _: Timestamp) -> Result<Claims, Refusal> {
        (self.0)()
    }
}

fn claims_for(agent: &str) -> Claims {
    Claims {
        agent: agent.parse().unwrap(),
        issuer: "a test".to_owned(),
        subject: "a stub".to_owned(),
        uses_up: None,
    }
}

/// The broker refuses bad evidence and evidence for an unregistered agent alike, in the attestor's
/// words. A failure of the attestor stays a failure.
#[tokio::test]
async fn claims_become_a_registered_agent_or_a_refusal() {
    let mut bench = bench(Settings::default()).await;
    let made = join_token(&bench).await;
    let mut answers = Vec::new();
    let stubs: [fn() -> Result<Claims, Refusal>; 4] = [
        || Err(Refusal::NotGood),
        || Ok(claims_for("stranger")),
        || Err(Refusal::Failed(Error::DiskFull)),
        || Ok(claims_for("builder")),
    ];
    for stub in stubs {
        let engine = Arc::get_mut(&mut bench.engine).unwrap();
        engine.context.attestors = Attestors::new(vec![Arc::new(Stub(stub))]);
        let csr = csr();
        let request = attest(shown(&made), &csr);
        answers.push(bench.engine.attest(&request).await);
    }
    let [bad, unknown, failed, good] = &answers[..] else {
        unreachable!()
    };
    for refused in [bad, unknown] {
        assert!(
            matches!(refused, Err(Error::Unauthenticated(text)) if text == "the stub refuses"),
            "{refused:?}"
        );
    }
    assert!(matches!(failed, Err(Error::DiskFull)), "{failed:?}");
    let id = &good.as_ref().unwrap().id;
    assert_eq!(id.as_str(), "spiffe://acme.test/agent/builder");
    let event = newest_event(&bench);
    assert_eq!(event.get("join_token"), None);
    assert_eq!(event["evidence"]["issuer"], "a test");
}

/// Only of evidence that counts once is it said that it still counts.
#[tokio::test]
async fn a_refused_login_says_whether_the_evidence_still_counts() {
    let mut bench = bench(Settings::default()).await;
    let (csr, made) = (csr(), join_token(&bench).await);
    let in_place_of = || Attest {
        in_place_of: Some("spiffe://acme.test/agent/tester".parse().unwrap()),
        ..attest(shown(&made), &csr)
    };
    let refused = bench.engine.attest(&in_place_of()).await.unwrap_err();
    let said = refused.message();
    assert!(said.ends_with("; the join token still counts"), "{said}");
    let engine = Arc::get_mut(&mut bench.engine).unwrap();
    let stub = Stub(|| Ok(claims_for("builder")));
    engine.context.attestors = Attestors::new(vec![Arc::new(stub)]);
    let refused = bench.engine.attest(&in_place_of()).await.unwrap_err();
    let said = refused.message();
    assert!(
        said.ends_with("`spiffe://acme.test/agent/tester`"),
        "{said}"
    );
}

/// Callers that guess share one limit, and good evidence passes beside it.
#[tokio::test]
async fn only_refused_evidence_counts_against_the_shared_limit() {
    let settings = Settings {
        requests: Requests {
            attestations_per_second: 1,
            attestations_burst: 1,
            ..Requests::default()
        },
        ..Settings::default()
    };
    let bench = bench(settings).await;
    let (csr, made) = (csr(), join_token(&bench).await);
    let wrong = || {
        let text = format!("tp1.{}.AAAA.AAAA", made.token.id);
        attest(
            Evidence::JoinToken(JoinTokenText::parse(&text).unwrap()),
            &csr,
        )
    };
    let first = bench.engine.attest(&wrong()).await.unwrap_err();
    assert!(matches!(first, Error::Unauthenticated(_)), "{first}");
    let second = bench.engine.attest(&wrong()).await.unwrap_err();
    assert!(matches!(second, Error::Exhausted { .. }), "{second}");
    let good = attest(shown(&made), &csr);
    bench.engine.attest(&good).await.unwrap();
}
