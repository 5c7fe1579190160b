//! Three OpenBao servers that share one storage, of which one can be cut off from what the others
//! write, and goes on answering reads with what it knew. The end-to-end tests use this file too.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::Instant;

use super::server::{Bao, Proxy, REQUEST_MAX, Weather, program};

/// The standbys of a cluster, of which one can be cut off.
pub(crate) struct Cluster {
    pub(crate) standby: Bao,
    _voter: Bao,
    /// The link through which the active server sends its writes to the standby.
    replication: Proxy,
    _dir: tempfile::TempDir,
}

/// The ports of one server.
struct Ports {
    api: u16,
    cluster: u16,
    /// Where the others reach it.
    advertised: u16,
}

impl Cluster {
    /// A cluster, and its active server.
    pub(crate) async fn start() -> (Self, Bao) {
        drop(rustls::crypto::ring::default_provider().install_default());
        let dir = tempfile::tempdir().unwrap();
        // A server must know its addresses beforehand, so the free ports are chosen here.
        let [a, b, c, d, e, f] = [(); 6].map(|()| reserved_port());
        let replication = Proxy::start(f).await;
        let ports = [(a, d, d), (b, e, e), (c, f, replication.port)];
        let [active, voter, standby] = ports.map(|(api, cluster, advertised)| {
            let ports = Ports {
                api,
                cluster,
                advertised,
            };
            launch(dir.path(), &ports)
        });
        let secrets = json!({"secret_shares": 1, "secret_threshold": 1});
        let made = patiently(&active, "PUT", "sys/init", secrets).await;
        let key = json!({ "key": made["keys"][0] });
        let mut servers = [active, voter, standby];
        for (n, server) in servers.iter_mut().enumerate() {
            server.token = made["root_token"].as_str().unwrap().to_owned();
            if n > 0 {
                let join = json!({
                    "leader_api_addr": format!("http://127.0.0.1:{a}"),
                    // It must not ask for an election when it hears nothing.
                    "non_voter": n == 2,
                });
                patiently(server, "POST", "sys/storage/raft/join", join).await;
            }
            patiently(server, "PUT", "sys/unseal", key.clone()).await;
            // A standby answers this once it has joined and has caught up.
            patiently(server, "GET", "auth/token/lookup-self", Value::Null).await;
        }
        let [active, voter, standby] = servers;
        patiently(
            &active,
            "POST",
            "sys/mounts/secret",
            json!({"type": "kv", "options": {"version": "2"}}),
        )
        .await;
        let cluster = Self {
            standby,
            _voter: voter,
            replication,
            _dir: dir,
        };
        (cluster, active)
    }

    /// From now on the standby learns nothing new.
    pub(crate) fn cut_off(&self) {
        self.replication.set(Weather::Down);
    }

    /// The standby hears of everything again.
    pub(crate) fn heal(&self) {
        self.replication.set(Weather::Fair);
    }

    /// Waits until the standby knows all that the active server knows now.
    pub(crate) async fn caught_up(&self, active: &Bao) {
        let created = patiently(active, "POST", "auth/token/create-orphan", json!({})).await;
        let mark = json!({ "accessor": created["auth"]["accessor"] });
        patiently(&self.standby, "POST", "auth/token/lookup-accessor", mark).await;
    }
}

/// A free port that the kernel gives to no other test for the next minute. One end of a connection
/// waits on it (`TIME_WAIT`), which keeps it from a socket that asks for any port; a server that names
/// the port and reuses addresses, as programs in Go do, may listen on it.
fn reserved_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let client = TcpStream::connect(address).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    // The end that closes first is the end that waits.
    drop(accepted);
    drop(client);
    address.port()
}

fn launch(dir: &Path, ports: &Ports) -> Bao {
    let Ports {
        api,
        cluster,
        advertised,
    } = ports;
    let data = dir.join(api.to_string());
    fs::create_dir(&data).unwrap();
    let config = dir.join(format!("{api}.hcl"));
    let text = format!(
        r#"
storage "raft" {{
  path = "{data}"
  node_id = "{api}"
  performance_multiplier = 1
}}
listener "tcp" {{
  address = "127.0.0.1:{api}"
  cluster_address = "127.0.0.1:{cluster}"
  tls_disable = true
}}
api_addr = "http://127.0.0.1:{api}"
cluster_addr = "https://127.0.0.1:{advertised}"
default_max_request_duration = "{REQUEST_MAX}"
"#,
        data = data.display()
    );
    fs::write(&config, text).unwrap();
    let child = Command::new(program())
        .args(["server", "-log-level=error"])
        .arg(format!("-config={}", config.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Bao::running(child, *api)
}

/// Repeats a call until the server carries it out.
async fn patiently(bao: &Bao, method: &str, path: &str, body: Value) -> Value {
    let give_up = Instant::now() + Duration::from_secs(60);
    let mut last = None;
    loop {
        let call = bao.try_admin(method, path, body.clone());
        let Ok(answer) = tokio::time::timeout_at(give_up, call).await else {
            panic!("{method} {path}: the cluster does not start: {last:?}");
        };
        if let Some((200..300, answer)) = answer {
            return answer;
        }
        last = answer;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
