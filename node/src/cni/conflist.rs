//! Puts our plugin into the text of a network configuration, and takes it out. Pure.
//!
//! The text is changed in that one place: what others wrote stays as they wrote it, also what nobody here knows.

use std::{fmt, ops::Range};

use serde_json::value::RawValue;

/// What is put in.
const ENTRY: &str = "{\"type\": \"ambit-cni\"}";

/// Why a text is no network configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault(String);

/// A list of plugins, by where they are in the text.
struct List {
    plugins: Vec<Plugin>,
    /// Just behind the bracket that opens the list.
    start: usize,
}

struct Plugin {
    place: Range<usize>,
    ours: bool,
}

/// The list (`.conflist`) with our plugin at its end, if it was not in it already.
///
/// # Errors
/// If the text is no such list.
pub fn chain(text: &str) -> Result<String, Fault> {
    let list = read(text)?;
    if list.plugins.iter().any(|plugin| plugin.ours) {
        return Ok(text.to_owned());
    }
    let (at, separator) = match list.plugins.last() {
        None => (list.start, String::new()),
        Some(Plugin { place, .. }) => {
            // Laid out as the one before.
            let before = &text[..place.start];
            let space = &before[before.trim_end().len()..];
            let space = if space.is_empty() { " " } else { space };
            (place.end, format!(",{space}"))
        }
    };
    Ok(format!("{}{separator}{ENTRY}{}", &text[..at], &text[at..]))
}

/// The list without our plugin. Of a list as [`chain`] made it, what it was before.
///
/// # Errors
/// If the text is no such list.
pub fn unchain(text: &str) -> Result<String, Fault> {
    let list = read(text)?;
    let Some(ours) = list.plugins.iter().position(|plugin| plugin.ours) else {
        return Ok(text.to_owned());
    };
    let place = |index: usize| list.plugins.get(index).map(|plugin| &plugin.place);
    let own = &list.plugins[ours].place;
    let cut = match (ours.checked_sub(1).and_then(place), place(ours + 1)) {
        (Some(before), _) => before.end..own.end,
        (None, Some(after)) => own.start..after.start,
        (None, None) => own.clone(),
    };
    // Somebody may have put it in twice.
    unchain(&format!("{}{}", &text[..cut.start], &text[cut.end..]))
}

/// Whether our plugin is in a list.
pub fn is_chained(text: &str) -> bool {
    read(text).is_ok_and(|list| list.plugins.iter().any(|plugin| plugin.ours))
}

/// A list of one plugin, from its own configuration (`.conf`).
///
/// # Errors
/// If the text is no such configuration.
pub fn convert(text: &str) -> Result<String, Fault> {
    #[derive(serde::Deserialize)]
    struct Single {
        #[serde(rename = "type")]
        _kind: String,
        name: Option<String>,
        #[serde(rename = "cniVersion")]
        version: Option<String>,
    }
    let single: Single = serde_json::from_str(text).map_err(fault)?;
    let member = |name: &str, value: Option<String>| {
        value.map_or_else(String::new, |value| {
            format!("  \"{name}\": {},\n", serde_json::Value::from(value))
        })
    };
    Ok(format!(
        "{{\n{}{}  \"plugins\": [\n{}\n  ]\n}}\n",
        member("cniVersion", single.version),
        member("name", single.name),
        text.trim()
    ))
}

fn read(text: &str) -> Result<List, Fault> {
    #[derive(serde::Deserialize)]
    struct Outer<'a> {
        #[serde(borrow)]
        plugins: &'a RawValue,
    }
    #[derive(serde::Deserialize)]
    struct Inner {
        #[serde(rename = "type")]
        kind: String,
    }
    let outer: Outer<'_> = serde_json::from_str(text).map_err(fault)?;
    let list = outer.plugins.get();
    let raw: Vec<&RawValue> = serde_json::from_str(list).map_err(fault)?;
    // Raw values are parts of the text.
    let offset = |part: &str| part.as_ptr() as usize - text.as_ptr() as usize;
    let plugin = |raw: &&RawValue| {
        let start = offset(raw.get());
        let inner: Inner = serde_json::from_str(raw.get()).map_err(fault)?;
        Ok(Plugin {
            place: start..start + raw.get().len(),
            ours: inner.kind == cni::TYPE,
        })
    };
    Ok(List {
        plugins: raw.iter().map(plugin).collect::<Result<_, Fault>>()?,
        start: offset(list) + 1,
    })
}

fn fault(error: serde_json::Error) -> Fault {
    Fault(error.to_string())
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it is no network configuration: {}", self.0)
    }
}

