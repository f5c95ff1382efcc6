//! `ambit why`: the whole way of a connection or request, and at each step the policy, route and rule that decides.
//!
//! Nothing is decided here: manifests are compiled by the control plane's functions, and what comes of that is asked by those
//! of the proxies. Where they choose by chance, every choice is followed, with its share.

use std::path::PathBuf;

use clap::ValueEnum;
use control::compile::Settings;

use self::{ends::resolve, request::Request, trace::Trace, walk::Walk};
use crate::{Failure, paint::Paint};

mod ends;
mod facts;
mod live;
mod next;
mod request;
mod said;
mod text;
mod through;
mod trace;
mod walk;
mod words;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 it arrives whatever is chosen, 1 it does not, 2 wrong usage, 3 it cannot be told, or nobody answers."
)]
pub(crate) struct Arguments {
    /// Who asks: NAMESPACE/POD, a pod's name or its address.
    #[arg(value_name = "SRC")]
    from: String,

    /// What for: NAMESPACE/SERVICE, SERVICE.NAMESPACE, a host name, a pod or an address; port by number or name.
    #[arg(value_name = "DST[:PORT]")]
    to: String,

    /// A directory of manifests, or one file, instead of the demo that runs.
    #[arg(short, long, value_name = "PATH")]
    file: Option<PathBuf>,

    /// Of the request.
    #[arg(long, value_name = "METHOD", default_value = "GET", value_parser = Request::method)]
    method: String,

    /// Path and query of the request.
    #[arg(long, value_name = "PATH", default_value = "/")]
    path: String,

    /// A header of the request. May be given several times.
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = Request::header)]
    headers: Vec<(String, String)>,

    /// Namespace whose policies are about the whole mesh.
    #[arg(
        long,
        value_name = "NAMESPACE",
        default_value = "ambit-system",
        requires = "file"
    )]
    root_namespace: String,

    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    /// A paragraph for each step.
    Text,
    /// One object.
    Json,
}

/// The way goes to the standard output, what is wrong with the facts to the standard error.
pub(crate) fn main(arguments: &Arguments) -> Result<(), Failure> {
    let facts = match &arguments.file {
        Some(path) => {
            let settings = Settings {
                root_namespace: arguments.root_namespace.clone(),
                deploys: true,
                ..Settings::default()
            };
            facts::from_directory(path, settings)?
        }
        None => live::from_running()?,
    };
    for problem in &facts.problems {
        eprintln!("error: {problem}");
    }
    if let Some(doubt) = &facts.doubt {
        return cannot_tell(arguments.output, doubt, &facts);
    }
    let ends = resolve(&facts, &arguments.from, &arguments.to)?;
    let given = arguments.method != "GET" || arguments.path != "/" || !arguments.headers.is_empty();
    let mut headers = arguments.headers.clone();
    match headers.iter().filter(|(name, _)| name == "host").count() {
        0 => headers.insert(0, ("host".to_owned(), ends.host.clone())),
        1 => {}
        _ => {
            return Err(Failure::Usage(
                "a request has one host: give it once".to_owned(),
            ));
        }
    }
    Request::join_cookies(&mut headers);
    let request = Request {
        method: arguments.method.clone(),
        target: arguments.path.clone(),
        headers,
    };
    let walk = Walk {
        facts: &facts,
        request: &request,
        given,
    };
    let (steps, ways) = walk::walk(&walk, &ends);
    let trace = Trace {
        facts: facts.lines.clone(),
        from: ends::called(&ends.client),
        to: ends.name.clone(),
        request: request.words(),
        steps,
        ways,
    };
    crate::print(&match arguments.output {
        Output::Text => text::print(&trace, Paint::stdout()),
        Output::Json => format!("{:#}\n", trace.json()),
    })?;
    if trace.arrives() {
        Ok(())
    } else {
        Err(Failure::Failed(trace.sentence()))
    }
}

/// A verdict of files that the proxies may not hold would be a guess.
fn cannot_tell(output: Output, doubt: &str, facts: &facts::Facts) -> Result<(), Failure> {
    crate::print(&match output {
        Output::Text => format!("{doubt}\n"),
        Output::Json => format!(
            "{:#}\n",
            serde_json::json!({ "facts": [doubt], "problems": facts.problems, "arrives": null })
        ),
    })?;
    Err(Failure::Unreachable(
        "repair what is faulty and ask again, or ask what each proxy holds: `ambit zc`, `ambit wp`"
            .to_owned(),
    ))
}
