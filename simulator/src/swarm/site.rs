//! Where the replicas run: a process after the other in each place, the volumes that they mount, and the Service by
//! which job pods reach any that lives.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use controller::config::CallbackAuth;
use controller::core::callback_key::{CallbackKey, KEY_BYTES, Purpose, SigningKey};
use controller::core::callback_token::CallbackTokens;
use controller::core::job_pod::ExtensionVariables;
use controller::core::leadership::Identity;
use controller::core::lease::ReplicaAddress;
use controller::http::callback::{Authentication, CallbackRules};
use controller::http::relay::{self, Relay};
use controller::http::{self, Answering};
use controller::metrics::Metrics;
use controller::ports::cluster::Cluster;
use controller::runtime::configuration::{ConfigMapSource, Configuration, Data};
use controller::runtime::replica::{Replica, ReplicaHandle};
use controller::runtime::{PortSet, Settings};
use futures::future::BoxFuture;
use tokio::sync::{Mutex as Turn, Notify};
use tokio::time::sleep;
use tower::ServiceExt as _;

use super::disturbance::{Disturbance, Disturbances, Sign};
use super::life::{Life, ProcessClock, Who};
use super::options::SwarmOptions;
use super::ports::{CutAt, ProcessCluster, ProcessForward, ProcessReports};
use super::record::Record;
use super::volume::Volume;
use crate::apiserver::ApiServer;
use crate::callback::{Attempt, InProcess, Transport};
use crate::clock::SimClock;
use crate::faults::Faults;
use crate::job::{CONFIG_KEY, Post};
use crate::network::Network;
use crate::report_store::MemoryReportStore;
use crate::rng::{Seed, SimEntropy, Stream};
use crate::world::{NAMESPACE, POD_TEMPLATE_KEY, Scenario};

/// How long a process that was told to end gets: Kubernetes' default.
const GRACE: Duration = Duration::from_secs(30);

/// What a process that has handed over gets to answer what is under way.
const DRAIN: Duration = Duration::from_secs(1);

/// How wrong the rates of clocks are at most, in parts per million: twenty times what NTP puts up with, and within what
/// the times of the Lease leave.
const RATE_PPM_MAX: u64 = 10_000;

/// What signs the requests that replicas pass on.
const KEY: &[u8; KEY_BYTES] = b"the replicas of a swarm share it";

/// The port of the callback API in the replicas' addresses.
const PORT: u16 = 8090;

/// The site. Shared by everything that acts on it.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) options: SwarmOptions,
    pub(super) seed: Seed,
    /// The configuration that is in the ConfigMap where that is not broken, and its version.
    configured: Mutex<(u32, Scenario)>,
    pub(super) api: ApiServer,
    /// The clock of the API server, which is right.
    pub(super) clock: SimClock,
    pub(super) faults: Faults,
    pub(super) record: Record,
    pub(super) disturbances: Disturbances,
    pub(super) network: Network,
    replicas: Replicas,
    places: Vec<Place>,
    processes: AtomicU64,
    is_healed: AtomicBool,
    healed: Notify,
    /// Answers to posts that are to be lost.
    answers_to_lose: AtomicU32,
    /// Draws which replica a post reaches.
    routing: Mutex<Stream>,
}

/// Where one replica runs.
#[derive(Debug)]
struct Place {
    clock: SimClock,
    state: Mutex<PlaceState>,
}

#[derive(Debug)]
struct PlaceState {
    volume: Volume,
    process: Option<Arc<Process>>,
    /// How often its pod was replaced.
    pod: u32,
    /// The least time before it is started again.
    away: Duration,
    stream: Stream,
}

/// A process that runs.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) who: Who,
    pub(super) life: Life,
    pub(super) metrics: Arc<Metrics>,
    pub(super) handle: ReplicaHandle,
    /// Where the others reach it.
    pub(super) host: String,
    volume: Volume,
    callbacks: Answering,
    is_ending: AtomicBool,
}

impl Process {
    pub(super) fn volume(&self) -> &Volume {
        &self.volume
    }

