//! Settings from the environment: text with units becomes values, and what is wrong is said by the variable's name.

use std::{collections::BTreeMap, env, fmt, str::FromStr, time::Duration};

/// The environment as it was at one moment.
#[derive(Clone, Debug, Default)]
pub struct Environment(BTreeMap<String, String>);

/// A variable whose text is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadSetting {
    /// The variable.
    pub name: String,
    /// Its text.
    pub text: String,
    /// What it should be, in words with an example.
    pub want: String,
}

impl Environment {
    /// This process's. Variables that are not Unicode are not there.
    pub fn process() -> Self {
        let unicode = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self(env::vars_os().filter_map(unicode).collect())
    }

    /// One of these variables.
    pub fn of(variables: &[(&str, &str)]) -> Self {
        Self(
            variables
                .iter()
                .map(|&(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
        )
    }

    /// A variable's text; an empty one counts, because some settings are switched off so.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// A variable's text, or the default where it is not set or empty.
    pub fn text_or<'a>(&'a self, name: &str, default: &'a str) -> &'a str {
        self.text(name)
            .filter(|text| !text.is_empty())
            .unwrap_or(default)
    }

    /// Name (without the prefix) and text of every variable that begins so.
    pub fn prefixed<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.0
            .iter()
            .filter_map(move |(name, text)| Some((name.strip_prefix(prefix)?, text.as_str())))
    }

    /// A length of time: `30s`, `1h30m`, `250ms`.
    pub fn duration(&self, name: &str, default: Duration) -> Result<Duration, BadSetting> {
        self.read(
            name,
            default,
            "a length of time such as 30s, 5m or 24h",
            duration,
        )
    }

    /// A number of bytes: `65536`, `4Mi`, `4MiB`, `16k`.
    pub fn size(&self, name: &str, default: u64) -> Result<u64, BadSetting> {
        self.read(name, default, "a size such as 65536, 64Ki or 4Mi", size)
    }

    /// `true` or `false`.
    pub fn boolean(&self, name: &str, default: bool) -> Result<bool, BadSetting> {
        self.read(name, default, "true or false", |text| {
            match text.to_ascii_lowercase().as_str() {
                "true" | "1" => Some(true),
                "false" | "0" => Some(false),
                _ => None,
            }
        })
    }

    /// A number.
    pub fn number<T: FromStr>(&self, name: &str, default: T) -> Result<T, BadSetting> {
        self.read(name, default, "a number in its range", |text| {
            text.parse().ok()
        })
    }

    /// Anything that `parse` understands; `want` says what that is.
    pub fn read<T>(
        &self,
        name: &str,
        default: T,
        want: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, BadSetting> {
        let Some(text) = self
            .text(name)
            .map(str::trim)
            .filter(|text| !text.is_empty())
        else {
            return Ok(default);
        };
        parse(text).ok_or_else(|| BadSetting {
            name: name.to_owned(),
            text: text.to_owned(),
            want: want.to_owned(),
        })
    }
}

/// A length of time: numbers with units `d`, `h`, `m`, `s`, `ms`, `us`, largest first or not; a bare `0` is zero.
pub fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, tail) = rest.split_at(digits);
        let end = tail
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let number: u64 = number.parse().ok()?;
        let seconds = |per: u64| number.checked_mul(per).map(Duration::from_secs);
        let length = match unit {
            "d" => seconds(86_400),
            "h" => seconds(3600),
            "m" => seconds(60),
            "s" => seconds(1),
            "ms" => Some(Duration::from_millis(number)),
            "us" => Some(Duration::from_micros(number)),
            _ => None,
        }?;
        total = total.checked_add(length)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(total)
}

/// A number of bytes: binary units `Ki`, `Mi`, `Gi` (with or without `B`), decimal ones `k`, `M`, `G`.
pub fn size(text: &str) -> Option<u64> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.strip_suffix('B').unwrap_or(unit) {
        "" => 1,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "k" | "K" => 1000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

impl fmt::Display for BadSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={:?} is not {}", self.name, self.text, self.want)
    }
}

impl std::error::Error for BadSetting {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time() {
        let ms = Duration::from_millis;
        for (text, want) in [
            ("30s", ms(30_000)),
            ("24h", ms(86_400_000)),
            ("5m", ms(300_000)),
            ("1h30m", ms(5_400_000)),
            ("250ms", ms(250)),
            ("1d", ms(86_400_000)),
            ("0", ms(0)),
            ("0s", ms(0)),
            ("10us", Duration::from_micros(10)),
        ] {
            assert_eq!(duration(text), Some(want), "{text}");
        }
        for text in [
            "",
            "s",
            "30",
            "30 s",
            "-3s",
            "1.5h",
            "3w",
            "30s5",
            "99999999999999999999s",
            "18446744073709551615d",
        ] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, want) in [
            ("0", 0),
            ("65536", 65_536),
            ("4Mi", 4 << 20),
            ("4MiB", 4 << 20),
            ("16Ki", 16 << 10),
            ("1Gi", 1 << 30),
            ("16k", 16_000),
            ("2M", 2_000_000),
            ("7B", 7),
        ] {
            assert_eq!(size(text), Some(want), "{text}");
        }
        for text in ["", "Mi", "-1", "4 Mi", "4mi", "1.5Mi", "99999999999Gi"] {
            assert_eq!(size(text), None, "{text}");
        }
    }

    #[test]
    fn settings_have_defaults_and_are_refused_by_name() {
        let env = Environment::of(&[
            ("SECRET_TTL", "1h"),
            ("HTTP2_FRAME_SIZE", "lots"),
            ("IPV6_ENABLED", "False"),
            ("ZTUNNEL_WORKER_THREADS", " 4 "),
            ("XDS_ADDRESS", ""),
            ("XDS_HEADER_x-team", "shop"),
        ]);
        assert_eq!(
            env.duration("SECRET_TTL", Duration::ZERO),
            Ok(Duration::from_secs(3600))
        );
        assert_eq!(
            env.duration("KEEPALIVE_TIME", Duration::from_secs(180)),
            Ok(Duration::from_secs(180))
        );
        assert_eq!(env.boolean("IPV6_ENABLED", true), Ok(false));
        assert_eq!(env.number("ZTUNNEL_WORKER_THREADS", 2), Ok(4));
        assert_eq!(
            (env.text("XDS_ADDRESS"), env.text("CA_ADDRESS")),
            (Some(""), None)
        );
        assert_eq!(env.text_or("XDS_ADDRESS", "x"), "x");
        assert_eq!(
            env.prefixed("XDS_HEADER_").collect::<Vec<_>>(),
            [("x-team", "shop")]
        );
        let refused = env.size("HTTP2_FRAME_SIZE", 1 << 20).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "HTTP2_FRAME_SIZE=\"lots\" is not a size such as 65536, 64Ki or 4Mi"
        );
        assert!(
            env.boolean("SECRET_TTL", true).is_err() && env.number("SECRET_TTL", 1u16).is_err()
        );
    }
}
