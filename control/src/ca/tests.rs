//! Facts about the root and the leaves, read back with another parser than the one that wrote them.

use time::OffsetDateTime;
use x509_parser::{extensions::GeneralName, pem::parse_x509_pem};

use super::*;
use crate::state::scratch::Scratch;

const HOUR: Duration = Duration::from_hours(1);

fn open(scratch: &Scratch) -> Result<Authority, StateError> {
    Authority::open(
        &StateDir::open(scratch.path())?,
        "cluster.local",
        SystemTime::now(),
    )
}

fn cart() -> Identity {
    Identity::new("cluster.local", "shop", "cart")
}

fn request(params: &CertificateParams, key: &KeyPair) -> String {
    params.serialize_request(key).unwrap().pem().unwrap()
}

fn plain_request() -> String {
    request(&CertificateParams::default(), &KeyPair::generate().unwrap())
}

#[test]
fn a_leaf_holds_what_we_decided_and_nothing_that_was_asked() {
    let scratch = Scratch::new();
    let authority = open(&scratch).unwrap();
    let mut greedy = CertificateParams::new(vec!["ambit-control".to_owned()]).unwrap();
    greedy.subject_alt_names.push(SanType::URI(
        "spiffe://cluster.local/ns/kube-system/sa/admin"
            .try_into()
            .unwrap(),
    ));
    greedy.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    greedy.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    greedy.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any];
    let now = SystemTime::now();
    let key = KeyPair::generate().unwrap();
    let issued = authority
        .sign(&request(&greedy, &key), cart(), HOUR, now)
        .unwrap();

    let (_, pem) = parse_x509_pem(issued.leaf.as_bytes()).unwrap();
    let leaf = pem.parse_x509().unwrap();
    assert_eq!(
        leaf.public_key().subject_public_key.data.as_ref(),
        key.der_bytes()
    );
    assert_eq!(leaf.subject().iter().count(), 0);
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(names.critical);
    assert_eq!(
        names.value.general_names,
        [GeneralName::URI("spiffe://cluster.local/ns/shop/sa/cart")]
    );
    assert!(!leaf.is_ca());
    let usage = leaf.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && !usage.key_cert_sign());
    let extended = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(
        extended.server_auth && extended.client_auth && !extended.any && extended.other.is_empty()
    );
    let seconds = |time: SystemTime| OffsetDateTime::from(time).unix_timestamp();
    assert_eq!(leaf.validity().not_before.timestamp(), seconds(now - SKEW));
    assert_eq!(leaf.validity().not_after.timestamp(), seconds(now + HOUR));
    assert_eq!(issued.serial, hex(leaf.raw_serial()));
    assert_eq!(leaf.raw_serial().len(), 16);
    assert!(leaf.raw_serial()[0] < 0x80);
    let (_, root) = parse_x509_pem(authority.roots().as_bytes()).unwrap();
    leaf.verify_signature(Some(root.parse_x509().unwrap().public_key()))
        .unwrap();
}

#[test]
fn a_bad_request_is_refused_with_the_reason() {
    let scratch = Scratch::new();
    let authority = open(&scratch).unwrap();
    let sign = |request: &str| {
        authority
            .sign(request, cart(), HOUR, SystemTime::now())
            .map(|_| ())
            .unwrap_err()
    };

    for text in [
        "",
        "no PEM",
        "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
    ] {
        assert!(matches!(sign(text), NotSigned::NotARequest(_)), "{text:?}");
    }
    assert!(matches!(sign(authority.roots()), NotSigned::NotARequest(_)));
    assert_eq!(
        sign(&"A".repeat(MAX_REQUEST + 1)),
        NotSigned::TooLong(MAX_REQUEST + 1)
    );

    let mut der = CertificateSigningRequestDer::from_pem_slice(plain_request().as_bytes())
        .unwrap()
        .to_vec();
    for (at, reason) in [(der.len() - 1, "signature"), (40, "anything")] {
        der[at] ^= 1;
        let forged = pem("CERTIFICATE REQUEST", &der);
        let refused = sign(&forged);
        assert!(
            reason == "anything" || refused == NotSigned::BadSignature,
            "{refused:?}"
        );
        der[at] ^= 1;
    }
    der.push(0);
    assert!(matches!(
        sign(&pem("CERTIFICATE REQUEST", &der)),
        NotSigned::NotARequest(_)
    ));

    let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    assert_eq!(
        sign(&request(&CertificateParams::default(), &ed25519)),
        NotSigned::KeyNotTaken
    );
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        BASE64_STANDARD.encode(der)
    )
}

