//! Handshakes in memory, with peers of every kind of trouble.

use std::time::Duration;

use mesh::name::Name;
use rcgen::{ExtendedKeyUsagePurpose, SanType};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::{
    authority::{Authority, Leaf, uri},
    *,
};

const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";
const BANK: &str = "spiffe://cluster.local/ns/bank/sa/teller";

fn id(text: &str) -> Identity {
    text.parse().unwrap()
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

/// Both ends of one handshake. The client reads once, because that is where it learns of a refusal.
async fn shake(
    client: &Credential,
    expected: &[Identity],
    server: &Credential,
) -> (Result<Peer, TlsError>, Result<Peer, TlsError>) {
    let (near, far) = duplex(64 * 1024);
    let serve = async {
        let (mut stream, peer) = accept(far, server, soon()).await?;
        stream.write_all(b"!").await?;
        stream.shutdown().await?;
        Ok(peer)
    };
    let dial = async {
        let (mut stream, peer) = connect(near, client, expected, soon()).await?;
        stream.read_u8().await?;
        Ok(peer)
    };
    tokio::join!(dial, serve)
}

/// A peer that holds this leaf, whoever issued it, and trusts `mesh`.
fn peer_with(mesh: &Authority, issuer: &Authority, leaf: &Leaf) -> Credential {
    let mut issued = issuer.issue(leaf);
    issued.chain[1] = mesh.root();
    Credential::unchecked(issued, id(CART))
}

/// What our side says, as server and as client, to a peer that holds this leaf where CART is expected.
async fn judged(issuer: Option<&Authority>, leaf: &Leaf) -> [Result<Peer, TlsError>; 2] {
    let mesh = Authority::new("mesh");
    let us = mesh.credential(BANK);
    let them = peer_with(&mesh, issuer.unwrap_or(&mesh), leaf);
    let (their_view, as_server) = shake(&them, &[id(BANK)], &us).await;
    assert_eq!(
        their_view.is_ok(),
        as_server.is_ok(),
        "a refusal is told: {their_view:?} {as_server:?}"
    );
    let (as_client, their_view) = shake(&us, &[id(CART)], &them).await;
    assert_eq!(
        their_view.is_ok(),
        as_client.is_ok(),
        "a refusal is told: {their_view:?} {as_client:?}"
    );
    [as_server, as_client]
}

#[tokio::test]
async fn each_side_learns_who_the_other_is() {
    let mesh = Authority::new("mesh");
    let (cart, bank) = (mesh.credential(CART), mesh.credential(BANK));
    let (server, client) = shake(&cart, &[id(CART), id(BANK)], &bank).await;
    assert_eq!(server.unwrap().identity, id(BANK));
    let client = client.unwrap();
    assert_eq!((client.identity, client.serial.as_str()), (id(CART), "7"));
    assert_eq!(client.not_after, cart.not_after());
}

#[tokio::test]
async fn names_that_are_not_one_identity_are_refused() {
    let san = |names: Vec<SanType>| Leaf::with(names);
    let dns = SanType::DnsName("cart.shop".try_into().unwrap());
    let not_an_identity = |text: &str| match text.parse::<Identity>() {
        Err(why) => TlsError::BadSan(BadSan::NotAnIdentity(why)),
        Ok(id) => panic!("{id} is one"),
    };
    let mut cases = vec![
        (san(vec![]), TlsError::BadSan(BadSan::Count(0))),
        (san(vec![dns]), TlsError::BadSan(BadSan::Count(0))),
        (
            san(vec![uri(CART), uri(BANK)]),
            TlsError::BadSan(BadSan::Count(2)),
        ),
        (
            san(vec![uri(CART), uri(CART)]),
            TlsError::BadSan(BadSan::Count(2)),
        ),
        (
            san(vec![uri(CART), uri("https://x.example")]),
            TlsError::BadSan(BadSan::Count(2)),
        ),
    ];
    for text in [
        "SPIFFE://cluster.local/ns/shop/sa/cart",
        "spiffe://cluster.local/ns/shop/sa/cart/",
        "spiffe://cluster.local/ns/shop/sa/cart\0",
        "spiffe://cluster.local/ns/shop\0/sa/cart",
        "spiffe://cluster.local/ns/shop/sa/cart?",
        "spiffe://cluster.local/ns/shop/sa/c%61rt",
        "spiffe://cluster.local/ns/shop",
        "https://cluster.local/ns/shop/sa/cart",
        "",
    ] {
        cases.push((san(vec![uri(text)]), not_an_identity(text)));
    }
    for (leaf, why) in cases {
        let names = format!("{:?}", leaf.names);
        assert_eq!(
            judged(None, &leaf).await,
            [Err(why.clone()), Err(why)],
            "{names}"
        );
    }
}

#[tokio::test]
async fn a_foreign_trust_domain_is_refused_unless_it_is_an_alias() {
    let old = "spiffe://old.local/ns/shop/sa/cart";
    let [as_server, as_client] = judged(None, &Leaf::of(old)).await;
    assert_eq!(
        as_server,
        Err(TlsError::WrongTrustDomain {
            peer: id(old),
            ours: Name::new("cluster.local")
        })
    );
    assert_eq!(
        as_client,
        Err(TlsError::UnexpectedIdentity {
            peer: id(old),
            expected: vec![id(CART)]
        })
    );

    let mesh = Authority::new("mesh");
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let bank = Credential::new(
        mesh.issue(&Leaf::of(BANK)),
        id(BANK),
        &[Name::new("old.local")],
        now,
    )
    .unwrap();
    let (_, ours) = shake(&peer_with(&mesh, &mesh, &Leaf::of(old)), &[id(BANK)], &bank).await;
    assert_eq!(ours.unwrap().identity, id(old));
}

#[tokio::test]
async fn a_server_that_is_someone_else_is_refused() {
    let mesh = Authority::new("mesh");
    let (cart, bank) = (mesh.credential(CART), mesh.credential(BANK));
    for expected in [vec![id(CART)], vec![]] {
        let (ours, theirs) = shake(&cart, &expected, &bank).await;
        assert_eq!(
            ours,
            Err(TlsError::UnexpectedIdentity {
                peer: id(BANK),
                expected
            })
        );
        assert!(matches!(theirs, Err(TlsError::Refused(_))), "{theirs:?}");
    }
}

#[tokio::test]
async fn dates_purposes_and_issuers_are_checked() {
    let good = Leaf::of(CART);
    let expired = Leaf {
        valid: -120..-1,
        ..good.clone()
    };
    let early = Leaf {
        valid: 60..120,
        ..good.clone()
    };
    assert_eq!(
        judged(None, &expired).await,
        [Err(TlsError::Expired), Err(TlsError::Expired)]
    );
    assert_eq!(
        judged(None, &early).await,
        [Err(TlsError::NotYetValid), Err(TlsError::NotYetValid)]
    );

    let servers_only = Leaf {
        usages: vec![ExtendedKeyUsagePurpose::ServerAuth],
        ..good.clone()
    };
    let [as_server, as_client] = judged(None, &servers_only).await;
    assert_eq!(
        (as_server, as_client.is_ok()),
        (Err(TlsError::WrongPurpose), true)
    );
    let clients_only = Leaf {
        usages: vec![ExtendedKeyUsagePurpose::ClientAuth],
        ..good.clone()
    };
    let [as_server, as_client] = judged(None, &clients_only).await;
    assert_eq!(
        (as_server.is_ok(), as_client),
        (true, Err(TlsError::WrongPurpose))
    );

    for name in ["other", "mesh"] {
        let other = Authority::new(name);
        assert_eq!(
            judged(Some(&other), &good).await,
            [Err(TlsError::UnknownIssuer), Err(TlsError::UnknownIssuer)]
        );
    }
}

/// A client without a certificate, offering these protocols.
fn anonymous(offer: &[&[u8]]) -> Arc<rustls::ClientConfig> {
    let mesh = Authority::new("mesh");
    let template = mesh.credential(CART).client(&[id(BANK)]);
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.dangerous().set_certificate_verifier(Arc::new(Anyone(
        template.crypto_provider().signature_verification_algorithms,
    )));
    config.alpn_protocols = offer.iter().map(|p| p.to_vec()).collect();
    Arc::new(config)
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let bank = Authority::new("mesh").credential(BANK);
    let (near, far) = duplex(64 * 1024);
    let nobody = ServerName::try_from("some.name").unwrap();
    let dial = async {
        let mut stream = TlsConnector::from(anonymous(&[]))
            .connect(nobody, near)
            .await
            .unwrap();
        TlsError::from(stream.read_u8().await.unwrap_err())
    };
    let (theirs, ours) = tokio::join!(dial, accept(far, &bank, soon()));
    assert_eq!(ours.map(|_| ()), Err(TlsError::NoCertificate));
    assert_eq!(theirs, TlsError::Refused("certificate_required".into()));
}

#[tokio::test]
async fn another_protocol_than_h2_is_refused_and_none_is_accepted() {
    let mesh = Authority::new("mesh");
    let (cart, bank) = (mesh.credential(CART), mesh.credential(BANK));
    for (offer, fine) in [
        (&[][..], true),
        (&[b"http/1.1".as_slice()], false),
        (&[b"http/1.1".as_slice(), b"h2"], true),
    ] {
        let mut config = (*cart.client(&[id(BANK)])).clone();
        config.alpn_protocols = offer.iter().map(|p| p.to_vec()).collect();
        // Whatever name a client sends is ignored.
        config.enable_sni = true;
        let (near, far) = duplex(64 * 1024);
        let name = ServerName::try_from("some.name").unwrap();
        let dial = TlsConnector::from(Arc::new(config)).connect(name, near);
        let (_, ours) = tokio::join!(dial, accept(far, &bank, soon()));
        match ours {
            Ok((_, peer)) => assert!(fine && peer.identity == id(CART), "{offer:?}"),
            Err(why) => assert!(
                !fine && matches!(why, TlsError::Incompatible(_)),
                "{offer:?} {why}"
            ),
        }
    }
}

#[tokio::test]
async fn tls_1_2_is_refused_with_protocol_version() {
    let bank = Authority::new("mesh").credential(BANK);
    let (mut near, far) = duplex(64 * 1024);
    // Suites c02b and 00ff; groups, point formats and signature algorithms of a client of its time.
    let extensions =
        b"\x00\x0a\x00\x04\x00\x02\x00\x17\x00\x0b\x00\x02\x01\x00\x00\x0d\x00\x04\x00\x02\x04\x03";
    let mut hello = vec![3, 3];
    hello.extend([9; 32]);
    hello.extend(b"\x00\x00\x04\xc0\x2b\x00\xff\x01\x00\x00");
    hello.push(extensions.len() as u8);
    hello.extend(extensions);
    let mut record = vec![
        0x16,
        3,
        1,
        0,
        hello.len() as u8 + 4,
        1,
        0,
        0,
        hello.len() as u8,
    ];
    record.extend(hello);
    near.write_all(&record).await.unwrap();
    let why = accept(far, &bank, soon()).await.map(|_| ()).unwrap_err();
    assert!(matches!(why, TlsError::Incompatible(_)), "{why}");
    let mut alert = [0; 7];
    near.read_exact(&mut alert).await.unwrap();
    assert_eq!((alert[0], alert[5], alert[6]), (0x15, 2, 70));
}

#[tokio::test]
async fn bytes_that_are_not_tls_are_refused() {
    let bank = Authority::new("mesh").credential(BANK);
    let (mut near, far) = duplex(64 * 1024);
    near.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let why = accept(far, &bank, soon()).await.map(|_| ()).unwrap_err();
    assert!(matches!(why, TlsError::Incompatible(_)), "{why}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_left_at_the_deadline() {
    let mesh = Authority::new("mesh");
    let (cart, bank) = (mesh.credential(CART), mesh.credential(BANK));
    let begun = Instant::now();
    let (_near, far) = duplex(1024);
    assert_eq!(
        accept(far, &bank, soon()).await.map(|_| ()),
        Err(TlsError::Timeout)
    );
    let (_near, far) = duplex(1024);
    assert_eq!(
        connect(far, &cart, &[id(BANK)], soon()).await.map(|_| ()),
        Err(TlsError::Timeout)
    );
    assert_eq!(begun.elapsed(), Duration::from_secs(10));
}

#[tokio::test]
async fn a_peer_that_leaves_has_closed() {
    let bank = Authority::new("mesh").credential(BANK);
    let (near, far) = duplex(1024);
    drop(near);
    assert_eq!(
        accept(far, &bank, soon()).await.map(|_| ()),
        Err(TlsError::Closed)
    );
}

#[tokio::test]
async fn one_byte_at_a_time_is_enough() {
    let mesh = Authority::new("mesh");
    let (cart, bank) = (mesh.credential(CART), mesh.credential(BANK));
    let (near, middle) = duplex(64 * 1024);
    let (next, far) = duplex(64 * 1024);
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (tokio::io::split(middle), tokio::io::split(next));
    let drip = tokio::spawn(async move {
        while let Ok(byte) = from_client.read_u8().await {
            to_server.write_u8(byte).await.unwrap();
            // The server sees this byte before the next one comes.
            tokio::task::yield_now().await;
        }
    });
    let back = tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
    let expected = [id(BANK)];
    let (dialed, accepted) = tokio::join!(
        connect(near, &cart, &expected, soon()),
        accept(far, &bank, soon())
    );
    assert_eq!(
        (dialed.unwrap().1.identity, accepted.unwrap().1.identity),
        (id(BANK), id(CART))
    );
    drip.abort();
    back.abort();
}

#[tokio::test]
async fn no_tickets_are_sent() {
    let mesh = Authority::new("mesh");
    let (cart, bank) = (mesh.credential(CART), mesh.credential(BANK));
    let (near, far) = duplex(64 * 1024);
    let expected = [id(BANK)];
    let (dialed, accepted) = tokio::join!(
        connect(near, &cart, &expected, soon()),
        accept(far, &bank, soon())
    );
    let (mut client, mut server) = (dialed.unwrap().0, accepted.unwrap().0);
    server.shutdown().await.unwrap();
    assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
    assert_eq!(client.get_ref().1.tls13_tickets_received(), 0);
}

#[test]
fn only_what_was_asked_for_becomes_a_credential() {
    let mesh = Authority::new("mesh");
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let good = Leaf::of(CART);
    let take = |issued: Issued, now: i64| {
        Credential::new(issued, id(CART), &[], now).map(|c| c.serial().to_owned())
    };
    assert_eq!(take(mesh.issue(&good), now), Ok("7".into()));
    assert_eq!(
        take(mesh.issue(&good), now + 3601),
        Err(BadCredential::Expired)
    );
    assert_eq!(
        take(mesh.issue(&good), now - 200),
        Err(BadCredential::NotYetValid)
    );
    let wrong = BadCredential::WrongIdentity {
        got: id(BANK),
        asked: id(CART),
    };
    assert_eq!(take(mesh.issue(&Leaf::of(BANK)), now), Err(wrong));
    let two = mesh.issue(&Leaf::with(vec![uri(CART), uri(BANK)]));
    assert_eq!(take(two, now), Err(BadCredential::BadSan(BadSan::Count(2))));

    let with = |change: &dyn Fn(&mut Issued)| {
        let mut issued = mesh.issue(&good);
        change(&mut issued);
        take(issued, now)
    };
    assert!(matches!(
        with(&|i| i.key = mesh.issue(&good).key),
        Err(BadCredential::Unusable(_))
    ));
    assert_eq!(
        with(&|i| drop(i.chain.pop())),
        Err(BadCredential::Incomplete)
    );
    assert_eq!(with(&|i| i.chain.clear()), Err(BadCredential::Incomplete));
    assert_eq!(
        with(&|i| i.chain[0] = "hello".into()),
        Err(BadCredential::Malformed)
    );
    assert_eq!(
        with(&|i| i.chain[1].clear()),
        Err(BadCredential::Incomplete)
    );
    assert_eq!(
        with(&|i| i.chain[0] = i.chain[0].replace('M', "N")),
        Err(BadCredential::Malformed)
    );
    // A bundle of roots may hold several, and a chain's entry too.
    assert_eq!(
        with(&|i| i.chain[1] += &Authority::new("next").root()),
        Ok("7".into())
    );
}

/// Takes any server.
#[derive(Debug)]
struct Anyone(rustls::crypto::WebPkiSupportedAlgorithms);

impl rustls::client::danger::ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        unreachable!("TLS 1.3 only")
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.supported_schemes()
    }
}
