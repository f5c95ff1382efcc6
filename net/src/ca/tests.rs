//! An authority in memory that answers well and badly.

use std::sync::{Arc, Mutex};

use proto::auth::IstioCertificateResponse;
use rcgen::CertificateSigningRequestParams;
use tonic::{Request, Response, Status, async_trait};
use x509_parser::{certification_request::X509CertificationRequest, prelude::*};

use super::*;
use crate::{
    channel::{Roots, Server, Token, memory},
    clock::wall,
    tls::authority::{Authority as Root, Leaf},
};

#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic
)]
mod served {
    include!("../../../control/src/gen/istio.v1.auth.rs");
}
use served::istio_certificate_service_server::{
    IstioCertificateService, IstioCertificateServiceServer,
};

const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";

type Answer = Box<dyn Fn(&Root, &str) -> Result<Vec<String>, Status> + Send + Sync>;

struct Service {
    root: Root,
    answer: Answer,
    seen: Arc<Mutex<Vec<Request<IstioCertificateRequest>>>>,
}

#[async_trait]
impl IstioCertificateService for Service {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let answer = (self.answer)(&self.root, &request.get_ref().csr);
        self.seen.lock().unwrap().push(request);
        answer.map(|cert_chain| Response::new(IstioCertificateResponse { cert_chain }))
    }
}

/// Asks once, for CART, an authority that answers so.
async fn ask(
    answer: Answer,
) -> (
    Result<Credential, NotIssued>,
    Vec<Request<IstioCertificateRequest>>,
) {
    let (dialer, incoming) = memory::pair();
    let seen = Arc::default();
    let service = Service {
        root: Root::new("mesh"),
        answer,
        seen: Arc::clone(&seen),
    };
    let server = tonic::transport::Server::builder()
        .add_service(IstioCertificateServiceServer::new(service));
    tokio::spawn(server.serve_with_incoming(incoming));
    let caller = Caller {
        token: Some(Token::Literal("t0".into())),
        cluster: "Kubernetes".into(),
        headers: vec![],
    };
    let authority = Authority {
        channel: dialer.lazy(),
        caller,
        life: Duration::from_secs(86_400),
        aliases: vec![],
        now: wall,
    };
    let outcome = authority.issue(CART.parse().unwrap()).await;
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    (outcome, seen)
}

fn sign(root: &Root, csr: &str, names: &[&str]) -> Vec<String> {
    let csr = CertificateSigningRequestParams::from_pem(csr).unwrap();
    let leaf = Leaf::with(
        names
            .iter()
            .map(|name| crate::tls::authority::uri(name))
            .collect(),
    );
    vec![root.sign(&leaf, &csr.public_key), root.root()]
}