    pub(super) fn leads(&self) -> bool {
        self.handle.leading().is_ok()
    }
}

/// What the replica of a process is made of, but for its cluster.
pub(super) struct Parts {
    settings: Settings,
    me: Identity,
    metrics: Arc<Metrics>,
    pub(super) who: Who,
    pub(super) life: Life,
    record: Record,
    disturbances: Disturbances,
    latency: Duration,
    reports: ProcessReports,
    clock: ProcessClock,
    entropy: SimEntropy,
}

/// A replica to be run, and its handle.
type Made = (BoxFuture<'static, ()>, ReplicaHandle);

/// Makes the replica of each process, over whatever its cluster is.
pub(super) struct Replicas(Box<dyn Fn(Parts) -> Made + Send + Sync>);

impl Replicas {
    /// Over what `cluster` makes of the process that it is to be the cluster of.
    pub(super) fn over<C: Cluster>(
        cut_at: CutAt,
        cluster: impl Fn(&Who, &Life) -> C + Send + Sync + 'static,
    ) -> Self {
        Self(Box::new(move |parts| {
            let cluster = ProcessCluster {
                inner: cluster(&parts.who, &parts.life),
                cut_at,
                life: parts.life,
                who: parts.who,
                record: parts.record,
                disturbances: parts.disturbances,
                latency: parts.latency,
                in_flight: Arc::default(),
            };
            let ports = PortSet {
                cluster,
                reports: parts.reports,
                clock: parts.clock,
                entropy: parts.entropy,
            };
            let (replica, handle) = Replica::new(parts.settings, parts.me, ports, parts.metrics);
            (Box::pin(replica.run()), handle)
        }))
    }
}

impl fmt::Debug for Replicas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Replicas").finish_non_exhaustive()
    }
}

/// What a site is made of, beside its places.
#[derive(Debug)]
pub(super) struct Ground {
    pub(super) options: SwarmOptions,
    pub(super) scenario: Scenario,
    pub(super) api: ApiServer,
    pub(super) clock: SimClock,
    pub(super) replicas: Replicas,
    pub(super) faults: Faults,
    pub(super) record: Record,
    pub(super) disturbances: Disturbances,
    /// The volume that all mount; each its own where there is none.
    pub(super) volume: Option<Volume>,
}

/// A new volume.
pub(super) fn new_volume(
    number: u64,
    clock: &SimClock,
    options: &SwarmOptions,
    disturbances: &Disturbances,
) -> Volume {
    let seed = Seed::of_run(options.seed);
    Volume::new(
        number,
        MemoryReportStore::new(clock.clone()),
        options.disk_latency,
        seed.stream(&format!("volume/{number}")),
        disturbances.clone(),
    )
}

impl Site {
    pub(super) fn new(ground: Ground) -> Arc<Self> {
        let seed = Seed::of_run(ground.options.seed);
        let rates = ground.options.timeline.enables(Disturbance::ClockRate);
        let place = |number: u32| {
            let own = || {
                let (clock, options) = (&ground.clock, &ground.options);
                new_volume(1 + u64::from(number), clock, options, &ground.disturbances)
            };
            Place {
                clock: ground.clock.separate().at_rate(if rates {
                    rate(&mut seed.stream(&format!("rate/{number}")))
                } else {
                    0
                }),
                state: Mutex::new(PlaceState {
                    volume: ground.volume.clone().unwrap_or_else(own),
                    process: None,
                    pod: 0,
                    away: Duration::ZERO,
                    stream: seed.stream(&format!("place/{number}")),
                }),
            }
        };
        let places = (0..ground.options.replicas).map(place).collect();
        Arc::new(Self {
            options: ground.options,
            configured: Mutex::new((0, ground.scenario)),
            api: ground.api,
            clock: ground.clock,
            faults: ground.faults,
            record: ground.record,
            disturbances: ground.disturbances,
            network: Network::default(),
            replicas: ground.replicas,
            places,
            processes: AtomicU64::new(0),
            is_healed: AtomicBool::new(false),
            healed: Notify::new(),
            answers_to_lose: AtomicU32::new(0),
            routing: Mutex::new(seed.stream("routing")),
            seed,
        })
    }

