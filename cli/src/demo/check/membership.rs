//! Which pods are in the mesh, from what stands in their namespaces and from what their traffic does.

use node::{
    capture::{self, State},
    rules::Probed,
};

use super::{Evidence, service, want};
use crate::mesh::Mesh;

/// The service address of `catalog` exists nowhere but in the mesh: who is answered there went through a ztunnel.
pub(super) fn captured(mesh: &Mesh, evidence: &mut Evidence) -> Result<(), String> {
    let (mut inside, mut outside) = (Vec::new(), Vec::new());
    for pod in &mesh.pods {
        let name = format!("{}/{}", pod.namespace, pod.name);
        let place = mesh
            .lab
            .pod(&pod.netns)
            .ok_or_else(|| format!("{name} has no namespace"))?;
        let state = match capture::verify(&place.netns, &Probed::new()) {
            Ok(state) => state,
            Err(error) => return Err(format!("the capture rules of {name}: {error:?}")),
        };
        if pod.enrolled {
            want(state == State::Whole, || {
                format!("the capture rules of {name} do not stand: {state:?}")
            })?;
            super::call(mesh, &pod.netns, service::CATALOG, "catalog")?;
            inside.push(name);
        } else {
            want(state == State::Absent, || {
                format!("{name} is not enrolled, but capture rules are in it: {state:?}")
            })?;
            outside.push(name);
        }
    }
    want(inside.len() >= 5 && !outside.is_empty(), || {
        format!("{} pods inside, {} outside", inside.len(), outside.len())
    })?;
    evidence.note(
        "captured",
        format!("{} ({})", inside.len(), inside.join(", ")),
    );
    evidence.note(
        "rules in each",
        "whole, and each was answered at a service address that only the mesh knows",
    );
    evidence.note(
        "left alone",
        format!("{} ({})", outside.len(), outside.join(", ")),
    );
    Ok(())
}
