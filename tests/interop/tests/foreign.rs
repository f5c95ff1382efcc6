//! Real programs that are not ours in the place of a node proxy or of the control plane, where somebody has them.
//!
//! `AMBIT_FOREIGN_ZTUNNEL` names a node proxy, which is set by its usual environment variables; `AMBIT_FOREIGN_CONTROL` a
//! control plane, or what starts one ([`Mesh::under`] says what it is told). Where there is none the tests say so and have
//! passed, everywhere: no machine of ours has one.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{env, path::PathBuf};

use cli::lab::Node;
use sys::netns::privileged;
use tests::{mesh::policy, pod::Pod};
use tests_interop::{mesh::Mesh, place};

/// The program that a variable names.
fn program(variable: &str, what: &str) -> Option<PathBuf> {
    let found = env::var_os(variable).map(PathBuf::from);
    if found.is_none() {
        println!("skipped: {what}: {variable} names no program");
    }
    found
}

fn pods() -> [Pod; 2] {
    [
        Pod::new("web", Node::One, 10),
        Pod::new("cart", Node::Two, 10),
    ]
}

/// Both pods talk to each other, through tunnels; a policy for either is in force, and its removal.
fn carries(mesh: &Mesh) {
    for (from, to) in [("web", "cart"), ("cart", "web")] {
        let (client, server) = (mesh.pod(from).identity(), mesh.ip(to));
        mesh.until("pods talk", || mesh.open(from, server).is_ok());
        let principal = client.to_string();
        let principal = principal.strip_prefix("spiffe://").unwrap();
        mesh.put("deny", &policy("nobody", to, "DENY", principal));
        mesh.refuses(from, server);
        mesh.take("deny");
        mesh.until("the policy is gone", || mesh.open(from, server).is_ok());
        // Only who came through a tunnel is somebody.
        let only = |principal: &str| mesh.put("only", &policy("only", to, "ALLOW", principal));
        only("cluster.local/ns/shop/sa/else");
        mesh.refuses(from, server);
        only(principal);
        mesh.until("it is let in by its name", || {
            mesh.open(from, server).is_ok()
        });
        mesh.take("only");
    }
}

#[test]
fn a_real_foreign_node_proxy_stands_in_for_one_of_ours() {
    let what = "a_real_foreign_node_proxy_stands_in_for_one_of_ours";
    let Some(program) = program("AMBIT_FOREIGN_ZTUNNEL", what) else {
        return;
    };
    if !privileged(what) {
        return;
    }
    let mesh = Mesh::new(place!(), "real-proxy", &pods());
    mesh.start_foreign(Node::One, &program);
    mesh.start_ours(Node::Two);
    carries(&mesh);
}

#[test]
fn a_real_foreign_control_plane_stands_in_for_ours() {
    let what = "a_real_foreign_control_plane_stands_in_for_ours";
    let Some(program) = program("AMBIT_FOREIGN_CONTROL", what) else {
        return;
    };
    if !privileged(what) {
        return;
    }
    let mesh = Mesh::under(place!(), "real-control", &pods(), &program);
    for node in Node::ALL {
        mesh.start_ours(node);
    }
    carries(&mesh);
}