    pub(super) fn place_count(&self) -> usize {
        self.places.len()
    }

    pub(super) fn wall_clock(&self, slot: usize) -> &SimClock {
        &self.places[slot].clock
    }

    fn place(&self, slot: usize) -> MutexGuard<'_, PlaceState> {
        let state = self.places[slot].state.lock();
        state.unwrap_or_else(PoisonError::into_inner)
    }

    /// The process that runs in a place.
    pub(super) fn process(&self, slot: usize) -> Option<Arc<Process>> {
        self.place(slot).process.clone()
    }

    /// Every process that runs.
    pub(super) fn running(&self) -> Vec<Arc<Process>> {
        (0..self.places.len())
            .filter_map(|slot| self.process(slot))
            .collect()
    }

    /// The process that leads.
    pub(super) fn leader(&self) -> Option<Arc<Process>> {
        self.running().into_iter().find(|process| process.leads())
    }

    pub(super) fn volumes(&self) -> Vec<Volume> {
        let count = if self.options.has_shared_volume {
            1
        } else {
            self.places.len()
        };
        (0..count)
            .map(|slot| self.place(slot).volume.clone())
            .collect()
    }

    /// The place's next process is not started before that time has passed.
    pub(super) fn keep_away(&self, slot: usize, time: Duration) {
        self.place(slot).away = time;
    }

    pub(super) fn lose_answers(&self, count: u32) {
        self.answers_to_lose.store(count, Ordering::Relaxed);
    }

    /// The configuration as it was last changed.
    pub(super) fn scenario(&self) -> Scenario {
        self.configured().1.clone()
    }

    pub(super) fn configured(&self) -> MutexGuard<'_, (u32, Scenario)> {
        let configured = self.configured.lock();
        configured.unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on everything works.
    pub(super) fn heal(&self) {
        self.restore_config_map();
        self.is_healed.store(true, Ordering::Relaxed);
        self.healed.notify_waiters();
        self.faults.heal();
        self.lose_answers(0);
        for volume in self.volumes() {
            volume.heal();
        }
        for slot in 0..self.places.len() {
            self.places[slot].clock.set_by(&self.clock);
            if let Some(process) = self.process(slot) {
                process.life.heal();
            }
        }
    }

    pub(super) fn is_healed(&self) -> bool {
        self.is_healed.load(Ordering::Relaxed)
    }

    /// Runs a process after the other in a place.
    pub(super) async fn run_place(self: Arc<Self>, slot: usize) {
        loop {
            self.run_process(slot).await;
            let pause = {
                let mut place = self.place(slot);
                place.process = None;
                let pause = Duration::from_millis(place.stream.between(500, 20_000));
                pause.max(std::mem::take(&mut place.away))
            };
            let healed = self.healed.notified();
            if self.is_healed() {
                sleep(Duration::from_secs(1)).await;
            } else {
                tokio::select! {
                    biased;
                    () = healed => {}
                    () = sleep(pause) => {}
                }
            }
        }
    }

    /// Runs one process to its end.
    async fn run_process(&self, slot: usize) {
        let (process, replica) = self.start(slot);
        let name = Arc::clone(&process.who.identity);
        let number = process.who.number;
        self.record
            .note(format_args!("process {number} starts as {name}"));
        let mut replica = tokio::spawn(process.life.clone().main(replica));
        let handed_over = async {
            process.handle.handed_over().await;
            // What is under way is answered in this time.
            sleep(DRAIN).await;
        };
        let ended = tokio::select! {
            biased;
            () = process.life.over() => None,
            ended = &mut replica => Some(ended.err()),
            () = handed_over => Some(None),
        };
        self.network.close(&process.host);
        if ended.as_ref().is_none_or(Option::is_none) {
            replica.abort();
            // Its tasks end with it; what they hold is dropped before anything else happens.
            let _ = replica.await;
        }
        match ended {
            None => self
                .record
                .note(format_args!("process {number}, {name}, is dead")),
            Some(None) if process.is_ending.load(Ordering::Relaxed) => {
                self.record
                    .note(format_args!("process {number}, {name}, has handed over"));
                process.life.kill();
            }
            Some(error) => {
                process.life.kill();
                self.record
                    .blame(format!("process {number}, {name}, ended: {error:?}"));
            }
        }
        self.record.check_kept(&process.volume);
    }

    fn start(&self, slot: usize) -> (Arc<Process>, BoxFuture<'static, ()>) {
        let number = self.processes.fetch_add(1, Ordering::Relaxed) + 1;
        let life = Life::new();
        let (volume, pod) = self.mount(slot, number);
        let identity: Arc<str> = format!("sim-{slot}-{pod}").into();
        let who = Who {
            slot,
            number,
            identity: Arc::clone(&identity),
        };
        let scenario = self.scenario();
        let config = &scenario.config;
        let metrics = Arc::new(Metrics::new(config));
        let address = format!("10.128.{slot}.{pod}");
        let tokens = CallbackTokens::new(key_for(Purpose::Callback));
        let settings = Settings {
            template: scenario.template.clone(),
            namespace: NAMESPACE.to_owned(),
            instance: identity.to_string(),
            pod_ip: Some(address.clone()),
            dev_mode: false,
            owner: None,
            variables: ExtensionVariables::default(),
            config: config.clone(),
            config_map: Some(ConfigMapSource::new(config.name.as_str(), read_config_map)),
            tokens: Some(tokens.clone()),
        };
        let me = Identity {
            name: identity.to_string(),
            address: Some(ReplicaAddress {
                host: address.clone(),
                callback_port: PORT,
                file_server_port: PORT,
            }),
        };
        self.faults.restarted(&client(slot));
        let reports = ProcessReports {
            volume: volume.clone(),
            life: life.clone(),
            who: who.clone(),
            record: self.record.clone(),
            appending: Arc::new(Turn::new(())),
        };
        let entropy = SimEntropy::new(self.seed.stream(&format!("process/{number}")));
        let (replica, handle) = (self.replicas.0)(Parts {
            settings,
            me,
            metrics: Arc::clone(&metrics),
            who: who.clone(),
            life: life.clone(),
            record: self.record.clone(),
            disturbances: self.disturbances.clone(),
            latency: self.options.api_latency,
            reports: reports.clone(),
            clock: ProcessClock {
                clock: self.places[slot].clock.clone(),
                life: life.clone(),
            },
            entropy: entropy.clone(),
        });
        let authentication = Authentication::new(CallbackAuth::Required, tokens);
        let relay = Relay {
            authentication: authentication.clone(),
            replica: handle.clone(),
            identity: identity.to_string(),
            key: key_for(Purpose::Forwarding),
            forward: ProcessForward {
                inner: self.network.from(&address),
                life: life.clone(),
                disturbances: self.disturbances.clone(),
            },
            hold: config.callback_hold_timeout,
        };
        let rules = CallbackRules {
            body_limit: config.callback_body_limit,
            authentication,
        };
        let callbacks = http::callback::service(handle.clone(), reports, entropy, rules);
        let callbacks = relay::callbacks(callbacks, relay);
        let reachable = while_it_runs(callbacks.clone(), life.clone());
        self.network.listen(&address, PORT, reachable);
        let process = Arc::new(Process {
            who,
            life,
            metrics,
            handle,
            host: address,
            volume,
            callbacks,
            is_ending: AtomicBool::new(false),
        });
        self.place(slot).process = Some(Arc::clone(&process));
        (process, replica)
    }

    /// The volume of the place's next process, and the number of its pod: now and then the pod is another one, with an
    /// empty volume where it has its own.
    fn mount(&self, slot: usize, number: u64) -> (Volume, u32) {
        let mut place = self.place(slot);
        let is_replaced = number > self.places.len() as u64 && place.stream.between(0, 2) == 0;
        if is_replaced {
            place.pod += 1;
            if !self.options.has_shared_volume {
                self.record.forget_volume(place.volume.number());
                place.volume =
                    new_volume(100 + number, &self.clock, &self.options, &self.disturbances);
            }
        }
        (place.volume.clone(), place.pod)
    }

    /// A process is told to end, and killed where it does not in time.
    pub(super) fn terminate(process: Arc<Process>) {
        process.is_ending.store(true, Ordering::Relaxed);
        process.handle.hand_over();
        tokio::spawn(async move {
            sleep(GRACE).await;
            process.life.kill();
        });
    }
}

