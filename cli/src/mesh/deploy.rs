//! A pod for the waypoint of each Gateway, as a controller makes one in a cluster: written into the directory of manifests.
//!
//! Where the waypoint is and who it is, no more; the process is started like the others. A Gateway that has a pod already is
//! left alone. What is there is compared with what ought to be, each time from the start: a call that failed half-way is made
//! good by the next one. What is wrong with other manifests is the control plane's to tell.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Instant,
};

use control::source::{self, Loaded, files::Files};

use super::{
    MANIFESTS, Mesh, NETNS,
    pod::{self, GATEWAY, Pod},
};
use crate::{Failure, lab};
use plan::{ours, plan, whose};

mod plan;

/// The manifests as they were read last: the source of last good versions, as for the control plane.
#[derive(Debug, Default)]
pub(super) struct Seen {
    files: Files,
    loaded: Loaded,
    /// Every file was read while nobody wrote it: only from then on is it known what has gone.
    whole: bool,
}

/// What a look at the manifests has changed.
#[derive(Debug, Default)]
pub struct Deployed {
    /// Names of the pods in which a waypoint was started.
    pub started: Vec<String>,
    /// Names of the pods whose waypoint was ended.
    pub ended: Vec<String>,
    /// Why Gateways have no waypoint, or still have one; a sentence each.
    pub refused: Vec<String>,
    /// Names of the pods whose waypoint has no credential from the control plane yet.
    pub waiting: Vec<String>,
    /// All manifests were read as they are: none is being written.
    pub settled: bool,
}

impl Seen {
    /// Reads a directory to which nobody writes yet, and adds what is missing.
    ///
    /// # Errors
    /// A sentence; also if a Gateway cannot have its waypoint, or a manifest is faulty.
    pub(super) fn first(directory: &Path) -> Result<(Self, pod::Read), String> {
        let failed = |error: io::Error| format!("{}: {error}", directory.display());
        let mut texts = source::read_dir(directory).map_err(failed)?;
        let loaded = source::load(&texts, None);
        let plan = plan(&loaded.world, &texts, directory, &[]);
        if let Some(refused) = plan.refused.into_iter().next() {
            return Err(refused);
        }
        write(&plan.write).map_err(failed)?;
        texts.extend(plan.write);
        let loaded = source::load(&texts, None);
        if let Some(problem) = loaded.problems.first() {
            return Err(problem.to_string());
        }
        let read = pod::read(&loaded.world)?;
        let seen = Self {
            loaded,
            ..Self::default()
        };
        Ok((seen, read))
    }

    /// Reads the directory again, adds what is missing to it and removes what is no longer needed. Returns the pods in which
    /// a waypoint has to run.
    fn again(
        &mut self,
        directory: &Path,
        running: &[Pod],
        told: &mut Deployed,
    ) -> io::Result<Vec<Pod>> {
        let now = Instant::now();
        self.files = self.files.look(directory, now)?;
        told.settled = self.files.look_again(now).is_none();
        self.whole |= told.settled;
        if !self.whole {
            let waypoints = running.iter().filter(|pod| pod.gateway.is_some());
            return Ok(waypoints.cloned().collect());
        }
        let mut texts = self.files.texts().clone();
        // Generated files are whole at any time, however new.
        let all = source::read_dir(directory)?;
        texts.extend(all.into_iter().filter(|(_, text)| whose(text).is_some()));
        self.loaded = source::load(&texts, Some(&self.loaded));
        let plan = plan(&self.loaded.world, &texts, directory, running);
        write(&plan.write)?;
        for file in &plan.remove {
            fs::remove_file(file)?;
            texts.remove(file);
        }
        told.refused.extend(plan.refused);
        texts.extend(plan.write);
        self.loaded = source::load(&texts, Some(&self.loaded));
        let world = &self.loaded.world;
        let ours = ours(world);
        let mut wanted = Vec::new();
        for found in world.pods.values() {
            let gateway = found.meta.labels.get(GATEWAY).cloned();
            let key = gateway.map(|gateway| (found.meta.namespace.clone(), gateway));
            if key.is_none_or(|key| !ours.contains(&key)) {
                continue;
            }
            match pod::of(world, found) {
                Ok(pod) => wanted.push(pod),
                Err(reason) => told.refused.push(reason),
            }
        }
        Ok(wanted)
    }
}

impl Mesh {
    /// Has a waypoint run for each Gateway that there is now, and for no other. Waits for nothing: who calls it calls it again
    /// when the manifests have changed, and as long as anything is waiting or not settled.
    ///
    /// # Errors
    /// The manifests cannot be read or written. What is wrong with a single Gateway is in what is returned.
    pub fn deploy(&mut self) -> Result<Deployed, Failure> {
        let directory = self.path(MANIFESTS);
        let mut told = Deployed::default();
        let wanted = self.seen.again(&directory, &self.pods, &mut told);
        let wanted =
            wanted.map_err(|error| Failure::Failed(format!("{}: {error}", directory.display())))?;
        let over = |pod: &&Pod| pod.gateway.is_some() && !wanted.contains(pod);
        let over: Vec<_> = self.pods.iter().filter(over).cloned().collect();
        for pod in over {
            match self.end_waypoint(&pod) {
                Ok(()) => told.ended.push(pod.netns),
                Err(error) => told.refused.push(format!("pod {}: {error}", pod.netns)),
            }
        }
        for pod in wanted {
            let runs = self.processes.id(&process(&pod)).is_some();
            let Some(gateway) = pod.gateway.as_ref().filter(|_| !runs) else {
                continue;
            };
            if !self.waypoint_token(&pod.namespace, gateway).exists() {
                told.waiting.push(pod.netns);
                continue;
            }
            let placed = self.place(&pod);
            let placed =
                placed.map_err(|error| Failure::Failed(format!("cannot make its pod: {error}")));
            match placed.and_then(|()| self.start_waypoint(&pod)) {
                Ok(()) => told.started.push(pod.netns),
                Err(failure) => {
                    let of = format!("Gateway {}/{gateway}", pod.namespace);
                    told.refused.push(format!("{of}: {failure}"));
                }
            }
        }
        Ok(told)
    }

    /// Makes a pod's namespace and its link, unless they are there.
    fn place(&mut self, pod: &Pod) -> io::Result<()> {
        if !self.pods.contains(pod) {
            self.lab.add_pod(&pod.netns, pod.node, &pod.addresses)?;
            self.pods.push(pod.clone());
        }
        let link = self.path(NETNS).join(&pod.netns);
        let place = self.lab.pod(&pod.netns).ok_or(io::ErrorKind::NotFound)?;
        lab::publish(&place.netns, &link)
    }

    /// Ends a waypoint, and takes its pod away.
    fn end_waypoint(&mut self, pod: &Pod) -> io::Result<()> {
        self.processes.end(&process(pod))?;
        if self.lab.pod(&pod.netns).is_some() {
            self.lab.remove_pod(&pod.netns)?;
        }
        self.pods.retain(|it| it != pod);
        match fs::remove_file(self.path(NETNS).join(&pod.netns)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// The name of a waypoint's process.
fn process(pod: &Pod) -> String {
    format!("waypoint-{}", pod.netns)
}

/// Whoever watches the directory sees the whole file or none.
fn write(files: &[(PathBuf, String)]) -> io::Result<()> {
    for (file, text) in files {
        let new = file.with_extension("yaml.new");
        fs::write(&new, text)?;
        fs::rename(&new, file)?;
    }
    Ok(())
}
