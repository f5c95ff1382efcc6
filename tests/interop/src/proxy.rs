//! A node proxy that is not ours, as its control plane sees it: two types on one discovery stream, and certificates in the
//! names of its node's pods.

use std::{collections::BTreeMap, net::IpAddr};

use bytes::Bytes;
use prost::Message as _;
use prost_types::{Struct, Value, value::Kind};
use proto::{
    ADDRESS_TYPE, AUTHORIZATION_TYPE,
    auth::{IstioCertificateRequest, IstioCertificateResponse},
    core::Node,
    discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    rpc,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};

use crate::{
    grpc::{CERTIFICATES, Call, Client, DISCOVERY, Refused},
    tunnel::Credential,
};

/// What a proxy says of itself.
pub fn node(name: &str, address: IpAddr) -> Node {
    let pod = "ztunnel-abcde";
    let namespace = "mesh-system";
    let facts = [
        ("INSTANCE_IPS", address.to_string()),
        ("NAME", pod.to_owned()),
        ("NAMESPACE", namespace.to_owned()),
        ("NODE_NAME", name.to_owned()),
    ];
    Node {
        id: format!("ztunnel~{address}~{pod}.{namespace}~{namespace}.svc.cluster.local"),
        metadata: Some(texts(&facts)),
        ..Node::default()
    }
}

fn texts(facts: &[(&str, String)]) -> Struct {
    let value = |text: &String| Value {
        kind: Some(Kind::StringValue(text.clone())),
    };
    let fields = facts
        .iter()
        .map(|(name, text)| ((*name).to_owned(), value(text)));
    Struct {
        fields: fields.collect(),
    }
}

/// A discovery stream, and what is held of what came on it: bytes and version by type and name.
#[derive(Debug)]
pub struct Stream {
    call: Call,
    /// All resources.
    pub held: BTreeMap<(String, String), (Bytes, String)>,
}

impl Stream {
    /// Asks for everything of both types at once, telling of versions that are held from an earlier stream.
    pub async fn begin(client: &Client, node: &Node, held: &[(&str, &str)]) -> Self {
        let mut call = client.begin(DISCOVERY).await;
        let held = held
            .iter()
            .map(|(name, it)| ((*name).to_owned(), (*it).to_owned()));
        let address = DeltaDiscoveryRequest {
            node: Some(node.clone()),
            type_url: ADDRESS_TYPE.to_owned(),
            initial_resource_versions: held.collect(),
            ..DeltaDiscoveryRequest::default()
        };
        let policies = DeltaDiscoveryRequest {
            node: Some(node.clone()),
            type_url: AUTHORIZATION_TYPE.to_owned(),
            ..DeltaDiscoveryRequest::default()
        };
        call.say(&[&address.encode_to_vec(), &policies.encode_to_vec()]);
        Self {
            call,
            held: BTreeMap::new(),
        }
    }

    /// Takes the next response, and acknowledges it, or refuses it for this reason.
    ///
    /// # Errors
    /// If the stream ends.
    pub async fn next(&mut self, refuse: Option<&str>) -> Result<DeltaDiscoveryResponse, Refused> {
        let bytes = self.call.next().await?;
        let response = DeltaDiscoveryResponse::decode(bytes).expect("a response");
        for resource in &response.resources {
            let any = resource.resource.as_ref().expect("a resource");
            assert_eq!(any.type_url, response.type_url);
            let key = (response.type_url.clone(), resource.name.clone());
            let value = (Bytes::from(any.value.clone()), resource.version.clone());
            self.held.insert(key, value);
        }
        for name in &response.removed_resources {
            self.held.remove(&(response.type_url.clone(), name.clone()));
        }
        let error_detail = refuse.map(|why| rpc::Status {
            code: 3,
            message: why.to_owned(),
            ..rpc::Status::default()
        });
        // Nothing but type, nonce and, if so, the reason.
        let answer = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail,
            ..DeltaDiscoveryRequest::default()
        };
        self.call.say(&[&answer.encode_to_vec()]);
        Ok(response)
    }

    /// Takes responses until what is held is as wanted.
    ///
    /// # Panics
    /// If the stream ends before.
    pub async fn until(&mut self, wanted: impl Fn(&Self) -> bool) {
        while !wanted(self) {
            self.next(None).await.expect("the stream goes on");
        }
    }

    /// What is held under this name.
    pub fn get(&self, type_url: &str, name: &str) -> Option<&Bytes> {
        let found = self.held.get(&(type_url.to_owned(), name.to_owned()));
        found.map(|(bytes, _)| bytes)
    }
}

/// Asks for a certificate in the name of a pod.
///
/// # Errors
/// If the control plane refuses.
pub async fn certificate(client: &Client, identity: &str) -> Result<Credential, Refused> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let name = identity.try_into().expect("a name");
    params.subject_alt_names = vec![SanType::URI(name)];
    let csr = params.serialize_request(&key).expect("a request");
    let request = IstioCertificateRequest {
        csr: csr.pem().expect("PEM"),
        validity_duration: 86_400,
        metadata: Some(texts(&[("ImpersonatedIdentity", identity.to_owned())])),
    };
    let answer = client.ask(CERTIFICATES, &request.encode_to_vec()).await?;
    let answer = IstioCertificateResponse::decode(answer).expect("an answer");
    Ok(Credential {
        chain: answer.cert_chain,
        key: key.serialize_pem(),
    })
}
