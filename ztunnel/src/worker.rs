//! A worker thread: the data path of some pods. Nothing in it is shared with another thread but what `Shared` holds.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher,
    io,
    net::SocketAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use mesh::{
    identity::Identity,
    plan::Outcome,
    refusal::Refusal,
    store::{Effect, Generation},
};
use net::{
    certificates::Certificates,
    drain::{Drain, Phase},
    tls::Credential,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc, oneshot},
    task::LocalSet,
    time::Instant,
};

use crate::{
    config::Config,
    flows::Shown,
    inbound, outbound,
    place::place,
    plain,
    pod::{Pod, PodFacts},
    socket::{self, Listeners},
    telemetry::Telemetry,
};

/// How long a flow waits for what was never received before.
const PATIENCE: Duration = Duration::from_secs(5);
/// The pause after a failed accept, doubled up to the second.
const ACCEPT_PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// How often the bytes of open flows are counted.
const TELL: Duration = Duration::from_secs(5);

/// How long listeners go on accepting once the proxy is to end, while its successor gets what begins …
const SUCCESSION: Duration = Duration::from_millis(500);
/// … and then, when nothing can begin any more, for what is in the middle of its handshake.
const LAST: Duration = Duration::from_millis(200);
/// How often it is looked whether all has ended.
const LOOK: Duration = Duration::from_millis(20);

/// What all workers share.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) certificates: Certificates,
    pub(crate) telemetry: Telemetry,
    /// Open flows and tunnels of each worker.
    pub(crate) loads: Vec<AtomicUsize>,
    /// The proxy is to end: it takes no more pods.
    pub(crate) ending: AtomicBool,
    pub(crate) workers: Vec<mpsc::UnboundedSender<Command>>,
}

/// What a worker is told.
pub(crate) enum Command {
    /// A pod is here; its home worker gets its listeners.
    Add(Arc<PodFacts>, Option<Listeners>),
    /// Tells what is open.
    Inspect(oneshot::Sender<Vec<(Arc<str>, Vec<Shown>)>>),
    /// A pod is gone, and with it its flows.
    Remove(Arc<str>),
    /// The newest generation and what follows from it.
    State(Arc<Generation>, Arc<[Effect]>),
    /// A connection that its home worker hands over.
    Take {
        pod: Arc<str>,
        kind: Kind,
        stream: std::net::TcpStream,
        from: SocketAddr,
    },
}

/// Which of a pod's listeners a connection came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Outbound,
    Plain,
    Tunnel,
}

/// One worker.
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) id: usize,
    generation: RefCell<Arc<Generation>>,
    changed: Notify,
    pods: RefCell<HashMap<Arc<str>, Rc<Pod>>>,
    hasher: RandomState,
    drawn: Cell<u64>,
    /// Held as long as the worker lives: there is something to finish.
    drain: Drain,
}

/// Counts as load as long as it lives.
pub(crate) struct Load(Arc<Shared>, usize);

impl Drop for Load {
    fn drop(&mut self) {
        self.0.loads[self.1].fetch_sub(1, Ordering::Relaxed);
    }
}

/// Runs worker `id` until its inbox closes, or it is to drain and all its flows have ended.
pub(crate) fn run(
    id: usize,
    shared: Arc<Shared>,
    drain: Drain,
    inbox: mpsc::UnboundedReceiver<Command>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let worker = Rc::new(Worker {
        shared,
        id,
        generation: RefCell::default(),
        changed: Notify::new(),
        pods: RefCell::default(),
        hasher: RandomState::new(),
        drawn: Cell::new(0),
        drain,
    });
    LocalSet::new().block_on(&runtime, worker.serve(inbox));
    Ok(())
}

