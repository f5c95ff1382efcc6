//! What was found, step by step: plain values, which [`super::text`] prints and which are JSON as they are.

use serde_json::{Map, Value, json};

/// The answer to one question.
#[derive(Clone, Debug)]
pub(super) struct Trace {
    /// Where the facts come from; the first line says it, others what is to be known of them.
    pub(super) facts: Vec<String>,
    /// Who asks.
    pub(super) from: String,
    /// What for.
    pub(super) to: String,
    /// The request, which counts where somebody reads it.
    pub(super) request: String,
    /// What is the same whatever is chosen.
    pub(super) steps: Vec<Step>,
    /// What may be chosen; at least one.
    pub(super) ways: Vec<Way>,
}

/// One of the ways that a flow may take.
#[derive(Clone, Debug)]
pub(super) struct Way {
    /// The choices that lead here, in order; none: there is nothing to choose.
    pub(super) choices: Vec<Choice>,
    /// What happens on it.
    pub(super) steps: Vec<Step>,
    /// How it ends.
    pub(super) end: End,
}

/// A choice by weight, or of one endpoint among equals.
#[derive(Clone, Debug)]
pub(super) struct Choice {
    /// What is chosen.
    pub(super) what: String,
    /// Its share, of the sum of all.
    pub(super) share: (u64, u64),
    /// It is an endpoint, and not a backend.
    pub(super) endpoint: bool,
}

/// What one proxy, or the application, does.
#[derive(Clone, Debug)]
pub(super) struct Step {
    /// What it is: `ztunnel`, `waypoint`, `application`, `network`.
    pub(super) at: &'static str,
    /// Which one.
    pub(super) name: String,
    /// In order.
    pub(super) facts: Vec<Fact>,
}

/// One thing that is known or decided there.
#[derive(Clone, Debug)]
pub(super) struct Fact {
    /// In both forms of output.
    key: &'static str,
    /// For people.
    lines: Vec<String>,
    /// For programs.
    value: Value,
}

/// How a way ends.
#[derive(Clone, Debug)]
pub(super) struct End {
    /// In one word.
    pub(super) outcome: Outcome,
    /// Of the answer, where it is HTTP.
    pub(super) status: Option<u16>,
    /// To gRPC.
    pub(super) grpc_status: Option<u32>,
    /// As the access log has them.
    pub(super) flags: Option<String>,
    /// As the access log has them.
    pub(super) details: Option<String>,
    /// In words.
    pub(super) text: String,
    /// What to do if it is not as wanted.
    pub(super) next: Option<String>,
}

/// How a way ends, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The application gets it.
    Answered,
    /// It leaves the mesh: what becomes of it nobody here knows.
    Leaves,
    /// Policy says no.
    Denied,
    /// The waypoint sends the client elsewhere.
    Redirected,
    /// The waypoint answers it, and nobody behind it.
    Unrouted,
    /// It is not carried.
    Refused,
}

impl Outcome {
    /// In both forms of output.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Answered => "reaches the application",
            Self::Leaves => "leaves the mesh",
            Self::Denied => "denied",
            Self::Redirected => "redirected",
            Self::Unrouted => "not routed",
            Self::Refused => "refused",
        }
    }

    /// Whether it gets to where it was to go.
    pub(super) fn arrives(self) -> bool {
        matches!(self, Self::Answered | Self::Leaves)
    }
}

impl End {
    /// One that no answer of a proxy tells of.
    pub(super) fn new(outcome: Outcome, text: String, next: Option<String>) -> Self {
        Self {
            outcome,
            status: None,
            grpc_status: None,
            flags: None,
            details: None,
            text,
            next,
        }
    }
}

impl Fact {
    /// One line for people, which is the text for programs too.
    pub(super) fn text(key: &'static str, text: impl Into<String>) -> Self {
        let text = text.into();
        Self {
            key,
            value: json!(text),
            lines: vec![text],
        }
    }

    /// Lines for people and something else for programs.
    pub(super) fn both(key: &'static str, lines: Vec<String>, value: Value) -> Self {
        Self { key, lines, value }
    }