#[tokio::test]
async fn the_request_is_what_the_service_expects() {
    let (outcome, seen) = ask(Box::new(|root, csr| Ok(sign(root, csr, &[CART])))).await;
    let credential = outcome.unwrap();
    assert_eq!(
        (
            credential.identity().to_string().as_str(),
            credential.serial()
        ),
        (CART, "7")
    );

    let [request] = seen.as_slice() else {
        panic!("one request")
    };
    let header = |name: &str| {
        request
            .metadata()
            .get(name)
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(
        (
            header("authorization").as_str(),
            header("clusterid").as_str()
        ),
        ("Bearer t0", "Kubernetes")
    );
    let message = request.get_ref();
    assert_eq!(message.validity_duration, 86_400);
    let fields = &message.metadata.as_ref().unwrap().fields;
    assert_eq!(fields.len(), 1);
    assert_eq!(
        fields[IMPERSONATED].kind,
        Some(Kind::StringValue(CART.into()))
    );

    let (_, pem) = parse_x509_pem(message.csr.as_bytes()).unwrap();
    let (_, csr) = X509CertificationRequest::from_der(&pem.contents).unwrap();
    csr.verify_signature().unwrap();
    let info = &csr.certification_request_info;
    assert_eq!(info.subject.iter().count(), 0);
    let extensions: Vec<_> = csr.requested_extensions().unwrap().collect();
    let [ParsedExtension::SubjectAlternativeName(san)] = extensions.as_slice() else {
        panic!("{extensions:?}")
    };
    assert_eq!(san.general_names, [GeneralName::URI(CART)]);
    let params = CertificateSigningRequestParams::from_pem(&message.csr).unwrap();
    assert_eq!(
        params.public_key.algorithm(),
        &rcgen::PKCS_ECDSA_P256_SHA256
    );
}

#[tokio::test]
async fn answers_that_are_of_no_use_are_named() {
    let bank = "spiffe://cluster.local/ns/bank/sa/teller";
    let (outcome, _) = ask(Box::new(move |root, csr| Ok(sign(root, csr, &[bank])))).await;
    assert!(
        matches!(
            outcome,
            Err(NotIssued::Bad(BadCredential::WrongIdentity { .. }))
        ),
        "{outcome:?}"
    );
    let (outcome, _) = ask(Box::new(move |root, csr| {
        Ok(sign(root, csr, &[CART, bank]))
    }))
    .await;
    assert!(
        matches!(outcome, Err(NotIssued::Bad(BadCredential::BadSan(_)))),
        "{outcome:?}"
    );
    let (outcome, _) = ask(Box::new(|root, _| Ok(root.issue(&Leaf::of(CART)).chain))).await;
    assert!(
        matches!(outcome, Err(NotIssued::Bad(BadCredential::Unusable(_)))),
        "{outcome:?}"
    );
    let (outcome, _) = ask(Box::new(|_, _| Ok(vec![]))).await;
    assert_eq!(
        outcome.err(),
        Some(NotIssued::Bad(BadCredential::Incomplete))
    );
    let (outcome, _) = ask(Box::new(|_, _| {
        Err(Status::unauthenticated("not your pod"))
    }))
    .await;
    assert_eq!(
        outcome.err(),
        Some(NotIssued::Refused(
            Code::Unauthenticated,
            "not your pod".into()
        ))
    );
}

#[tokio::test(start_paused = true)]
async fn an_authority_that_is_silent_or_away_is_told_apart() {
    let (dialer, incoming) = memory::pair();
    let caller = Caller {
        token: None,
        cluster: "Kubernetes".into(),
        headers: vec![],
    };
    let life = Duration::from_secs(60);
    let authority = Authority {
        channel: dialer.lazy(),
        caller,
        life,
        aliases: vec![],
        now: wall,
    };
    assert_eq!(
        authority.issue(CART.parse().unwrap()).await.err(),
        Some(NotIssued::Timeout)
    );
    drop(incoming);
    let authority = Authority {
        channel: dialer.lazy(),
        ..authority
    };
    let outcome = authority.issue(CART.parse().unwrap()).await;
    assert_eq!(
        outcome.err(),
        Some(NotIssued::Unreachable("connection refused".into()))
    );
}

#[tokio::test]
async fn an_authority_out_of_reach_is_told_in_plain_words() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let address = format!("https://{closed}");
    let why = async |roots: Roots| {
        let server = Server::new(&address, roots, None).unwrap();
        let caller = Caller {
            token: None,
            cluster: "Kubernetes".into(),
            headers: vec![],
        };
        let authority = Authority {
            channel: server.lazy(),
            caller,
            life: Duration::from_secs(60),
            aliases: vec![],
            now: wall,
        };
        let outcome = authority.issue(CART.parse().unwrap()).await;
        let connected = server.connect().await.unwrap_err().to_string();
        (outcome.unwrap_err().to_string(), connected)
    };
    let refused = format!("connection refused ({closed})");
    assert_eq!(
        why(Roots::Pem(Root::new("mesh").root())).await,
        (
            format!("the certificate authority cannot be reached: {refused}"),
            format!("the control plane cannot be reached: {refused}")
        )
    );
    // The server is there, and its roots are not.
    let listener = tokio::net::TcpListener::bind(closed).await.unwrap();
    let (asked, _) = why(Roots::File("/nowhere/root.pem".into())).await;
    assert_eq!(
        asked,
        "the certificate authority cannot be reached: /nowhere/root.pem cannot be read: entity not found"
    );
    drop(listener);
}