impl Worker {
    async fn serve(self: Rc<Self>, mut inbox: mpsc::UnboundedReceiver<Command>) {
        let mut tell = tokio::time::interval(TELL);
        let mut drain = self.drain.clone();
        let mut look = tokio::time::interval(LOOK);
        // When the listeners have closed and nobody hands anything over any more.
        let mut settled = None;
        loop {
            let command = tokio::select! {
                command = inbox.recv() => command,
                _ = tell.tick() => {
                    self.pods.borrow().values().for_each(|pod| pod.flows.tell());
                    continue;
                }
                () = drain.begun(), if settled.is_none() => {
                    settled = Some(Instant::now() + SUCCESSION + LAST);
                    continue;
                }
                _ = look.tick(), if settled.is_some_and(|at| at <= Instant::now()) => {
                    if self.has_finished() {
                        return;
                    }
                    continue;
                }
            };
            let Some(command) = command else { return };
            match command {
                Command::Add(facts, listeners) => self.add(facts, listeners),
                Command::Inspect(reply) => {
                    reply.send(self.shown()).ok();
                }
                Command::Remove(uid) => self.remove(&uid),
                Command::State(generation, effects) => self.adopt(generation, &effects),
                Command::Take {
                    pod,
                    kind,
                    stream,
                    from,
                } => {
                    let pod = self.pods.borrow().get(&pod).cloned();
                    if let (Some(pod), Ok(stream)) = (pod, TcpStream::from_std(stream)) {
                        self.take(&pod, kind, stream, from);
                    }
                }
            }
        }
    }

    fn add(self: &Rc<Self>, facts: Arc<PodFacts>, listeners: Option<Listeners>) {
        self.remove(&facts.uid);
        let pod = Rc::new(Pod::new(facts, &self.shared.config));
        self.pods
            .borrow_mut()
            .insert(Arc::clone(&pod.facts.uid), Rc::clone(&pod));
        let Some(Listeners {
            outbound,
            plain,
            tunnel,
        }) = listeners
        else {
            return;
        };
        for (kind, listener) in [
            (Kind::Outbound, outbound),
            (Kind::Plain, plain),
            (Kind::Tunnel, tunnel),
        ] {
            match TcpListener::from_std(listener) {
                Ok(listener) => {
                    pod.listen(Rc::clone(self).accept(Rc::clone(&pod), kind, listener));
                }
                Err(error) => {
                    tracing::error!(pod = pod.facts.name, %error, "a listener cannot be used")
                }
            }
        }
    }

    fn remove(&self, uid: &str) {
        if let Some(pod) = self.pods.borrow_mut().remove(uid) {
            pod.end();
        }
    }

    fn adopt(&self, generation: Arc<Generation>, effects: &[Effect]) {
        *self.generation.borrow_mut() = Arc::clone(&generation);
        self.changed.notify_waiters();
        let pods: Vec<_> = self.pods.borrow().values().cloned().collect();
        for effect in effects {
            match effect {
                Effect::Recheck => {
                    for pod in &pods {
                        pod.flows.recheck(&generation, &pod.facts.workload);
                    }
                }
                Effect::Gone(uids) => {
                    for uid in uids {
                        pods.iter().for_each(|pod| pod.pool.forget(uid));
                    }
                }
                // The main thread's.
                Effect::Forget(_) | Effect::Prefetch(_) => {}
            }
        }
    }

    /// Whether nothing is open that would be cut.
    fn has_finished(&self) -> bool {
        self.pods.borrow().values().all(|pod| pod.has_finished())
    }

    async fn accept(self: Rc<Self>, pod: Rc<Pod>, kind: Kind, listener: TcpListener) {
        tokio::select! {
            // First: what has come by the last moment is taken.
            biased;
            () = self.accept_all(&pod, kind, &listener) => {}
            () = give_way(&listener, self.drain.clone()) => {}
        }
    }

    async fn accept_all(self: &Rc<Self>, pod: &Rc<Pod>, kind: Kind, listener: &TcpListener) {
        let mut pause = ACCEPT_PAUSE.0;
        loop {
            match listener.accept().await {
                Ok((stream, from)) => {
                    pause = ACCEPT_PAUSE.0;
                    self.hand_over(pod, kind, stream, from);
                }
                // Out of descriptors, for one: trying again at once would only burn the processor.
                Err(error) => {
                    tracing::warn!(pod = pod.facts.name, %error, "a connection could not be accepted");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(ACCEPT_PAUSE.1);
                }
            }
        }
    }

