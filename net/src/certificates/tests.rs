//! Identities whose certificates come, do not come, and end, on a clock of our own.

use std::sync::Mutex;

use super::*;
use crate::{
    clock::{virtual_wall, wall},
    tls::authority::{Authority, Leaf},
};

fn id(name: &str) -> Identity {
    Identity::new("cluster.local", "shop", name)
}

fn within(seconds: u64) -> Instant {
    Instant::now() + Duration::from_secs(seconds)
}

/// An authority that can be told to fail, and remembers who asked.
struct Office {
    authority: Authority,
    closed: AtomicBool,
    life: u64,
    asked: Mutex<Vec<(Identity, Instant)>>,
    /// Requests that are being looked at, and the most there ever were.
    open: AtomicUsize,
    most: AtomicUsize,
}

impl Office {
    fn new(life: u64) -> Arc<Self> {
        Arc::new(Self {
            authority: Authority::new("mesh"),
            closed: AtomicBool::new(false),
            life,
            asked: Mutex::default(),
            open: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        })
    }

    async fn issue(self: Arc<Self>, identity: Identity) -> Result<Credential, String> {
        let serial = {
            let mut asked = self.asked.lock().unwrap();
            asked.push((identity, Instant::now()));
            asked.len() as u64
        };
        let open = self.open.fetch_add(1, Ordering::Relaxed) + 1;
        self.most.fetch_max(open, Ordering::Relaxed);
        sleep(Duration::from_millis(1)).await;
        self.open.fetch_sub(1, Ordering::Relaxed);
        if self.closed.load(Ordering::Relaxed) {
            return Err("the authority is away".into());
        }
        let now = virtual_wall();
        let offset = now.as_secs() as i64 - wall().as_secs() as i64;
        let valid = offset - 120..offset + self.life as i64;
        let leaf = Leaf {
            valid,
            serial,
            ..Leaf::of(&identity.to_string())
        };
        Credential::new(
            self.authority.issue(&leaf),
            identity,
            &[],
            now.as_secs() as i64,
        )
        .map_err(|e| e.to_string())
    }

    fn start(self: &Arc<Self>) -> Certificates {
        let (certificates, keeper) = Certificates::new(virtual_wall);
        let office = Arc::clone(self);
        tokio::spawn(keeper.run(move |identity| Arc::clone(&office).issue(identity)));
        certificates
    }

