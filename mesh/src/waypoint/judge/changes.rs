//! What a rule makes of a request, and the request that the backend sees then.

use crate::{
    http::{
        edit::{Edit, Filter, HeaderEdits},
        head::{Field, Head, Raw},
        path,
        route::Rule,
        select::Selected,
        weight,
    },
    waypoint::Answer,
};

/// What a rule makes of a request.
pub(super) struct Changes<'g> {
    rule: Option<&'g Rule>,
    /// Path and query.
    pub(super) target: Vec<u8>,
    pub(super) host: Option<Box<str>>,
}

impl<'g> Changes<'g> {
    /// The answer instead, if the rule redirects.
    pub(super) fn new(
        selected: Option<Selected<'g>>,
        head: &Head<'_>,
        port: u16,
    ) -> Result<Self, Answer> {
        let mut changes = Self {
            rule: selected.map(|selected| selected.rule),
            target: Vec::new(),
            host: None,
        };
        let prefix = selected.and_then(|selected| selected.prefix());
        let malformed = |e: path::Malformed| Answer::InvalidBackend(format!("its path edit: {e}"));
        let mut target = None;
        for filter in selected.iter().flat_map(|selected| &selected.rule.filters) {
            match filter {
                Filter::RequestHeaders(_) | Filter::ResponseHeaders(_) => {}
                Filter::Redirect(redirect) => {
                    return Err(Answer::Redirect {
                        status: redirect.status,
                        location: redirect.location(head, port, prefix).map_err(malformed)?,
                        response_edits: changes.response_edits(None).into_iter().cloned().collect(),
                    });
                }
                Filter::Rewrite(rewrite) => {
                    target = Some(rewrite.target(head, prefix).map_err(malformed)?);
                    changes.host = rewrite.host.clone();
                }
            }
        }
        changes.target = target.unwrap_or_else(|| head.target());
        Ok(changes)
    }

    pub(super) fn request_edits(
        &self,
        chosen: Option<&'g weight::Backend>,
    ) -> Vec<&'g HeaderEdits> {
        let of_rule = self.filters().filter_map(|filter| match filter {
            Filter::RequestHeaders(edits) => Some(edits),
            _ => None,
        });
        let of_backend = chosen.map(|chosen| &chosen.request_headers);
        some(of_rule.chain(of_backend))
    }

    /// What policies are asked about, where they are about what is forwarded.
    pub(super) fn forwarded<'a>(&'a self, edits: &'a [&'a HeaderEdits]) -> Forwarded<'a> {
        Forwarded {
            target: &self.target,
            host: self.host.as_deref(),
            edits,
        }
    }

    pub(super) fn response_edits(
        &self,
        chosen: Option<&'g weight::Backend>,
    ) -> Vec<&'g HeaderEdits> {
        let of_rule = self.filters().filter_map(|filter| match filter {
            Filter::ResponseHeaders(edits) => Some(edits),
            _ => None,
        });
        let of_backend = chosen.map(|chosen| &chosen.response_headers);
        some(of_rule.chain(of_backend))
    }

    fn filters(&self) -> impl Iterator<Item = &'g Filter> + use<'g> {
        self.rule.into_iter().flat_map(|rule| &rule.filters)
    }
}

fn some<'g>(edits: impl Iterator<Item = &'g HeaderEdits>) -> Vec<&'g HeaderEdits> {
    let nothing = HeaderEdits::default();
    edits.filter(|edits| **edits != nothing).collect()
}

/// What of a request is forwarded otherwise than it was asked.
pub(super) struct Forwarded<'a> {
    /// Path and query.
    pub(super) target: &'a [u8],
    /// In place of the host.
    pub(super) host: Option<&'a str>,
    pub(super) edits: &'a [&'a HeaderEdits],
}

/// Policies are asked about the request that the backend would see: a rule that rewrites leads nobody around those of another
/// service, nor a consumer's rule around those of the service that was asked for.
pub(super) fn as_forwarded<T>(
    head: &Head<'_>,
    forwarded: &Forwarded<'_>,
    decide: impl FnOnce(&Head<'_>) -> T,
) -> Result<T, Answer> {
    let host = match forwarded.host {
        Some(host) => host.to_owned(),
        None => head.host.to_string(),
    };
    let headers = edited(head.headers, forwarded.edits);
    let raw = Raw {
        method: head.method,
        scheme: head.scheme,
        authority: Some(host.as_bytes()),
        target: forwarded.target,
        headers: &headers,
    };
    let forwarded = Head::read(&raw);
    let forwarded = forwarded
        .map_err(|e| Answer::InvalidBackend(format!("the rule's edits make no request: {e}")))?;
    Ok(decide(&forwarded))
}

/// The headers that are forwarded, without `host`, which stands apart.
fn edited<'h>(headers: &[Field<'h>], edits: &[&'h HeaderEdits]) -> Vec<Field<'h>> {
    let is = |field: &Field<'_>, name: &str| field.0.eq_ignore_ascii_case(name.as_bytes());
    let mut fields: Vec<Field<'h>> = headers.to_vec();
    fields.retain(|field| !is(field, "host"));
    for edit in edits.iter().flat_map(|edits| edits.edits()) {
        match edit {
            Edit::Remove(name) => fields.retain(|field| !is(field, name)),
            Edit::Set(name, value) => {
                fields.retain(|field| !is(field, name));
                fields.push((name.as_bytes(), value.as_bytes()));
            }
            Edit::Add(name, value) => fields.push((name.as_bytes(), value.as_bytes())),
        }
    }
    fields
}
