use super::*;

fn names(params: &[&str]) -> BTreeSet<ParamName> {
    params.iter().map(|p| p.parse().unwrap()).collect()
}

fn scope(pairs: &[(&str, &str)]) -> Scope {
    Scope::from_pairs(pairs.iter().copied()).unwrap()
}

fn deadline() -> Timestamp {
    "2026-11-22T10:00:00.700Z".parse().unwrap()
}

const TEMPLATE: &str = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"s3:GetObject",
    "Resource":["arn:aws:s3:::${bucket}/home/${aws:userid}/*","arn:aws:s3:::x-${bucket}-${tier}${?}"]}}"#;

#[test]
fn parameters_fill_values_and_iam_keeps_its_own() {
    let template = Template::parse(TEMPLATE, &names(&["bucket", "tier"])).unwrap();
    let text = template
        .render(&scope(&[("bucket", "a\"b"), ("tier", "t")]), deadline())
        .unwrap();
    let policy: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        policy["Statement"][0]["Resource"],
        json!([
            "arn:aws:s3:::a\"b/home/${aws:userid}/*",
            "arn:aws:s3:::x-a\"b-t${?}"
        ])
    );
    assert_eq!(
        policy["Statement"][1]["Condition"]["DateGreaterThanEquals"]["aws:CurrentTime"],
        "2026-11-22T10:00:00Z"
    );
    assert_eq!(policy["Statement"][2]["Action"], "sts:Assume*");
    assert_eq!(policy["Statement"][2]["Effect"], "Deny");
}

#[test]
fn values_that_iam_would_interpret_are_refused() {
    let template = Template::parse(TEMPLATE, &names(&["bucket", "tier"])).unwrap();
    for bad in ["*", "a?", "$", "${aws:username}", "{", "}", "\u{85}"] {
        // Scopes refuse control characters too; this is the second line of defence.
        let Ok(scope) = Scope::from_pairs([("bucket", bad), ("tier", "t")]) else {
            continue;
        };
        assert!(
            matches!(
                template.render(&scope, deadline()),
                Err(RenderError::Value(_))
            ),
            "{bad}"
        );
    }
    assert_eq!(
        template.render(&scope(&[("bucket", "a")]), deadline()),
        Err(RenderError::Missing("tier".parse().unwrap()))
    );
}

#[test]
fn a_policy_that_is_too_large_is_refused_with_its_size_and_never_cut() {
    let text = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:*","Resource":["${a}","${b}","${c}","${d}"]}]}"#;
    let template = Template::parse(text, &names(&["a", "b", "c", "d"])).unwrap();
    let of = |n: usize| {
        let last = "x".repeat(n);
        let full = "x".repeat(500);
        let pairs = [
            ("a", full.as_str()),
            ("b", &full),
            ("c", &full),
            ("d", &last),
        ];
        template.render(&scope(&pairs), deadline())
    };
    let room = SESSION_POLICY_CHARACTERS_MAX - of(0).unwrap().len();
    assert_eq!(of(room).unwrap().len(), SESSION_POLICY_CHARACTERS_MAX);
    assert_eq!(
        of(room + 1),
        Err(RenderError::TooLarge(SESSION_POLICY_CHARACTERS_MAX + 1))
    );
}

#[test]
fn templates_that_cannot_be_narrowed_are_refused() {
    let statement = |inner: &str| format!(r#"{{"Version":"2012-10-17","Statement":[{inner}]}}"#);
    let good = r#"{"Effect":"Allow","Action":"a","Resource":"${p}"}"#;
    assert!(Template::parse(&statement(good), &names(&["p"])).is_ok());
    for (text, params, why) in [
        ("nonsense".to_owned(), &[][..], "not JSON"),
        (
            statement(good).replace("2012-10-17", "2008-10-17"),
            &["p"],
            "Version",
        ),
        (statement(""), &[], "Statement"),
        (statement(good), &[], "`${p}`"),
        (statement(good), &["p", "q"], "`q` is not used"),
        (
            statement(r#"{"Effect":"${p}","Action":"a","Resource":"b"}"#),
            &["p"],
            "Effect",
        ),
        (
            statement(r#"{"Sid":"${p}","Effect":"Allow","Action":"a","Resource":"b"}"#),
            &["p"],
            "Sid",
        ),
        (
            statement(r#"{"Effect":"Allow","Action":"a"}"#),
            &[],
            "Resource",
        ),
        (
            statement(r#"{"Effect":"Allow","Principal":"*","Action":"a","Resource":"b"}"#),
            &[],
            "Principal",
        ),
        (
            statement(
                r#"{"Effect":"Allow","Action":"a","Resource":"b","Condition":{"StringEquals":{"${p}":"x"}}}"#,
            ),
            &["p"],
            "in a key",
        ),
    ] {
        let refusal = Template::parse(&text, &names(params)).unwrap_err();
        assert!(refusal.contains(why), "{text}: {refusal}");
    }
}

#[test]
fn pieces_put_together_are_the_text() {
    for text in [
        "",
        "a",
        "${a}",
        "x${a}${b}y",
        "${a:b}${a}",
        "${",
        "${a",
        "$${a}",
        "}${a}{",
        "é${a}é",
    ] {
        let again: String = pieces(text)
            .map(|p| match p {
                Piece::Text(t) => t.to_owned(),
                Piece::Param(p) => format!("${{{p}}}"),
            })
            .collect();
        assert_eq!(again, text);
    }
}