impl std::error::Error for Fault {}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const PRETTY: &str = "{\n  \"cniVersion\": \"0.4.0\",\n  \"zeta\": 1.50,\n  \"plugins\": [\n    {\n      \"type\": \"bridge\", \"mtu\": 1e3\n    },\n    {\"type\": \"portmap\"}\n  ],\n  \"alpha\": \"\\u00e9\"\n}\n\n";
    const DENSE: &str = "{\"plugins\":[{\"type\":\"ptp\"}],\"name\":\"n\"}";
    const LISTS: [&str; 4] = [
        PRETTY,
        DENSE,
        "{\"plugins\": [] }",
        "{ \"plugins\" :\t[ {\"type\":\"a\"} , {\"b\":\"ambit-cni\",\"type\":\"c\"}\n]\r\n}",
    ];

    fn types(text: &str) -> Vec<String> {
        let tree: Value = serde_json::from_str(text).unwrap();
        let plugins = tree["plugins"].as_array().unwrap();
        let kinds = plugins
            .iter()
            .map(|plugin| plugin["type"].as_str().unwrap());
        kinds.map(str::to_owned).collect()
    }

    #[test]
    fn the_plugin_comes_last_and_nothing_else_changes() {
        let chained = chain(PRETTY).unwrap();
        assert_eq!(types(&chained), ["bridge", "portmap", "ambit-cni"]);
        let expected = PRETTY.replace(
            "{\"type\": \"portmap\"}",
            "{\"type\": \"portmap\"},\n    {\"type\": \"ambit-cni\"}",
        );
        assert_eq!(chained, expected);
        assert_eq!(
            chain(DENSE).unwrap(),
            "{\"plugins\":[{\"type\":\"ptp\"}, {\"type\": \"ambit-cni\"}],\"name\":\"n\"}"
        );
    }

    #[test]
    fn twice_is_once() {
        for text in LISTS {
            let once = chain(text).unwrap();
            assert_eq!(chain(&once).unwrap(), once, "{text}");
            assert!(is_chained(&once) && !is_chained(text));
        }
    }

    #[test]
    fn taken_out_the_text_is_what_it_was_to_the_byte() {
        for text in LISTS {
            assert_eq!(unchain(&chain(text).unwrap()).unwrap(), text);
            assert_eq!(unchain(text).unwrap(), text);
        }
    }

    #[test]
    fn what_others_have_done_meanwhile_stays() {
        let before = "{\"plugins\":[{\"type\":\"ambit-cni\"} , {\"type\":\"a\"}]}";
        assert_eq!(unchain(before).unwrap(), "{\"plugins\":[{\"type\":\"a\"}]}");
        let later = chain(PRETTY).unwrap().replace(
            "{\"type\": \"ambit-cni\"}",
            "{\"type\": \"ambit-cni\", \"x\": {}},\n    {\"type\": \"late\"}",
        );
        assert_eq!(types(&chain(&later).unwrap()), types(&later));
        let without = unchain(&later).unwrap();
        assert_eq!(types(&without), ["bridge", "portmap", "late"]);
        let twice =
            "{\"plugins\":[{\"type\":\"ambit-cni\"},{\"type\":\"a\"},{\"type\":\"ambit-cni\"}]}";
        assert_eq!(types(&unchain(twice).unwrap()), ["a"]);
    }

    #[test]
    fn one_plugins_configuration_becomes_a_list_that_holds_it_word_for_word() {
        let single = "{\n \"name\": \"n\\\"1\", \"cniVersion\": \"0.3.1\",\n \"type\": \"macvlan\", \"x\": [1,  2]}\n";
        let list = convert(single).unwrap();
        assert!(list.contains(single.trim()));
        let tree: Value = serde_json::from_str(&chain(&list).unwrap()).unwrap();
        assert_eq!(tree["name"], "n\"1");
        assert_eq!(tree["cniVersion"], "0.3.1");
        assert_eq!(types(&chain(&list).unwrap()), ["macvlan", "ambit-cni"]);
        let bare = convert("{\"type\":\"loopback\"}").unwrap();
        assert_eq!(types(&bare), ["loopback"]);
    }

    #[test]
    fn what_is_no_configuration_is_left_alone() {
        for text in [
            "",
            "{",
            "[]",
            "{}",
            "{\"plugins\":{}}",
            "{\"plugins\":[1]}",
            "{\"plugins\":[{}]}",
            "{\"plugins\":[],\"plugins\":[]}",
        ] {
            assert!(chain(text).is_err() && unchain(text).is_err(), "{text}");
            assert!(convert(text).is_err(), "{text}");
        }
    }
}
