//! Whether the coordinator answers, and how far its clock is from ours.

use std::time::{Duration, SystemTime};

use super::{Finding, Level, Patient};
use crate::coordinator::http_client;
use crate::error::chain;
use crate::proto::api::MAX_CLOCK_SKEW;

/// A person waits.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The answer's date is in whole seconds and some time old.
const SLACK: Duration = Duration::from_secs(2);

pub(super) async fn check(patient: &Patient) -> Vec<Finding> {
    const CHECK: &str = "coordinator";
    let Some(url) = &patient.coordinator else {
        return vec![];
    };
    let base = url.base();
    let unreachable = |evidence: String| {
        vec![Finding::new(
            CHECK,
            Level::Problem,
            "the coordinator cannot be reached",
            format!("{base}: {evidence}"),
            format!(
                "curl -v {base}/healthz; on the coordinator: `systemctl status gretun-coord`, and its firewall"
            ),
        )]
    };
    let client = match http_client(url) {
        Ok(client) => client,
        Err(error) => return unreachable(chain(&error)),
    };
    let request = client.get(format!("{base}/healthz")).timeout(TIMEOUT);
    let answer = match request.send().await {
        Ok(answer) => answer,
        Err(error) => return unreachable(chain(&error)),
    };
    let now = SystemTime::now();
    if !answer.status().is_success() {
        return unreachable(format!("it answers {}", answer.status()));
    }
    let mut findings = vec![Finding::ok(CHECK, format!("{base} answers"))];
    let date = answer.headers().get("date");
    let date = date.and_then(|it| httpdate::parse_http_date(it.to_str().ok()?).ok());
    findings.extend(date.map(|theirs| skew(now, theirs)));
    findings
}

/// Requests that are signed with a time too far from the coordinator's are refused.
fn skew(ours: SystemTime, theirs: SystemTime) -> Finding {
    const CHECK: &str = "clock";
    let (skew, direction) = match ours.duration_since(theirs) {
        Ok(ahead) => (ahead, "ahead of"),
        Err(error) => (error.duration(), "behind"),
    };
    if skew <= SLACK {
        return Finding::ok(CHECK, "the clock agrees with the coordinator's");
    }
    let seconds = skew.as_secs();
    let bound = MAX_CLOCK_SKEW.as_secs();
    let (level, what) = if skew + SLACK > MAX_CLOCK_SKEW {
        (Level::Problem, "the coordinator refuses what is more")
    } else {
        (Level::Note, "it is still within what the coordinator takes")
    };
    Finding::new(
        CHECK,
        level,
        format!(
            "this host's clock is {seconds} s {direction} the coordinator's; {what} ({bound} s)"
        ),
        "the Date of its answer",
        "timedatectl set-ntp true",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_judged_by_what_the_coordinator_takes() {
        let now = SystemTime::now();
        let seconds = Duration::from_secs;
        assert_eq!(skew(now, now).level, Level::Ok);
        assert_eq!(skew(now, now + seconds(30)).level, Level::Note);
        for theirs in [now + seconds(61), now - seconds(61)] {
            assert_eq!(skew(now, theirs).level, Level::Problem);
        }
        assert!(skew(now, now + seconds(300)).what.contains("behind"));
    }
}