    /// In both forms of output.
    pub(super) fn key(&self) -> &'static str {
        self.key
    }

    /// For people.
    pub(super) fn lines(&self) -> &[String] {
        &self.lines
    }
}

impl Step {
    /// One without facts.
    pub(super) fn new(at: &'static str, name: impl Into<String>) -> Self {
        Self {
            at,
            name: name.into(),
            facts: Vec::new(),
        }
    }

    /// Adds a line.
    pub(super) fn tell(&mut self, key: &'static str, text: impl Into<String>) {
        self.facts.push(Fact::text(key, text));
    }

    /// Adds lines and a value; none of both: nothing.
    pub(super) fn list(&mut self, key: &'static str, lines: Vec<String>, value: Value) {
        if !lines.is_empty() {
            self.facts.push(Fact::both(key, lines, value));
        }
    }
}

impl Way {
    /// One without a choice.
    pub(super) fn new(steps: Vec<Step>, end: End) -> Self {
        Self {
            choices: Vec::new(),
            steps,
            end,
        }
    }

    /// Puts in front what was done and chosen before.
    pub(super) fn after(mut self, choices: &[Choice], steps: &[Step]) -> Self {
        self.choices = [choices, &self.choices].concat();
        self.steps = [steps, &self.steps].concat();
        self
    }

    /// Its share of all: that of all its choices together.
    pub(super) fn share(&self) -> f64 {
        let each = self.choices.iter().map(|choice| {
            let (part, sum) = choice.share;
            part as f64 / sum.max(1) as f64
        });
        each.product()
    }
}

impl Trace {
    /// Whether all that is asked arrives, whatever is chosen.
    pub(super) fn arrives(&self) -> bool {
        self.ways.iter().all(|way| way.end.outcome.arrives())
    }

    /// Why it does not arrive, in a few words.
    pub(super) fn sentence(&self) -> String {
        let lost = self.ways.iter().filter(|way| !way.end.outcome.arrives());
        let share: f64 = lost.clone().map(Way::share).sum();
        let mut words: Vec<_> = lost.map(|way| way.end.outcome.word()).collect();
        words.dedup();
        let words = words.join(", ");
        if self.ways.iter().any(|way| way.end.outcome.arrives()) {
            format!("{:.0} % of it does not arrive: {words}", share * 100.0)
        } else {
            format!("it does not arrive: {words}")
        }
    }

    /// With keys that stay.
    pub(super) fn json(&self) -> Value {
        let ways: Vec<_> = self.ways.iter().map(Way::json).collect();
        json!({
            "facts": self.facts,
            "from": self.from,
            "to": self.to,
            "request": self.request,
            "steps": self.steps.iter().map(Step::json).collect::<Vec<_>>(),
            "ways": ways,
            "arrives": self.arrives(),
        })
    }
}

impl Step {
    fn json(&self) -> Value {
        let mut all = Map::new();
        all.insert("at".to_owned(), json!(self.at));
        all.insert("name".to_owned(), json!(self.name));
        for fact in &self.facts {
            all.insert(fact.key.to_owned(), fact.value.clone());
        }
        Value::Object(all)
    }
}

impl Way {
    fn json(&self) -> Value {
        let choices = self.choices.iter().map(|choice| {
            let kind = if choice.endpoint {
                "endpoint"
            } else {
                "backend"
            };
            json!({ "kind": kind, "name": choice.what, "weight": choice.share.0, "of": choice.share.1 })
        });
        let End {
            outcome,
            status,
            grpc_status,
            flags,
            details,
            text,
            next,
        } = &self.end;
        json!({
            "share": self.share(),
            "choices": choices.collect::<Vec<_>>(),
            "steps": self.steps.iter().map(Step::json).collect::<Vec<_>>(),
            "end": {
                "outcome": outcome.word(),
                "status": status,
                "grpcStatus": grpc_status,
                "flags": flags,
                "details": details,
                "text": text,
                "next": next,
            },
        })
    }
}
