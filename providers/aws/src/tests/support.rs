//! An emulated cloud in a child process, and requests to it.

use std::{
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use aws_credential_types::Credentials;
use taskpass_core::{AgentName, Clock, CredentialId, Scope, SeededEntropy, SystemClock, TaskId};
use taskpass_provider::{IssueOrder, Issued};
use tempfile::TempDir;

use crate::{
    AwsConfig, AwsProvider,
    transport::{Answer, Call, Endpoint, Transport, element, form},
};

pub(super) const ACCOUNT: &str = "000000000000";

/// A running emulator; ends with the test.
pub(super) struct Emulator {
    child: Child,
    pub(super) url: String,
    pub(super) dir: TempDir,
}

impl Drop for Emulator {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Emulator {
    /// Starts `tool` from the pinned tools; `command` gets its path and the port.
    async fn start(tool: &str, command: impl Fn(&Path, u16, &Path) -> Command) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let program: PathBuf = root.join("target/tools/bin").join(tool);
        assert!(
            program.exists(),
            "`{}` is missing: run `make tools`",
            program.display()
        );
        // If another process takes the chosen port first, the emulator exits and the next try
        // chooses another.
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
                .port();
            let dir = tempfile::tempdir().unwrap();
            let mut child = command(&program, port, dir.path())
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            loop {
                if TcpStream::connect(("127.0.0.1", port)).is_ok()
                    && child.try_wait().unwrap().is_none()
                {
                    return Self {
                        child,
                        url: format!("http://127.0.0.1:{port}"),
                        dir,
                    };
                }
                if child.try_wait().unwrap().is_some() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        panic!("`{tool}` exits at once");
    }

    /// ministack, checking credentials and policies.
    pub(super) async fn ministack() -> Self {
        Self::start("ministack", |program, port, dir| {
            let mut command = Command::new(program);
            command
                .env("AUTH", "true")
                .env("GATEWAY_PORT", port.to_string())
                .env("BIND_HOST", "127.0.0.1")
                .env("LOG_LEVEL", "WARNING")
                .env("TMPDIR", dir)
                .current_dir(dir);
            command
        })
        .await
    }

    /// moto's server.
    pub(super) async fn moto() -> Self {
        Self::start("moto_server", |program, port, dir| {
            let mut command = Command::new(program);
            command
                .args(["-H", "127.0.0.1", "-p", &port.to_string()])
                .current_dir(dir);
            command
        })
        .await
    }

    /// Sends a request signed by `credentials`.
    pub(super) async fn send(
        &self,
        service: &'static str,
        credentials: &Credentials,
        call: &Call<'_>,
    ) -> Answer {
        let endpoint = Endpoint {
            service,
            region: "us-east-1".to_owned(),
            base: self.url.clone(),
        };
        let now = SystemClock::new().now();
        Transport::new()
            .send(&endpoint, credentials, now, call, "a test")
            .await
            .unwrap()
    }

    /// An IAM call as the account's root.
    pub(super) async fn iam(&self, fields: &[(&str, &str)]) -> Answer {
        let mut all = vec![("Version", "2010-05-08")];
        all.extend_from_slice(fields);
        let root = Credentials::from_keys("test", "test", None);
        let call = Call {
            method: "POST",
            path: "/",
            body: &form(&all),
        };
        let answer = self.send("iam", &root, &call).await;
        assert_eq!(answer.status, 200, "{fields:?}: {}", answer.body);
        answer
    }

    /// A user with one inline policy; writes its key to `<name>.ini`.
    pub(super) async fn user(&self, name: &str, actions: &str) {
        self.iam(&[("Action", "CreateUser"), ("UserName", name)])
            .await;
        let policy = format!(
            r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Action":[{actions}],"Resource":"*"}}]}}"#
        );
        self.iam(&[
            ("Action", "PutUserPolicy"),
            ("UserName", name),
            ("PolicyName", "own"),
            ("PolicyDocument", &policy),
        ])
        .await;
        let key = self
            .iam(&[("Action", "CreateAccessKey"), ("UserName", name)])
            .await;
        let part = |field| element(&key.body, field).unwrap().into_owned();
        let text = format!(
            "[default]\naws_access_key_id={}\naws_secret_access_key={}\n",
            part("AccessKeyId"),
            part("SecretAccessKey")
        );
        write_secret(&self.dir.path().join(format!("{name}.ini")), &text);
    }

    /// A role that `broker` may assume, with `policy` as its permissions.
    pub(super) async fn role(&self, name: &str, policy: &str) {
        let trust = format!(
            r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Principal":{{"AWS":"arn:aws:iam::{ACCOUNT}:user/broker"}},"Action":["sts:AssumeRole","sts:TagSession","sts:SetSourceIdentity"]}}]}}"#
        );
        self.iam(&[
            ("Action", "CreateRole"),
            ("RoleName", name),
            ("AssumeRolePolicyDocument", &trust),
        ])
        .await;
        self.iam(&[
            ("Action", "PutRolePolicy"),
            ("RoleName", name),
            ("PolicyName", "own"),
            ("PolicyDocument", policy),
        ])
        .await;
    }

    /// The deny list of a role in IAM.
    pub(super) async fn deny_list(&self, role: &str) -> String {
        let answer = self
            .iam(&[
                ("Action", "GetRolePolicy"),
                ("RoleName", role),
                ("PolicyName", "taskpass-deny"),
            ])
            .await;
        let text = element(&answer.body, "PolicyDocument")
            .unwrap()
            .into_owned();
        url::form_urlencoded::parse(format!("d={text}").as_bytes())
            .next()
            .unwrap()
            .1
            .into_owned()
    }
}

pub(super) fn write_secret(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// A cloud with a broker, a revoker, a role `reader` that may do anything with S3 and EC2, and two
/// buckets.
pub(super) async fn cloud() -> Emulator {
    let cloud = Emulator::ministack().await;
    cloud
        .user(
            "broker",
            r#""sts:AssumeRole","sts:TagSession","sts:SetSourceIdentity""#,
        )
        .await;
    cloud
        .user("revoker", r#""iam:GetRolePolicy","iam:PutRolePolicy""#)
        .await;
    cloud
        .role("reader", r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:*","ec2:*"],"Resource":"*"}]}"#)
        .await;
    let root = Credentials::from_keys("test", "test", None);
    for bucket in ["logs", "other"] {
        for path in [
            format!("/{bucket}"),
            format!("/{bucket}/a.txt"),
            format!("/{bucket}/b.txt"),
        ] {
            let call = Call {
                method: "PUT",
                path: &path,
                body: "",
            };
            let answer = cloud.send("s3", &root, &call).await;
            assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        }
    }
    std::fs::write(
        cloud.dir.path().join("reader.json"),
        r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::${bucket}/${key}"}]}"#,
    )
    .unwrap();
    cloud
}

/// The configuration that fits [`cloud`].
pub(super) fn config(url: &str, revoker: bool) -> AwsConfig {
    let revoker = if revoker {
        "[revoker]\ncredentials = { source = \"file\", path = \"revoker.ini\" }\n"
    } else {
        ""
    };
    toml::from_str(&format!(
        r#"
        name = "aws-test"
        kind = "aws"
        region = "us-east-1"
        endpoint_url = "{url}"
        credentials = {{ source = "file", path = "broker.ini" }}
        {revoker}
        [[role]]
        name = "reader"
        role_arn = "arn:aws:iam::{ACCOUNT}:role/reader"
        session_policy = "reader.json"
        params = {{ bucket = {{ pattern = "[a-z*]+" }}, key = {{ pattern = ".*" }} }}
        max_ttl = "15m"
        impact = 0
        probe = {{ action = "ec2:DescribeRegions" }}
        "#
    ))
    .unwrap()
}

/// A provider against `cloud`.
pub(super) fn provider(cloud: &Emulator, revoker: bool) -> AwsProvider {
    let config = config(&cloud.url, revoker);
    AwsProvider::new(&config, cloud.dir.path(), Arc::new(SystemClock::new())).unwrap()
}

/// Makes orders with fresh ids.
pub(super) struct Orders {
    clock: SystemClock,
    entropy: SeededEntropy,
}

impl Orders {
    pub(super) fn new() -> Self {
        Self {
            clock: SystemClock::new(),
            entropy: SeededEntropy::new(7),
        }
    }

    pub(super) fn task(&self) -> TaskId {
        TaskId::generate(&self.clock, &self.entropy).unwrap()
    }

    pub(super) fn order(&self, task: TaskId, life: Duration, scope: &[(&str, &str)]) -> IssueOrder {
        let now = self.clock.now();
        let role = "aws-test/reader".parse().unwrap();
        IssueOrder {
            credential: CredentialId::generate(&self.clock, &self.entropy).unwrap(),
            task,
            agent: "b".parse::<AgentName>().unwrap(),
            task_deadline: now.plus(Duration::from_secs(3600)),
            role,
            scope: Scope::from_pairs(scope.iter().copied()).unwrap(),
            expires_at: now.plus(life),
        }
    }
}

/// The issued secret, as an agent would use it.
pub(super) fn agent(issued: &Issued) -> Credentials {
    let field = |name| issued.data.field(name).unwrap().expose().to_owned();
    Credentials::from_keys(
        field("access_key_id"),
        field("secret_access_key"),
        Some(field("session_token")),
    )
}

/// GET or PUT of an object; the status and the code.
pub(super) async fn object(
    cloud: &Emulator,
    issued: &Issued,
    method: &str,
    path: &str,
) -> (u16, String) {
    let answer = cloud
        .send(
            "s3",
            &agent(issued),
            &Call {
                method,
                path,
                body: "",
            },
        )
        .await;
    let code = answer.code().into_owned();
    (answer.status, code)
}