/// What the data of the ConfigMap means to a replica.
fn read_config_map(data: &Data) -> Result<Configuration, Vec<String>> {
    let text = |key: &str| data.get(key).map(String::as_str);
    let (Some(config), Some(template)) = (text(CONFIG_KEY), text(POD_TEMPLATE_KEY)) else {
        return Err(vec!["a key is missing".to_owned()]);
    };
    let (scenario, _) = Scenario::new(Some(config), Some(template))?;
    Ok(Configuration {
        config: scenario.config,
        template: scenario.template,
        variables: ExtensionVariables::default(),
    })
}

/// How much faster the clock of a replica goes, in parts per million.
fn rate(stream: &mut Stream) -> i32 {
    let drawn = i32::try_from(stream.between(0, 2 * RATE_PPM_MAX)).unwrap_or(0);
    drawn - i32::try_from(RATE_PPM_MAX).unwrap_or(0)
}

fn key_for(purpose: Purpose) -> SigningKey {
    let key = CallbackKey::new(KEY.to_vec());
    key.expect("it is long enough").for_purpose(purpose)
}

/// What answers callbacks in a process, as others reach it.
fn while_it_runs(callbacks: Answering, life: Life) -> Router {
    Router::new().fallback(move |request: axum::extract::Request| {
        let (callbacks, life) = (callbacks.clone(), life.clone());
        async move {
            life.runs().await;
            let answered = callbacks.oneshot(request).await;
            life.runs().await;
            answered.unwrap_or_else(|never| match never {})
        }
    })
}