#[test]
fn no_bytes_of_a_request_make_it_panic_or_sign_another_key() {
    let scratch = Scratch::new();
    let authority = open(&scratch).unwrap();
    let key = KeyPair::generate().unwrap();
    let request = request(&CertificateParams::default(), &key);
    let der = CertificateSigningRequestDer::from_pem_slice(request.as_bytes())
        .unwrap()
        .to_vec();
    for at in 0..der.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut changed = der.clone();
            changed[at] ^= flip;
            // The framing outside of what is signed may be read leniently; then the key is still the one that signed.
            if let Ok(issued) = authority.sign(
                &pem("CERTIFICATE REQUEST", &changed),
                cart(),
                HOUR,
                SystemTime::now(),
            ) {
                let (_, leaf) = parse_x509_pem(issued.leaf.as_bytes()).unwrap();
                let leaf = leaf.parse_x509().unwrap();
                assert_eq!(
                    leaf.public_key().subject_public_key.data.as_ref(),
                    key.der_bytes(),
                    "{at}"
                );
            }
        }
        assert!(
            authority
                .sign(
                    &pem("CERTIFICATE REQUEST", &der[..at]),
                    cart(),
                    HOUR,
                    SystemTime::now()
                )
                .is_err(),
            "{at}"
        );
    }
}

#[test]
fn a_life_is_what_was_asked_up_to_the_longest() {
    let day = Duration::from_hours(24);
    assert_eq!(life(0, day), Ok(day));
    assert_eq!(life(1, day), Ok(Duration::from_secs(1)));
    assert_eq!(life(86_400, day), Ok(day));
    assert_eq!(life(i64::MAX, day), Ok(day));
    assert_eq!(life(-1, day), Err(NotSigned::NegativeLife(-1)));
}

#[test]
fn a_leaf_never_outlives_the_root_and_an_expired_root_signs_nothing() {
    let scratch = Scratch::new();
    let authority = open(&scratch).unwrap();
    let near_the_end = authority.expires() - Duration::from_secs(60);
    let issued = authority
        .sign(&plain_request(), cart(), HOUR, near_the_end)
        .unwrap();
    assert_eq!(issued.expires, authority.expires());
    let after = authority.expires() + Duration::from_secs(1);
    assert_eq!(
        authority
            .sign(&plain_request(), cart(), HOUR, after)
            .unwrap_err(),
        NotSigned::RootExpired
    );
}

#[test]
fn a_restart_keeps_the_root() {
    let scratch = Scratch::new();
    let first = open(&scratch).unwrap().roots().to_owned();
    assert_eq!(open(&scratch).unwrap().roots(), first);
    assert_eq!(
        std::fs::read_to_string(scratch.path().join(ROOT_CERT)).unwrap(),
        first
    );
}

#[test]
fn half_a_root_is_refused_unless_nobody_can_have_seen_it() {
    let scratch = Scratch::new();
    open(&scratch).unwrap();
    let key = std::fs::read(scratch.path().join(ROOT_KEY)).unwrap();

    std::fs::remove_file(scratch.path().join(ROOT_KEY)).unwrap();
    let error = open(&scratch).unwrap_err().to_string();
    assert!(
        error.contains("root-key.pem: is missing beside the root certificate"),
        "{error}"
    );

    let other = Scratch::new();
    open(&other).unwrap();
    std::fs::copy(other.path().join(ROOT_KEY), scratch.path().join(ROOT_KEY)).unwrap();
    let error = open(&scratch).unwrap_err().to_string();
    assert!(
        error.contains("is not the certificate of root-key.pem"),
        "{error}"
    );

    std::fs::write(scratch.path().join(ROOT_KEY), "no key").unwrap();
    let error = open(&scratch).unwrap_err().to_string();
    assert!(error.contains("is not a private key in PEM"), "{error}");

    std::fs::write(scratch.path().join(ROOT_KEY), &key).unwrap();
    std::fs::remove_file(scratch.path().join(ROOT_CERT)).unwrap();
    open(&scratch).unwrap();
}
