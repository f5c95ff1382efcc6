//! The nodes' reports: the whole of what one node has to say, replacing what it said before.

use std::sync::Arc;

use proto::node::{ReportRequest, ReportResponse};
use tonic::{Request, Response, Status};

use super::Hub;
use crate::{
    reports::{NotTaken, own},
    stubs::node::node_service_server::NodeService,
    subject::Subject,
};

/// Pods named in one log record.
const NAMED: usize = 20;

pub(super) struct Nodes(pub(super) Arc<Hub>);

#[tonic::async_trait]
impl NodeService for Nodes {
    async fn report(
        &self,
        request: Request<ReportRequest>,
    ) -> Result<Response<ReportResponse>, Status> {
        let node = match self.0.subject(&request, "report").await? {
            Subject::Node(node) => node,
            caller @ Subject::Waypoint(_) => {
                tracing::warn!(%caller, "refused a report: only nodes report");
                return Err(Status::permission_denied("only nodes report pods"));
            }
        };
        let report = request.into_inner();
        let mesh = Arc::clone(&self.0.mesh.borrow());
        let (_, foreign) = own(&node, &report, &mesh.placements);
        let names: Vec<String> = foreign
            .iter()
            .take(NAMED)
            .map(|pod| format!("{}/{}", pod.namespace, pod.name))
            .collect();
        if !names.is_empty() {
            tracing::warn!(
                node,
                pods = names.join(" "),
                count = foreign.len(),
                "a node reported pods that do not run on it: they are not taken"
            );
        }
        let hub = Arc::clone(&self.0);
        let written = tokio::task::spawn_blocking(move || hub.reports.take(&node, report)).await;
        match written {
            Ok(Ok(())) => Ok(Response::new(ReportResponse {})),
            Ok(Err(refused @ NotTaken::Malformed(_))) => {
                Err(Status::invalid_argument(refused.to_string()))
            }
            Ok(Err(refused @ NotTaken::Unwanted)) => {
                Err(Status::failed_precondition(refused.to_string()))
            }
            Ok(Err(refused @ NotTaken::State(_))) => {
                tracing::error!(reason = %refused, "a report was not taken");
                Err(Status::unavailable(refused.to_string()))
            }
            Err(_) => Err(Status::internal("the report was not taken")),
        }
    }
}