    /// Takes a connection, or gives it to a worker that has less to do.
    fn hand_over(self: &Rc<Self>, pod: &Rc<Pod>, kind: Kind, stream: TcpStream, from: SocketAddr) {
        let loads: Vec<usize> = self
            .shared
            .loads
            .iter()
            .map(|load| load.load(Ordering::Relaxed))
            .collect();
        let to = place(self.id, &loads);
        // A worker that has nothing left to finish is gone.
        let stays = self.drain.phase() != Phase::Running;
        if stays || to == self.id {
            self.take(pod, kind, stream, from);
        } else if let Ok(stream) = stream.into_std() {
            let pod = Arc::clone(&pod.facts.uid);
            // A worker that is gone drains; so does this one.
            self.shared.workers[to]
                .send(Command::Take {
                    pod,
                    kind,
                    stream,
                    from,
                })
                .ok();
        }
    }

    fn take(self: &Rc<Self>, pod: &Rc<Pod>, kind: Kind, stream: TcpStream, from: SocketAddr) {
        socket::accepted(&stream, &self.shared.config);
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        let (worker, pod) = (Rc::clone(self), Rc::clone(pod));
        let load = self.load();
        match kind {
            Kind::Outbound => drop(net::task::spawn(async move {
                outbound::run(worker, pod, stream, from).await;
                drop(load);
            })),
            Kind::Plain => drop(net::task::spawn(async move {
                plain::run(worker, pod, stream, from).await;
                drop(load);
            })),
            // A tunnel is not a flow: it ends with the pod, even in the middle of a handshake.
            Kind::Tunnel => {
                let tunnel = Rc::clone(&pod);
                pod.keep(async move {
                    inbound::run(worker, tunnel, stream, from).await;
                    drop(load);
                });
            }
        }
    }

    pub(crate) fn load(&self) -> Load {
        self.shared.loads[self.id].fetch_add(1, Ordering::Relaxed);
        Load(Arc::clone(&self.shared), self.id)
    }

    /// The newest generation.
    pub(crate) fn generation(&self) -> Arc<Generation> {
        Arc::clone(&self.generation.borrow())
    }

    /// Decides by the newest generation; where something was never received, waits for it, but not for long.
    pub(crate) async fn decide<T>(
        &self,
        decide: impl Fn(&Generation) -> Outcome<T>,
    ) -> Result<T, Refusal> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let changed = self.changed.notified();
            let generation = self.generation();
            match decide(&generation) {
                Outcome::Do(it) => return Ok(it),
                Outcome::Refuse(refusal) => return Err(refusal),
                Outcome::Ask(question) => tokio::time::timeout_at(deadline, changed)
                    .await
                    .map_err(|_| Refusal::NotKnownYet(question.to_string()))?,
            }
        }
    }

    /// The certificate of a pod; a first one is waited for, but not for long.
    pub(crate) async fn credential(&self, identity: Identity) -> Result<Arc<Credential>, Refusal> {
        if let Some(held) = self.shared.certificates.current(&identity) {
            return Ok(held);
        }
        let waited = self
            .shared
            .certificates
            .wait(identity, Instant::now() + PATIENCE)
            .await;
        waited.map_err(|error| Refusal::NoCertificate {
            identity,
            reason: error.reason,
        })
    }

    /// A number that nobody can foretell.
    pub(crate) fn random(&self) -> u64 {
        self.drawn.set(self.drawn.get() + 1);
        self.hasher.hash_one(self.drawn.get())
    }

    /// Until the proxy is to end.
    pub(crate) fn draining(&self) -> impl Future<Output = ()> + 'static {
        let mut drain = self.drain.clone();
        async move { drain.begun().await }
    }

    fn shown(&self) -> Vec<(Arc<str>, Vec<Shown>)> {
        let pods = self.pods.borrow();
        pods.iter()
            .map(|(uid, pod)| (Arc::clone(uid), pod.flows.shown()))
            .collect()
    }
}

/// Until the proxy is to end, and nothing is left that only this listener could take.
async fn give_way(listener: &TcpListener, mut drain: Drain) {
    drain.begun().await;
    // A kernel that cannot do this loses what comes at the last moment, as it would without a successor.
    sys::succession::prefer_second(listener).ok();
    tokio::time::sleep(SUCCESSION).await;
    sys::succession::refuse_opening(listener).ok();
    tokio::time::sleep(LAST).await;
}
