//! The composition root: the one place that names concrete stores and providers and puts the parts
//! together.

mod configuration;
mod error;

pub use configuration::Deps;
pub(crate) use configuration::configuration;
pub use error::AppError;

use std::{future::Future, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use taskpass_ca::{Authority, KeyFiles};
use taskpass_core::{Event, TrustedClock};
use taskpass_engine::{
    self as engine, Attestors, Context, Engine, JoinTokenAttestor, LastRun, SystemTimer, reconcile,
};
use taskpass_ledger::{
    Archiver, Reader, RootsSigner, SigningKey, Unhashed,
    disk::{Disk, SystemDisk},
};
use taskpass_metrics::{Labels, Metrics};
use taskpass_policy::{Action, PolicySet};
use taskpass_provider::ProviderFactory;
use taskpass_store::{Batch, CommitError, Entry, LogStore, Opened, Store};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::service::Routes;

use crate::{
    api,
    archive::{Archiving, KeepLimit},
    certificate::{CertificateRenewal, ServerCertificate, ShownCertificate},
    clock::{self, ClockWatch},
    config::Config,
    issuing::Issuing,
    keys,
    observe::{disk::ObservedDisk, endpoint::Endpoint, request::Observer, sample::Sampler},
    reload::{
        self, Reloader, Reloads,
        control::{ControlSocket, Parts},
    },
    transport::{Connections, ServerTls, Transport},
    unhashed::LedgerHashing,
};

/// How long background work may go on after the last connection is closed. The next start takes up
/// the rest from the ledger.
const BACKGROUND_DRAIN: Duration = Duration::from_secs(5);

/// A broker, ready to serve.
#[derive(Debug)]
pub struct App {
    engine: Arc<Engine>,
    store: Arc<LogStore>,
    transport: Transport<Routes>,
    metrics: Arc<Metrics>,
    endpoint: Option<Endpoint>,
    certificate: Arc<ShownCertificate>,
    listener: TcpListener,
    address: SocketAddr,
    health: tonic_health::server::HealthReporter,
    config: Config,
    reloader: Reloader,
    reloads: Reloads,
    control: Option<ControlSocket>,
    archiving: Arc<Archiving>,
    unhashed: Unhashed,
    clock: Arc<TrustedClock>,
    tasks: TaskTracker,
}

impl App {
    /// Opens everything, checks it, records the start, and listens. Nothing is served before
    /// [`App::run`].
    pub async fn build(config: Config, deps: Deps) -> Result<Self, AppError> {
        let trusted = clock::trusted(&config.data_dir, deps.clock);
        let deps = Deps {
            clock: Arc::<TrustedClock>::clone(&trusted),
            ..deps
        };
        let tasks = TaskTracker::new();
        let metrics = Arc::new(Metrics::new(labels()));
        let clock = Arc::clone(&deps.clock);
        let observer = Observer::new(Arc::clone(&metrics), clock, deps.entropy.as_ref())
            .map_err(AppError::setup("naming this run of the broker"))?;
        let connections = Connections::default();
        let parts = (&metrics, &tasks, &connections);
        let (store, engine, archiving, unhashed) = open_engine(&config, &deps, parts).await?;
        let ServerCertificate { chain, key, .. } =
            ServerCertificate::new(engine.authority(), &config)?;
        let authority = Arc::clone(engine.authority());
        let tls = ServerTls::new(chain, key, authority, Arc::clone(&deps.clock))
            .map_err(AppError::setup("setting up TLS"))?;
        let tls = Arc::new(tls);
        let reflection = config.listen.reflection;
        let (routes, health) = api::routes(Arc::clone(&engine), config.limits, reflection)
            .map_err(AppError::setup("setting up gRPC reflection"))?;
        let listener = listen(config.listen.grpc).await?;
        let address = listener
            .local_addr()
            .map_err(AppError::setup("reading the listening address"))?;
        let (service, observer) = (routes.prepare(), Arc::new(observer));
        let server_tls = Arc::clone(&tls);
        let transport = Transport::new(service, server_tls, config.limits, observer, connections);
        let endpoint = listen_for_metrics(&config).await?;
        record_start(&config, &store, &engine).await?;
        let (reloader, reloads) = Reloader::new(
            config.clone(),
            Arc::clone(&engine),
            transport.limits(),
            deps,
            Arc::clone(&metrics),
            provider_kinds(),
        );
        let authority = Arc::clone(engine.authority());
        let certificate = ShownCertificate::new(authority, tls, config.clone());
        let parts = Parts {
            engine: Arc::clone(&engine),
            certificate: Arc::new(certificate),
            archiving: Arc::clone(&archiving),
        };
        let certificate = Arc::clone(&parts.certificate);
        let control = open_control(&config.data_dir, parts);
        Ok(Self {
            engine,
            store,
            transport,
            metrics,
            endpoint,
            certificate,
            listener,
            address,
            health,
            config,
            reloader,
            reloads,
            control,
            archiving,
            unhashed,
            clock: trusted,
            tasks,
        })
    }

    /// The way to ask this broker to read policy and configuration again.
    pub fn reloads(&self) -> Reloads {
        self.reloads.clone()
    }

    /// The address it listens on; with port 0 in the configuration, the free port that the system
    /// chose.
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` ends; then takes no more requests, lets the requests in flight
    /// finish up to the drain deadline, and closes the store.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), AppError> {
        let stop = CancellationToken::new();
        reconcile::start(&self.engine, &stop);
        let clock = Arc::clone(self.engine.clock());
        let certificate = CertificateRenewal::new(self.certificate, clock);
        reconcile::drive(&self.engine, certificate, &stop);
        let issuing = Issuing::new(self.health.clone());
        let watch = ClockWatch::new(self.clock, &self.config, issuing.clone());
        reconcile::drive(&self.engine, watch, &stop);
        let clock = Arc::clone(self.engine.clock());
        let hashing = LedgerHashing::new(self.unhashed, clock, issuing);
        reconcile::drive(&self.engine, hashing, &stop);
        if let (Some(keep), Some(archive)) = self.config.ledger.kept() {
            let clock = Arc::clone(self.engine.clock());
            let limit = KeepLimit::new(self.archiving, clock, keep, archive);
            reconcile::drive(&self.engine, limit, &stop);
        }
        self.tasks.spawn(self.reloader.run(stop.clone()));
        if let Some(control) = self.control {
            self.tasks.spawn(control.serve(self.reloads, stop.clone()));
        }
        if let Some(endpoint) = self.endpoint {
            let sampler = Arc::new(Sampler::new(
                self.metrics,
                Arc::clone(&self.engine),
                Arc::clone(&self.store),
                self.transport.connections(),
                self.config.data_dir.clone(),
            ));
            self.tasks
                .spawn(Arc::clone(&sampler).watch_disk(stop.clone()));
            self.tasks.spawn(endpoint.serve(sampler, stop.clone()));
        }
        self.health
            .set_service_status("", tonic_health::ServingStatus::Serving)
            .await;
        let draining = CancellationToken::new();
        let serving = self.transport.serve(self.listener, draining.clone());
        tokio::pin!(serving);
        let drained = tokio::select! {
            drained = &mut serving => drained,
            () = self.store.broken() => return Err(AppError::Broken),
            () = shutdown => {
                self.health.set_service_status("", tonic_health::ServingStatus::NotServing).await;
                draining.cancel();
                serving.await
            }
        };
        tracing::info!(
            open = drained.open,
            cut = drained.cut,
            "connections are drained"
        );
        stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(BACKGROUND_DRAIN, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!(
                "background work did not finish in time; it is taken up at the next start"
            );
        }
        if let Err(error) = self.engine.close_counts().await {
            tracing::warn!(error = %error.message(), "how often decisions of the last minute were repeated is not recorded");
        }
        record_stop(&self.store, &self.engine).await
    }
}

/// Whether the newest entry says that the broker before stopped in good order.
fn ends_with_stop(ledger: &Reader) -> bool {
    let newest = ledger.size().checked_sub(1);
    let entry = newest.and_then(|index| ledger.entry(index).ok());
    let entry = entry.and_then(|bytes| Entry::parse(&bytes).ok());
    entry.is_some_and(|entry| matches!(entry.event, Event::BrokerStopped {}))
}

/// The values of the labels that are known beforehand.
fn labels() -> Labels {
    Labels {
        methods: api::methods(),
        actions: Action::ALL
            .iter()
            .map(|it| it.as_str().to_owned())
            .collect(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// Records the end of this run, and closes the store. A stop is one in good order if no call to a
/// provider may still run that is not on record.
async fn record_stop(store: &LogStore, engine: &Engine) -> Result<(), AppError> {
    if !engine.every_call_is_on_record().await.unwrap_or(false) {
        tracing::info!(
            "the stop is not recorded: a call to a provider may still run that is not on record, and the next start has to wait for it"
        );
        return close(store).await;
    }
    let stopped = Batch::reserved([Event::BrokerStopped {}]);
    match store.commit(stopped).await {
        Ok(_) => {}
        Err(error @ CommitError::DiskFull) => {
            tracing::warn!(%error, "the stop is not recorded");
        }
        Err(error) => return Err(AppError::setup("recording the stop")(error)),
    }
    close(store).await
}

async fn close(store: &LogStore) -> Result<(), AppError> {
    store
        .close()
        .await
        .map_err(AppError::setup("closing the store"))
}

/// Store, authority, policy and providers, and the engine over them.
async fn open_engine(
    config: &Config,
    deps: &Deps,
    (metrics, tasks, connections): (&Arc<Metrics>, &TaskTracker, &Connections),
) -> Result<(Arc<LogStore>, Arc<Engine>, Arc<Archiving>, Unhashed), AppError> {
    let keys = keys::open_at_start(config, deps, &SystemTimer)
        .await
        .map_err(AppError::setup("opening the private keys"))?;
    let disk = ObservedDisk::new(
        Arc::new(SystemDisk),
        Arc::clone(metrics),
        Arc::clone(&deps.clock),
    );
    let OpenStore {
        store,
        ledger,
        archiver,
        unhashed,
        roots_signer,
    } = open_store(config, deps, Arc::new(disk), &keys).await?;
    let archiving = Archiving::new(
        Arc::clone(&store),
        ledger.clone(),
        archiver,
        Arc::clone(&deps.clock),
        tasks.clone(),
    );
    let authority = open_authority(config, deps, &keys)?;
    let last_run = LastRun {
        newest: store.last_time(),
        stopped: ends_with_stop(&ledger),
    };
    let context = Context {
        trust_domain: config.trust_domain.clone(),
        store: Arc::<LogStore>::clone(&store),
        ledger,
        roots_signer,
        authority,
        metrics: Arc::clone(metrics),
        attestors: attestors(Arc::<LogStore>::clone(&store)),
        connections: Arc::new(connections.clone()),
        clock: Arc::clone(&deps.clock),
        timer: Arc::new(SystemTimer),
        entropy: Arc::clone(&deps.entropy),
        tasks: tasks.clone(),
    };
    let policy =
        PolicySet::load_dir(&config.policy.dir).map_err(AppError::setup("loading the policy"))?;
    let configuration = configuration(config, policy, deps, metrics)?;
    let engine = Engine::new(context, configuration, last_run)
        .await
        .map_err(AppError::setup("setting up the engine"))?;
    // Before anything is signed: the files of the authority are not signed, and the ledger is.
    engine
        .check_roots()
        .await
        .map_err(AppError::setup("comparing `ca/` with the ledger"))?;
    // A broker that was killed may have left a replacement of the root half done. If there is no
    // room to finish it, the reconciler tries again: a broker that is down revokes nothing.
    if let Err(error) = engine.settle_roots().await {
        tracing::error!(error = %error.message(), "the replacement of the root could not be settled; `taskpassd root status` shows where it stands");
    }
    // Before the first certificate: after a long downtime every authority may have ended. Otherwise
    // the present one goes on signing when there is no room for the next; whether there is one
    // shows when it has to sign.
    if let Err(error) = engine.rotate_authority().await {
        tracing::error!(error = %error.message(), "the certificate authority could not be rotated; trying again");
    }
    Ok((store, engine, Arc::new(archiving), unhashed))
}

/// Records `BrokerStarted` from the disk reserve for revocations. If even the reserve is full, the
/// broker starts without the record: a broker that is down revokes nothing.
async fn record_start(config: &Config, store: &LogStore, engine: &Engine) -> Result<(), AppError> {
    let started = Event::BrokerStarted {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        config_sha256: config.config_sha256().to_owned(),
        policy_set: engine.snapshot().policy().hash().to_owned(),
    };
    match store.commit(Batch::reserved([started])).await {
        Ok(_) => {}
        Err(error @ CommitError::DiskFull) => {
            tracing::error!(%error, "the start is not recorded");
        }
        Err(error) => return Err(AppError::setup("recording the start")(error)),
    }
    match engine.record_authorities().await {
        Err(error @ engine::Error::DiskFull) => {
            tracing::error!(error = %error.message(), "the authorities are not recorded");
            Ok(())
        }
        recorded => recorded.map_err(AppError::setup("recording the authorities")),
    }
}

/// The store on this machine's files, and the ledger it keeps there.
pub(crate) struct OpenStore {
    pub(crate) store: Arc<LogStore>,
    pub(crate) ledger: Reader,
    pub(crate) archiver: Archiver,
    pub(crate) unhashed: Unhashed,
    pub(crate) roots_signer: RootsSigner,
}

/// How the private keys lie on the disk, for a command that a person waits for.
pub(crate) async fn open_keys(config: &Config, deps: &Deps) -> Result<KeyFiles, AppError> {
    keys::open(config, deps)
        .await
        .map_err(AppError::setup("opening the private keys"))
}

/// Opens the ledger and the state it makes; takes their lock.
pub(crate) async fn open_store(
    config: &Config,
    deps: &Deps,
    disk: Arc<dyn Disk>,
    keys: &KeyFiles,
) -> Result<OpenStore, AppError> {
    let key_path = config.ledger_key();
    let loaded = SigningKey::load_from(&config.ledger_origin(), &key_path, keys);
    let key = loaded.map_err(AppError::setup(format!(
        "loading the ledger's key `{}`",
        key_path.display()
    )))?;
    let mut store_config = taskpass_store::Config::new(&config.data_dir);
    store_config.disk = disk;
    store_config.archive = config.ledger.archive.directory();
    store_config.segment_bytes = u64::from(config.ledger.segment_bytes);
    let clock = Arc::clone(&deps.clock);
    let opened = tokio::task::spawn_blocking(move || LogStore::open(&store_config, key, clock))
        .await
        .map_err(AppError::setup("opening the store"))?;
    let Opened {
        store,
        ledger,
        archiver,
        unhashed,
        roots_signer,
        report,
    } = opened.map_err(AppError::setup(format!(
        "opening the store in `{}`",
        config.data_dir.display()
    )))?;
    if let Some(reason) = &report.index.rebuilt {
        tracing::warn!(reason, moved_to = ?report.index.moved_to, "the index was built again from the ledger");
    }
    Ok(OpenStore {
        store: Arc::new(store),
        ledger,
        archiver,
        unhashed,
        roots_signer,
    })
}

/// The certificate authority on disk; takes its lock.
pub(crate) fn open_authority(
    config: &Config,
    deps: &Deps,
    keys: &KeyFiles,
) -> Result<Arc<Authority>, AppError> {
    let lifetimes = config
        .ca()
        .map_err(AppError::setup("checking [identity]"))?;
    let dir = config.ca_dir();
    Authority::open(
        &dir,
        taskpass_ca::Deps {
            trust_domain: config.trust_domain.clone(),
            config: lifetimes,
            clock: Arc::clone(&deps.clock),
            entropy: Arc::clone(&deps.entropy),
            keys: keys.clone(),
        },
    )
    .map(Arc::new)
    .map_err(AppError::setup(format!(
        "opening the certificate authority in `{}`",
        dir.display()
    )))
}

/// The kinds of evidence that agents attest with. A new one is a line here.
fn attestors(store: Arc<dyn Store>) -> Attestors {
    Attestors::new(vec![Arc::new(JoinTokenAttestor::new(store))])
}

/// The socket of `taskpassd reload`, `doctor`, `root`, `operator withdraw` and `ledger archive`. A
/// broker without it serves all the same: the disk may have no room for it, and a broker that is
/// down revokes nothing.
fn open_control(data_dir: &Path, parts: Parts) -> Option<ControlSocket> {
    reload::forget(data_dir);
    match ControlSocket::bind(data_dir, parts) {
        Ok(control) => Some(control),
        Err(error) => {
            tracing::warn!(
                %error,
                "`taskpassd reload` cannot reach this broker, since its socket cannot be made; SIGHUP does the same"
            );
            None
        }
    }
}

/// The kinds of provider that this program has. A new one is a line here.
pub fn provider_kinds() -> Vec<Arc<dyn ProviderFactory>> {
    vec![
        taskpass_provider_vault::factory(),
        taskpass_provider_aws::factory(),
    ]
}

async fn listen(address: SocketAddr) -> Result<TcpListener, AppError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| AppError::Listen { address, source })
}

async fn listen_for_metrics(config: &Config) -> Result<Option<Endpoint>, AppError> {
    let Some(address) = config.listen.metrics.address() else {
        return Ok(None);
    };
    match Endpoint::bind(address).await {
        Ok(endpoint) => Ok(Some(endpoint)),
        Err(source) => Err(AppError::Listen { address, source }),
    }
}
