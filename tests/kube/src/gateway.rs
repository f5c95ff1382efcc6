//! As much of the Gateway API as waypoints need.

/// The kinds, as the API server is to serve them: it takes anything in them.
pub fn api() -> String {
    [
        kind("Gateway", "gateways", "Namespaced"),
        kind("GatewayClass", "gatewayclasses", "Cluster"),
    ]
    .concat()
}

/// The manifests of our class and of a Gateway `wp` of it in the namespace `shop`.
pub const WAYPOINT: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: ambit-waypoint}
spec: {controllerName: ambit.dev/waypoint}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: wp, namespace: shop}
spec:
  gatewayClassName: ambit-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
";

fn kind(kind: &str, plural: &str, scope: &str) -> String {
    let singular = kind.to_ascii_lowercase();
    format!(
        "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: {plural}.gateway.networking.k8s.io
  annotations: {{api-approved.kubernetes.io: 'unapproved, for a test'}}
spec:
  group: gateway.networking.k8s.io
  scope: {scope}
  names: {{kind: {kind}, plural: {plural}, singular: {singular}, listKind: {kind}List}}
  versions:
    - name: v1
      served: true
      storage: true
      subresources: {{status: {{}}}}
      schema: {{openAPIV3Schema: {{type: object, x-kubernetes-preserve-unknown-fields: true}}}}
---"
    )
}
