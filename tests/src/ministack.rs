//! An AWS emulator that enforces IAM, and boto3 as an independent client of the issued sessions.
//!
//! The emulator does not show the packed size of session policies, the seconds that IAM takes to
//! propagate a change, and a deny by source identity.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::process::{Server, tool, workspace};

const ROOT_KEY: &str = "AKIAROOTROOTROOTROOT";
const ROOT_SECRET: &str = "root-secret";

/// The emulator with a bucket, a role that may do everything in S3, and two principals for the
/// broker.
#[derive(Debug)]
pub struct Ministack {
    _server: Server,
    address: String,
    dir: TempDir,
}

/// The three parts of an issued session.
#[derive(Debug, Clone)]
pub struct Session {
    /// The access key's id.
    pub access_key_id: String,
    /// The secret key.
    pub secret_access_key: String,
    /// The session token.
    pub session_token: String,
}

impl Session {
    /// From the data of an issued credential.
    pub fn from(credential: &Value) -> Self {
        let part = |name: &str| {
            credential["data"][name]
                .as_str()
                .expect("a part of the session")
                .to_owned()
        };
        Self {
            access_key_id: part("access_key_id"),
            secret_access_key: part("secret_access_key"),
            session_token: part("session_token"),
        }
    }
}

impl Ministack {
    /// Starts it on a free port and prepares it.
    pub fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let env = [
            ("AUTH", "true"),
            ("GATEWAY_PORT", "0"),
            ("BIND_HOST", "127.0.0.1"),
            ("SFTP_ENABLED", "0"),
            ("IOT_MTLS_ENABLED", "0"),
            ("MINISTACK_ACCOUNT_ID", "123456789012"),
            ("MINISTACK_REGION", "eu-central-1"),
            ("AWS_ACCESS_KEY_ID", ROOT_KEY),
            ("AWS_SECRET_ACCESS_KEY", ROOT_SECRET),
        ];
        let mut server = Server::start(&tool("ministack"), &[], &env, dir.path());
        let address = server.wait_for("ministack listens", |s| {
            let log = s.log();
            let (_, after) = log.split_once("Running on ")?;
            after.split_whitespace().next().map(str::to_owned)
        });
        let this = Self {
            _server: server,
            address,
            dir,
        };
        this.boto(
            &root(),
            &[
                "prepare",
                this.dir.path().to_str().expect("a path in UTF-8"),
            ],
        );
        this
    }

    /// Where it listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// `[[provider]]` for the configuration, with role `reader` of one bucket. Proofs are switched
    /// on.
    pub fn provider(&self, name: &str) -> String {
        let file = |name: &str| self.dir.path().join(name).display().to_string();
        format!(
            r#"
[[provider]]
name = "{name}"
kind = "aws"
region = "eu-central-1"
endpoint_url = "{address}"
credentials = {{ source = "file", path = "{broker}" }}
revoker = {{ credentials = {{ source = "file", path = "{revoker}" }} }}

  [[provider.role]]
  name = "reader"
  role_arn = "arn:aws:iam::123456789012:role/artifacts"
  session_policy = "{policy}"
  params = {{ bucket = {{ pattern = "[a-z0-9.-]{{3,63}}" }} }}
  max_ttl = "15m"
  impact = 0
  probe = {{ action = "s3:ListBucket", bucket = "artifacts" }}
"#,
            address = self.address,
            broker = file("aws-broker"),
            revoker = file("aws-revoker"),
            policy = workspace()
                .join("deploy/examples/policies/artifact-reader.json")
                .display(),
        )
    }

    /// The keys of the broker and of its revoker, ids included.
    pub fn secrets(&self) -> Vec<String> {
        let files = ["aws-broker", "aws-revoker"].map(|name| self.dir.path().join(name));
        let texts = files.map(|file| std::fs::read_to_string(file).expect("the keys are there"));
        let lines = texts.iter().flat_map(|text| text.lines());
        lines
            .filter_map(|line| line.split_once(" = ").map(|(_, value)| value.to_owned()))
            .collect()
    }

    /// Reads an object with a session. Returns the text or the error code.
    pub fn read(&self, session: &Session, bucket: &str, key: &str) -> Result<String, String> {
        answer(&self.boto(session, &["get", bucket, key]))
    }

    /// Writes an object with a session.
    pub fn write(&self, session: &Session, bucket: &str, key: &str) -> Result<String, String> {
        answer(&self.boto(session, &["put", bucket, key]))
    }

    /// The ids in the deny list of the role, sorted.
    pub fn denied_ids(&self) -> Vec<String> {
        let listed = self.boto(&root(), &["denied"]);
        let ids = listed["ids"].as_array().expect("a list of ids");
        ids.iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    }

    fn boto(&self, session: &Session, args: &[&str]) -> Value {
        let done = Command::new(python())
            .arg(workspace().join("tests/tools/aws.py"))
            .args(args)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.dir.path())
            .env("ENDPOINT", &self.address)
            .env("AWS_ACCESS_KEY_ID", &session.access_key_id)
            .env("AWS_SECRET_ACCESS_KEY", &session.secret_access_key)
            .env("AWS_SESSION_TOKEN", &session.session_token)
            .output()
            .expect("python starts");
        let text = String::from_utf8_lossy(&done.stdout);
        serde_json::from_str(&text).unwrap_or_else(|e| {
            panic!(
                "aws.py {args:?}: {e}: {text}{}",
                String::from_utf8_lossy(&done.stderr)
            )
        })
    }
}

fn root() -> Session {
    Session {
        access_key_id: ROOT_KEY.to_owned(),
        secret_access_key: ROOT_SECRET.to_owned(),
        session_token: String::new(),
    }
}

fn python() -> PathBuf {
    let path = workspace().join("target/tools/venv/bin/python");
    assert!(
        Path::new(&path).exists(),
        "python's packages are not installed; run `make tools`"
    );
    path
}

fn answer(value: &Value) -> Result<String, String> {
    match value["body"].as_str() {
        Some(body) => Ok(body.to_owned()),
        None => Err(value["error"]
            .as_str()
            .expect("a body or an error")
            .to_owned()),
    }
}