/// How the faults call the replica of a place.
pub(super) fn client(slot: usize) -> String {
    format!("replica-{slot}")
}

/// The Service by which job pods reach the replicas.
#[derive(Debug, Clone)]
pub(super) struct Service(pub(super) Arc<Site>);

impl Service {
    /// The process that a new connection reaches: any that lives, as kube-proxy draws it.
    fn backend(&self) -> Option<Arc<Process>> {
        let running = self.0.running();
        let last = running.len().checked_sub(1)? as u64;
        let mut routing = self
            .0
            .routing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let drawn = usize::try_from(routing.between(0, last)).unwrap_or(0);
        running.get(drawn).cloned()
    }
}

impl Transport for Service {
    async fn attempt(&self, post: &Post, namespace: &str) -> Attempt {
        if self.0.record.sends(post) {
            self.0.disturbances.show(Sign::Repetition, None);
        }
        let Some(process) = self.backend() else {
            return Attempt::Refused;
        };
        let life = &process.life;
        if life.is_deaf() {
            let slot = Some(process.who.slot);
            self.0.disturbances.fired(Disturbance::PodsCutOff, slot);
            std::future::pending::<()>().await;
        }
        let answer = async {
            life.runs().await;
            let transport = InProcess(process.callbacks.clone());
            let attempt = transport.attempt(post, namespace).await;
            if !life.is_over() {
                let (record, volume) = (&self.0.record, &process.volume);
                record.answered(&process.who, volume, post, &attempt);
            }
            life.runs().await;
            attempt
        };
        let attempt = tokio::select! {
            biased;
            () = life.over() => return Attempt::Broken("connection reset by peer".to_owned()),
            attempt = answer => attempt,
        };
        let lost =
            (self.0.answers_to_lose).fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
                count.checked_sub(1)
            });
        if lost.is_ok() {
            self.0.disturbances.fired(Disturbance::PostAnswerLost, None);
            return Attempt::Broken("the answer was lost".to_owned());
        }
        attempt
    }
}
