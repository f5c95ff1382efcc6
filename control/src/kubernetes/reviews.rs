//! Who calls, on Kubernetes: a service account token, reviewed by the API server for our audience and bound to a pod.
//!
//! Every call is reviewed anew. Calls are few (a stream lasts, a certificate lives for hours), and so a token whose pod
//! is gone is good for nothing at once.

use std::fmt;

use http::HeaderMap;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::{Api, Client, api::PostParams};

use crate::{
    placements::Placements,
    serve::Caller,
    subject::Subject,
    tokens::{NotAuthenticated, presented},
    world::Key,
};

/// The audience that tokens of proxies are made for.
pub const AUDIENCE: &str = "istio-ca";

const USER: &str = "system:serviceaccount:";
const POD: &str = "authentication.kubernetes.io/pod-name";
const NODE: &str = "authentication.kubernetes.io/node-name";

/// Asks the API server.
#[derive(Clone)]
pub struct Reviews {
    client: Client,
    /// Namespace and name of the service account that node proxies run as.
    node_proxies: Key,
}

impl Reviews {
    /// Node proxies are those who run as this service account.
    pub fn new(client: Client, node_proxies: Key) -> Self {
        Self {
            client,
            node_proxies,
        }
    }

    /// Who sends a request. `placements` knows where pods run.
    pub async fn caller(
        &self,
        headers: &HeaderMap,
        placements: &Placements,
    ) -> Result<Caller, NotAuthenticated> {
        let token = String::from_utf8_lossy(presented(headers)?).into_owned();
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: Some(token),
                audiences: Some(vec![AUDIENCE.to_owned()]),
            },
            ..TokenReview::default()
        };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let reviewed = api
            .create(&PostParams::default(), &review)
            .await
            .map_err(|error| NotAuthenticated::Unreviewed(error.to_string()))?;
        let status = reviewed.status.unwrap_or_default();
        caller(&status, &self.node_proxies, placements)
    }
}

impl fmt::Debug for Reviews {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reviews")
            .field("node_proxies", &self.node_proxies)
            .finish_non_exhaustive()
    }
}

/// Whom the API server takes the token's owner for. Pure.
fn caller(
    status: &TokenReviewStatus,
    node_proxies: &Key,
    placements: &Placements,
) -> Result<Caller, NotAuthenticated> {
    if status.authenticated != Some(true) {
        let why = status.error.clone().unwrap_or_default();
        return Err(NotAuthenticated::Refused(why));
    }
    // One that does not know audiences says nothing of them, and would let any token in.
    let audiences = status.audiences.as_deref().unwrap_or_default();
    if !audiences.iter().any(|audience| audience == AUDIENCE) {
        return Err(NotAuthenticated::WrongAudience);
    }
    let user = status.user.clone().unwrap_or_default();
    let name = user.username.as_deref().unwrap_or_default();
    let account = name
        .strip_prefix(USER)
        .and_then(|account| account.split_once(':'))
        .ok_or_else(|| NotAuthenticated::NotAServiceAccount(name.to_owned()))?;
    let extra = user.extra.unwrap_or_default();
    let only = |key: &str| match extra.get(key).map(Vec::as_slice) {
        Some([one]) => Some(one.as_str()),
        _ => None,
    };
    let pod = only(POD).ok_or(NotAuthenticated::NotOfAPod)?;
    let (namespace, account) = account;
    if (namespace, account) == (node_proxies.0.as_str(), node_proxies.1.as_str()) {
        let node = only(NODE).or_else(|| placements.node_of(namespace, pod));
        let node = node.ok_or_else(|| NotAuthenticated::NoNode(pod.to_owned()))?;
        return Ok(Caller::Subject(Subject::Node(node.to_owned())));
    }
    Ok(Caller::Account((namespace.to_owned(), account.to_owned())))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::api::authentication::v1::UserInfo;

    use super::*;

    fn status(user: &str, extra: &[(&str, &str)]) -> TokenReviewStatus {
        let extra: BTreeMap<_, _> = extra
            .iter()
            .map(|(key, value)| ((*key).to_owned(), vec![(*value).to_owned()]))
            .collect();
        TokenReviewStatus {
            audiences: Some(vec![AUDIENCE.to_owned()]),
            authenticated: Some(true),
            user: Some(UserInfo {
                username: Some(user.to_owned()),
                extra: Some(extra),
                ..UserInfo::default()
            }),
            ..TokenReviewStatus::default()
        }
    }

    fn of(status: &TokenReviewStatus) -> Result<Caller, NotAuthenticated> {
        let mut placements = Placements::default();
        placements.add("n9", "ambit-system", "ztunnel-1", "ztunnel");
        let proxies = ("ambit-system".to_owned(), "ztunnel".to_owned());
        caller(status, &proxies, &placements)
    }

    const PROXY: &str = "system:serviceaccount:ambit-system:ztunnel";

    #[test]
    fn a_node_proxy_speaks_for_the_node_that_its_token_is_bound_to() {
        let bound = status(PROXY, &[(POD, "ztunnel-1"), (NODE, "n1")]);
        assert_eq!(
            of(&bound),
            Ok(Caller::Subject(Subject::Node("n1".to_owned())))
        );
        // An older API server does not say which node that is.
        let older = status(PROXY, &[(POD, "ztunnel-1")]);
        let n9 = Subject::Node("n9".to_owned());
        assert_eq!(of(&older), Ok(Caller::Subject(n9)));
        let unknown = status(PROXY, &[(POD, "ztunnel-2")]);
        let no_node = NotAuthenticated::NoNode("ztunnel-2".to_owned());
        assert_eq!(of(&unknown), Err(no_node));
    }

    #[test]
    fn an_account_of_that_name_elsewhere_is_no_node_proxy() {
        let other = status(
            "system:serviceaccount:shop:ztunnel",
            &[(POD, "p"), (NODE, "n1")],
        );
        let shop = ("shop".to_owned(), "ztunnel".to_owned());
        assert_eq!(of(&other), Ok(Caller::Account(shop)));
    }

    #[test]
    fn tokens_that_are_not_of_a_pod_and_for_us_are_refused() {
        let pod = [(POD, "ztunnel-1"), (NODE, "n1")];
        assert_eq!(of(&status(PROXY, &[])), Err(NotAuthenticated::NotOfAPod));
        let user = status("system:admin", &pod);
        let not_an_account = NotAuthenticated::NotAServiceAccount("system:admin".to_owned());
        assert_eq!(of(&user), Err(not_an_account));
        let mut other = status(PROXY, &pod);
        other.audiences = Some(vec!["https://kubernetes.default.svc".to_owned()]);
        assert_eq!(of(&other), Err(NotAuthenticated::WrongAudience));
        other.audiences = None;
        assert_eq!(of(&other), Err(NotAuthenticated::WrongAudience));
        let mut gone = status(PROXY, &pod);
        gone.authenticated = Some(false);
        gone.error = Some("the pod is gone".to_owned());
        let refused = NotAuthenticated::Refused("the pod is gone".to_owned());
        assert_eq!(of(&gone), Err(refused));
        assert!(of(&TokenReviewStatus::default()).is_err());
    }
}
