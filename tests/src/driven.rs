//! A world whose ztunnels are the real thing, while control plane and node agents say what a test tells them.

use std::ops;

use cli::lab::Node;

use crate::{
    agent::Agent,
    pod::Pod,
    script::{CA, Script, XDS},
    world::{Place, World},
};

/// A world with a script.
#[derive(Debug)]
pub struct Driven {
    world: World,
    /// The control plane.
    pub script: Script,
    agents: [Agent; 2],
}

impl Driven {
    /// Starts a world with these pods, told of to everyone, and waits until it stands. `env` are variables of the
    /// ztunnels.
    pub fn new(place: Place, name: &str, pods: &[Pod], env: &[(&str, &str)]) -> Self {
        let world = World::new(place, name, pods);
        let script = Script::issuing(&world);
        script.tell_all(&world);
        let driven = Self::over(world, script, env);
        for node in Node::ALL {
            driven.until("the ztunnel is ready", || driven.ready(node));
        }
        for pod in pods.iter().filter(|pod| pod.enrolled) {
            driven.until("there is a certificate", || driven.serial(pod).is_some());
        }
        driven.script.connected(&driven, 2);
        driven
    }

    /// Starts ztunnels and agents, whatever the script has said so far.
    pub fn over(world: World, script: Script, env: &[(&str, &str)]) -> Self {
        let agents = Node::ALL.map(|node| Agent::new(&world, node));
        let mut driven = Self {
            world,
            script,
            agents,
        };
        for node in Node::ALL {
            driven.start_ztunnel(node, XDS, CA, env);
        }
        for (agent, node) in driven.agents.iter_mut().zip(Node::ALL) {
            agent.greeted();
            agent.tell_all(&driven.world, node);
        }
        driven
    }

    /// The agent of a node.
    pub fn agent(&mut self, node: Node) -> &mut Agent {
        let [one, two] = &mut self.agents;
        match node {
            Node::One => one,
            Node::Two => two,
        }
    }

    /// The world without its control plane.
    pub fn forsaken(self) -> (World, [Agent; 2]) {
        (self.world, self.agents)
    }
}

impl ops::Deref for Driven {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

impl ops::DerefMut for Driven {
    fn deref_mut(&mut self) -> &mut World {
        &mut self.world
    }
}
