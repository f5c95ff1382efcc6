//! Durations as the Gateway API writes them (GEP-2257): `1h30m`, `500ms`, `0s`.

use std::time::Duration;

/// Up to four numbers of at most five digits, each with a unit: `h`, `m`, `s` or `ms`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || {
        format!(
            "{text:?} is not a duration: numbers of up to 5 digits with h, m, s or ms, at most four of them"
        )
    };
    let (mut rest, mut millis) = (text, 0_u64);
    for _ in 0..4 {
        if rest.is_empty() {
            break;
        }
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if !(1..=5).contains(&digits) {
            return Err(wrong());
        }
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_lowercase).count();
        let unit = match &rest[..letters] {
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1_000,
            "ms" => 1,
            _ => return Err(wrong()),
        };
        rest = &rest[letters..];
        millis += number * unit;
    }
    if text.is_empty() || !rest.is_empty() {
        return Err(wrong());
    }
    Ok(Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_hours_minutes_seconds_and_milliseconds() {
        let millis = |text| duration(text).map(|it| it.as_millis()).ok();
        for (text, expected) in [
            ("0s", 0),
            ("1h", 3_600_000),
            ("1h30m", 5_400_000),
            ("10s500ms", 10_500),
            ("1h1m1s1ms", 3_661_001),
            ("500ms", 500),
            ("99999h", 359_996_400_000),
        ] {
            assert_eq!(millis(text), Some(expected), "{text}");
        }
        for text in [
            "",
            "1",
            "s",
            "1.5s",
            "-1s",
            "1 s",
            "1d",
            "100000s",
            "1us",
            "1h1m1s1ms1h",
            "1S",
        ] {
            assert_eq!(millis(text), None, "{text}");
        }
    }
}