    fn names(&self) -> Vec<&'static str> {
        self.asked
            .lock()
            .unwrap()
            .iter()
            .map(|(identity, _)| identity.service_account.as_str())
            .collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_wanted_certificate_comes_and_is_renewed_before_it_ends() {
    let office = Office::new(3600);
    let certificates = office.start();
    assert!(certificates.current(&id("cart")).is_none());
    certificates.want(id("cart"));
    let first = certificates.wait(id("cart"), within(5)).await.unwrap();
    assert_eq!(first.serial(), "1");
    assert_eq!(certificates.current(&id("cart")).unwrap().serial(), "1");

    sleep(Duration::from_secs(1600)).await;
    assert_eq!(certificates.current(&id("cart")).unwrap().serial(), "1");
    sleep(Duration::from_secs(220)).await;
    assert_eq!(certificates.current(&id("cart")).unwrap().serial(), "2");
    assert_eq!(office.names(), ["cart", "cart"]);
    // Whoever still holds the old one may use it: it is his.
    assert_eq!(first.serial(), "1");
}

#[tokio::test(start_paused = true)]
async fn who_follows_an_identity_gets_every_new_certificate() {
    let office = Office::new(3600);
    let certificates = office.start();
    let first = certificates.renewed(id("cart"), None).await;
    assert_eq!(first.serial(), "1");
    let second = certificates.renewed(id("cart"), Some("1")).await;
    assert_eq!(second.serial(), "2");
    assert_eq!(
        certificates.renewed(id("cart"), Some("1")).await.serial(),
        "2"
    );
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_had_is_asked_for_at_once_when_the_reason_may_be_gone() {
    let office = Office::new(3600);
    let certificates = office.start();
    office.closed.store(true, Ordering::Relaxed);
    certificates.want(id("cart"));
    sleep(Duration::from_secs(1000)).await;
    office.closed.store(false, Ordering::Relaxed);
    let begun = Instant::now();
    certificates.again();
    certificates.renewed(id("cart"), None).await;
    assert!(
        begun.elapsed() <= Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
    // What is held is not asked for.
    let asked = office.names().len();
    certificates.again();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(office.names().len(), asked);
}

#[tokio::test(start_paused = true)]
async fn without_the_authority_the_old_one_serves_until_it_ends() {
    let office = Office::new(3600);
    let certificates = office.start();
    certificates.want(id("cart"));
    certificates.wait(id("cart"), within(5)).await.unwrap();
    office.closed.store(true, Ordering::Relaxed);
    sleep(Duration::from_secs(3500)).await;
    assert_eq!(certificates.current(&id("cart")).unwrap().serial(), "1");
    assert_eq!(certificates.snapshot()[0].state, "Available");
    sleep(Duration::from_secs(200)).await;
    assert!(certificates.current(&id("cart")).is_none());
    assert_eq!(
        certificates.snapshot()[0].state,
        "Unavailable: it has expired, and the authority is away"
    );
    let refused = certificates.wait(id("cart"), within(5)).await.unwrap_err();
    assert_eq!(
        refused,
        Unavailable {
            identity: id("cart"),
            reason: "the authority is away".into()
        }
    );

    office.closed.store(false, Ordering::Relaxed);
    let begun = Instant::now();
    certificates.wait(id("cart"), within(5)).await.unwrap();
    assert!(
        begun.elapsed() <= Duration::from_secs(1),
        "a waiting connection ends the pause: {:?}",
        begun.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_at_its_deadline_with_the_reason() {
    let office = Office::new(3600);
    office.closed.store(true, Ordering::Relaxed);
    let certificates = office.start();
    let begun = Instant::now();
    let refused = certificates.wait(id("cart"), within(5)).await.unwrap_err();
    assert_eq!(
        (refused.reason.as_str(), begun.elapsed()),
        ("the authority is away", Duration::from_secs(5))
    );
    // About one attempt a second, and none when nobody waits and nobody wants it.
    let asked = office.names().len();
    assert!((4..=12).contains(&asked), "{asked}");
    sleep(Duration::from_secs(1000)).await;
    assert_eq!(office.names().len(), asked);
    assert!(certificates.snapshot().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_authority_that_never_answers_is_said_to_be_silent() {
    let (certificates, keeper) = Certificates::new(virtual_wall);
    tokio::spawn(keeper.run(|_| std::future::pending::<Result<Credential, String>>()));
    let refused = certificates.wait(id("cart"), within(5)).await.unwrap_err();
    assert_eq!(refused.reason, "the authority has not answered yet");
    assert_eq!(
        certificates.snapshot().first().map(|e| e.state.clone()),
        Some("Initializing".into())
    );
}

#[test]
fn waiting_connections_go_first_then_new_pods_then_renewals() {
    let (certificates, mut keeper) = Certificates::new(wall);
    let authority = Authority::new("mesh");
    for name in ["renewed", "new", "kept-by-no-one"] {
        certificates.want(id(name));
    }
    keeper.due();
    for name in ["renewed", "kept-by-no-one"] {
        keeper.answered(id(name), Ok(authority.credential(&id(name).to_string())));
        let held = Life::Held {
            until: wall() + Duration::from_secs(60),
            next: mesh::certificate::Pause {
                failures: 0,
                since: Duration::ZERO,
                until: Duration::ZERO,
            },
        };
        keeper.lives.insert(id(name), held);
    }
    certificates
        .0
        .slot(&id("kept-by-no-one"))
        .unwrap()
        .wanted
        .store(false, Ordering::Relaxed);
    let _waiting = Waiting(certificates.0.open(id("awaited"), Slot::begin_waiting));
    let order: Vec<_> = keeper
        .due()
        .iter()
        .map(|(identity, _)| identity.service_account.as_str())
        .collect();
    assert_eq!(order, ["awaited", "new", "renewed"]);
}

#[tokio::test(start_paused = true)]
async fn only_so_many_are_asked_for_at_once() {
    let office = Office::new(3600);
    let certificates = office.start();
    for i in 0..50 {
        certificates.want(id(&format!("pod-{i}")));
    }
    sleep(Duration::from_secs(5)).await;
    assert_eq!(
        (office.most.load(Ordering::Relaxed), office.names().len()),
        (IN_FLIGHT, 50)
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_forgotten_is_not_renewed_nor_handed_out() {
    let office = Office::new(3600);
    let certificates = office.start();
    certificates.want(id("cart"));
    certificates.wait(id("cart"), within(5)).await.unwrap();
    certificates.forget(&id("cart"));
    assert!(certificates.current(&id("cart")).is_none());
    sleep(Duration::from_secs(7200)).await;
    assert_eq!(office.names(), ["cart"]);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_breaks_off_is_made_again() {
    let broken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&broken);
    let (certificates, keeper) = Certificates::new(virtual_wall);
    tokio::spawn(keeper.run(move |_| {
        let count = Arc::clone(&count);
        async move {
            assert!(
                count.fetch_add(1, Ordering::Relaxed) > 1,
                "breaks off twice"
            );
            Err::<Credential, _>("refused".to_owned())
        }
    }));
    let refused = certificates.wait(id("cart"), within(5)).await.unwrap_err();
    assert_eq!(refused.reason, "refused");
    assert!(broken.load(Ordering::Relaxed) > 2);
}

#[tokio::test(start_paused = true)]
async fn someone_elses_certificate_is_no_certificate() {
    let authority = Arc::new(Authority::new("mesh"));
    let (certificates, keeper) = Certificates::new(virtual_wall);
    tokio::spawn(keeper.run(move |_| {
        let credential = authority.credential(&id("bank").to_string());
        async move { Ok::<_, String>(credential) }
    }));
    let refused = certificates.wait(id("cart"), within(2)).await.unwrap_err();
    assert!(refused.reason.contains("sa/bank"), "{refused}");
}
