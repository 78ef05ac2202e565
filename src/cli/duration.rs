//! Durations on the command line.

use std::time::Duration;

/// The longest that a person or a script waits for one thing.
const LONGEST: Duration = Duration::from_secs(3600);

/// Reads `500ms`, `2s`, or a bare number of seconds such as `0.2`.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok();
    let duration = match seconds {
        Some(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        None => humantime::parse_duration(text).ok(),
    };
    match duration {
        Some(duration) if duration <= LONGEST => Ok(duration),
        _ => Err("not a time of at most an hour, such as 500ms, 2s or 0.2".to_owned()),
    }
}

/// Parses a duration that is not zero.
pub(super) fn parse_some(text: &str) -> Result<Duration, String> {
    let duration = parse(text)?;
    if duration < Duration::from_millis(1) {
        return Err("not at least 1ms".to_owned());
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units_or_are_seconds() {
        assert_eq!(parse("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse("2"), Ok(Duration::from_secs(2)));
        assert_eq!(parse("0.2"), Ok(Duration::from_millis(200)));
        assert_eq!(parse("1m 5s"), Ok(Duration::from_secs(65)));
        assert_eq!(parse("0"), Ok(Duration::ZERO));
        for bad in ["", "-1", "nan", "inf", "1e99", "2h", "soon", "5 parsecs"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(parse_some("0").is_err() && parse_some("1us").is_err());
        assert!(parse_some("1ms").is_ok());
    }
}
