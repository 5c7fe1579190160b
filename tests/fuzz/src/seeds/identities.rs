//! Seeds of certificates, certificate requests, identity directories and join tokens.

use crate::{der, fixtures, input::joined, targets::csr, world};

use super::{Seeds, choosing, numbered};

const JOIN_TOKENS: [&str; 5] = [
    "tp1.j0123456789abcdef.QWFCYkNjRGRFZUZmR2dIaA.BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc",
    " tp1.j0123456789abcdef.AAAA.BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc\n",
    "tp2.j0123456789abcdef.QWFCYkNjRGRFZUZmR2dIaA.AAAA",
    "tp1.t0123456789abcdef.QWFCYkNjRGRFZUZmR2dIaA.AAAA",
    "tp1.j0123456789abcdef.QWFC*YkNjRGRFZUZmR2dIaA.AAAA.x",
];

pub(super) fn all() -> Vec<(&'static str, Seeds)> {
    vec![
        ("csr", requests()),
        ("certificate_chain", chains()),
        ("identity_directory", directories()),
        ("join_token", numbered(JOIN_TOKENS)),
    ]
}

fn requests() -> Seeds {
    let ed25519 = world::request();
    let p256 = taskpass_ca::NewKey::generate().and_then(|key| key.csr_der());
    let p256 = p256.expect("a request");
    vec![
        choosing(0, "ed25519", &ed25519),
        choosing(0, "ed25519-pem", der::pem("CERTIFICATE REQUEST", &ed25519)),
        choosing(0, "p256", &p256),
        choosing(1, "signed-here", der::signed_part(&ed25519)),
        // A valid signature, but by another key than the one in the request.
        choosing(0, "resigned", csr::sign(der::signed_part(&p256))),
    ]
}

fn chains() -> Seeds {
    let fixed = fixtures::authorities();
    let whole = joined(&[&fixed.leaf, &fixed.issuing, &fixed.root]);
    let signed_here = joined(&[der::signed_part(&fixed.leaf)]);
    let authority = joined(&[der::signed_part(&fixed.issuing)]);
    vec![
        choosing(0, "to-issuer", &whole),
        choosing(2, "to-root", &whole),
        choosing(6, "server", &whole),
        choosing(1, "signed-here", &signed_here),
        choosing(3, "signed-here-to-root", &signed_here),
        choosing(0, "authority-as-leaf", joined(&[&fixed.issuing])),
        choosing(1, "authority-signed-here", authority),
        choosing(0, "empty", joined::<&[u8]>(&[])),
    ]
}

fn directories() -> Seeds {
    let fixed = fixtures::authorities();
    let pem = |der: &[u8]| der::pem("CERTIFICATE", der);
    let chain = pem(&fixed.leaf) + &pem(&fixed.issuing);
    let history = fixtures::history();
    let (root, vkey) = (pem(&fixed.root), history.key.to_string());
    let torn: String = history.checkpoint.note().chars().take(40).collect();
    let damaged = pem(&fixed.leaf).replace("BEGIN", "begin");
    numbered([
        joined(&[&chain, &root]),
        joined(&[&chain, &root, &vkey]),
        joined(&[&chain, &root, &vkey, &chain]),
        joined(&[&root, &root, &vkey, &root]),
        joined(&[&damaged, &root]),
        joined(&[
            &chain,
            &root,
            &vkey,
            &chain,
            &history.checkpoint.note().to_owned(),
        ]),
        joined(&[&chain, &root, &vkey, &chain, &torn]),
    ])
}
