//! The CNI plugin, chained behind the one that gives pods their network (CNI specification 0.1.0 to 1.1.0).
//!
//! Before a pod's first process runs, it asks the node agent, which captures the pod if that is in the mesh. It knows
//! nothing of Kubernetes but what the runtime passes on, and changes no network itself: the result of those before it is
//! passed on unchanged. Where no agent answers it decides alone, by what the agent has left on the host.
//!
//! The executable runs on whatever the host is: it is linked statically, without a runtime, a client or TLS. The library
//! has, beside what it does, the words that it and the agent exchange.

pub mod ask;
pub mod call;
pub mod decide;
pub mod host;
pub mod talk;

use std::io::{Read, Write};

use call::{Call, Command, Failure};
use decide::{First, Verdict};
use host::Host;

/// What the plugin is called in a network configuration, and the name of its file.
pub const TYPE: &str = "ambit-cni";

/// Where the agent and the plugin meet, on the host: a directory that outlives a restart of the machine, after which pods start
/// before the agent does.
pub const DIRECTORY: &str = "/var/lib/ambit";

/// The agent's socket in it.
pub const SOCKET: &str = "cni.sock";

/// What the agent leaves in it for the plugin alone.
pub const HOST_FILE: &str = "namespaces.json";

/// The most that is read of any input.
const LARGEST_INPUT: u64 = 4 << 20;

/// Does what one call asks for. The exit code.
pub fn run(
    environment: impl Fn(&str) -> Option<String>,
    input: &mut impl Read,
    output: &mut impl Write,
) -> u8 {
    let mut config = Vec::new();
    let read = input.take(LARGEST_INPUT).read_to_end(&mut config);
    let said = match read {
        Ok(_) => answer(&environment, &config),
        // A pod that goes is not held back, whatever is wrong.
        Err(_) if environment("CNI_COMMAND").as_deref() == Some("DEL") => Ok(String::new()),
        Err(error) => Err(Failure::io(&error)),
    };
    let (text, code) = match said {
        Ok(text) => (text, 0),
        Err(failure) => (failure.to_json(&call::version(&config)), 1),
    };
    match output.write_all(text.as_bytes()) {
        Ok(()) => code,
        // The runtime has gone.
        Err(_) => 1,
    }
}

fn answer(environment: &impl Fn(&str) -> Option<String>, config: &[u8]) -> Result<String, Failure> {
    match call::command(environment)? {
        Command::Version => Ok(call::versions(&call::version(config))),
        // What the agent put into a pod's namespace goes with it. The runtime takes an error of STATUS for a node without a
        // network, on which not even the agent could start.
        Command::Del | Command::Gc | Command::Status | Command::Check => Ok(String::new()),
        Command::Add => {
            let call = Call::read(environment, config)?;
            add(&call).map(|()| call.result.to_owned())
        }
    }
}

fn add(call: &Call<'_>) -> Result<(), Failure> {
    let Some(pod) = &call.pod else {
        // Not a pod of Kubernetes.
        return Ok(());
    };
    let host = Host::read(&call.directory.join(HOST_FILE));
    if decide::first(&pod.namespace, host.as_ref()) == First::Pass {
        return Ok(());
    }
    let socket = call.directory.join(SOCKET);
    let verdict = match ask::ask(&socket, pod, &call.netns, ask::PATIENCE) {
        Ok(answer) => decide::answered(answer),
        Err(why) => decide::alone(&pod.namespace, host.as_ref(), &why.to_string()),
    };
    match verdict {
        Verdict::Pass => Ok(()),
        Verdict::Refuse(sentence) => Err(Failure::refused(sentence)),
    }
}

#[cfg(test)]
mod tests;
