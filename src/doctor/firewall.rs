//! The host's firewall: nftables rules that drop the data port. Disco is seen before them, data is not.

use serde_json::Value;

use super::command;
use super::{Finding, Level};

const CHECK: &str = "host-firewall";

/// Finds rules that drop the data port, in the output of `nft -j list ruleset`. It has the rules of iptables too, if iptables
/// is the nft variant.
pub(super) fn check(port: u16) -> Vec<Finding> {
    let listed = command::output("nft", &["-j", "list", "ruleset"]);
    let unknown = |evidence: String| {
        vec![Finding::new(
            CHECK,
            Level::Note,
            "the host's firewall could not be looked at",
            evidence,
            "run `gretun doctor` as root, with nft installed",
        )]
    };
    match listed {
        Ok(output) if output.status.success() => {
            judge(&String::from_utf8_lossy(&output.stdout), port)
        }
        Ok(output) => unknown(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => unknown(format!("nft: {error}")),
    }
}

/// Finds rules that drop UDP to `port`, and closed input chains that do not admit answers.
fn judge(ruleset: &str, port: u16) -> Vec<Finding> {
    let root: Value = serde_json::from_str(ruleset).unwrap_or_default();
    let objects = root["nftables"].as_array().cloned().unwrap_or_default();
    let chains: Vec<&Value> = objects.iter().map(|it| &it["chain"]).collect();
    let rules: Vec<&Value> = objects
        .iter()
        .map(|it| &it["rule"])
        .filter(|it| it.is_object())
        .collect();
    let is_elsewhere = |rule: &Value| {
        chains.iter().any(|it| {
            same(it, rule, &["family", "table"])
                && it["name"] == rule["chain"]
                && it["hook"].is_string()
                && it["hook"] != "input"
                && it["hook"] != "prerouting"
        })
    };
    let dropping = rules.iter().filter(|rule| {
        !is_elsewhere(rule) && verdict(rule, &["drop", "reject"]) && covers(rule, port)
    });
    let mut findings: Vec<Finding> = dropping.map(|rule| rule_finding(rule, port)).collect();
    let closed = chains.iter().filter(|chain| {
        chain["hook"] == "input" && chain["policy"] == "drop" && {
            let mut of_table = rules
                .iter()
                .filter(|it| same(it, chain, &["family", "table"]));
            !of_table.any(|it| admits(it, port))
        }
    });
    findings.extend(closed.map(|chain| {
        let [family, table, name] = ["family", "table", "name"].map(|key| text(chain, key));
        Finding::new(
            CHECK,
            Level::Problem,
            format!("the firewall drops what comes in, answers included, and admits no UDP to port {port}"),
            format!("nft chain {family} {table} {name}: policy drop, no rule for established connections"),
            format!("nft add rule {family} {table} {name} udp dport {port} accept"),
        )
    }));
    if findings.is_empty() {
        return vec![Finding::ok(
            CHECK,
            format!("no nftables rule drops UDP port {port}"),
        )];
    }
    findings
}

fn rule_finding(rule: &Value, port: u16) -> Finding {
    let [family, table, chain] = ["family", "table", "chain"].map(|key| text(rule, key));
    let handle = rule["handle"].as_u64().unwrap_or_default();
    Finding::new(
        CHECK,
        Level::Problem,
        format!(
            "a firewall rule of this host drops UDP port {port}: disco is seen before it, data is not"
        ),
        format!("nft rule in {family} {table} {chain}, handle {handle}"),
        format!("nft delete rule {family} {table} {chain} handle {handle}"),
    )
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

fn same(one: &Value, other: &Value, keys: &[&str]) -> bool {
    keys.iter().all(|key| one[*key] == other[*key])
}

fn expressions(rule: &Value) -> impl Iterator<Item = &Value> {
    rule["expr"].as_array().into_iter().flatten()
}

fn verdict(rule: &Value, kinds: &[&str]) -> bool {
    expressions(rule).any(|it| kinds.iter().any(|kind| it.get(kind).is_some()))
}

/// Returns whether a rule names UDP (or any transport's) destination port and `port` is among the ports.
fn covers(rule: &Value, port: u16) -> bool {
    expressions(rule).any(|it| {
        let payload = &it["match"]["left"]["payload"];
        let transport = payload["protocol"] == "udp" || payload["protocol"] == "th";
        transport
            && payload["field"] == "dport"
            && (it["match"]["op"] == "!=") != contains(&it["match"]["right"], port)
    })
}

/// A port, a range or a set of both.
fn contains(ports: &Value, port: u16) -> bool {
    let number = |value: &Value| value.as_u64().unwrap_or(u64::MAX);
    if let Some([low, high]) = ports["range"].as_array().map(Vec::as_slice) {
        return (number(low)..=number(high)).contains(&port.into());
    }
    match ports["set"].as_array() {
        Some(elements) => elements.iter().any(|it| contains(it, port)),
        None => number(ports) == u64::from(port),
    }
}

/// Returns whether a rule admits data: by its port, or as answers to earlier packets of this host.
fn admits(rule: &Value, port: u16) -> bool {
    let established = |it: &Value| {
        let is_state = it["match"]["left"]["ct"]["key"] == "state";
        is_state && it.to_string().contains("established")
            || it["vmap"]["key"]["ct"]["key"] == "state"
    };
    let to_port = verdict(rule, &["accept"]) && covers(rule, port);
    let answers = expressions(rule).any(established);
    let everything = verdict(rule, &["accept"]) && expressions(rule).count() == 1;
    to_port || answers || everything
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ruleset(policy: &str, rules: &[Value]) -> String {
        let chain = serde_json::json!({"chain": {"family": "inet", "table": "filter", "name": "input", "handle": 1,
            "type": "filter", "hook": "input", "prio": 0, "policy": policy}});
        let rules = rules.iter().enumerate().map(|(number, expr)| {
            serde_json::json!({"rule": {"family": "inet", "table": "filter", "chain": "input",
                "handle": number + 2, "expr": expr}})
        });
        let objects: Vec<Value> = std::iter::once(chain).chain(rules).collect();
        serde_json::json!({"nftables": objects}).to_string()
    }

    fn dport(right: Value) -> Value {
        serde_json::json!({"match": {"op": "==", "right": right,
            "left": {"payload": {"protocol": "udp", "field": "dport"}}}})
    }

    fn level(text: &str) -> Level {
        let found = judge(text, 7777);
        found.iter().map(|it| it.level).max().unwrap()
    }

    #[test]
    fn a_rule_that_drops_the_port_is_found_with_the_command_against_it() {
        let drop = serde_json::json!({"drop": null});
        for ports in [
            serde_json::json!(7777),
            serde_json::json!({"range": [7000, 8000]}),
            serde_json::json!({"set": [53, {"range": [7777, 7778]}]}),
        ] {
            let text = ruleset("accept", &[serde_json::json!([dport(ports), drop])]);
            let found = judge(&text, 7777);
            assert_eq!(found[0].level, Level::Problem);
            let fix = found[0].fix.as_deref();
            assert_eq!(fix, Some("nft delete rule inet filter input handle 2"));
            assert_eq!(judge(&text, 9999)[0].level, Level::Ok);
        }
    }

    #[test]
    fn a_closed_firewall_is_right_as_long_as_it_admits_answers() {
        let accept = serde_json::json!({"accept": null});
        let state = serde_json::json!({"match": {"op": "in", "left": {"ct": {"key": "state"}},
            "right": ["established", "related"]}});
        assert_eq!(level(&ruleset("accept", &[])), Level::Ok);
        assert_eq!(level(&ruleset("drop", &[])), Level::Problem);
        let answers = serde_json::json!([state, accept]);
        assert_eq!(level(&ruleset("drop", &[answers])), Level::Ok);
        let opened = serde_json::json!([dport(7777.into()), accept]);
        assert_eq!(level(&ruleset("drop", &[opened])), Level::Ok);
        let other = serde_json::json!([dport(53.into()), accept]);
        assert_eq!(level(&ruleset("drop", &[other])), Level::Problem);
    }

    #[test]
    fn what_cannot_be_read_is_no_finding() {
        assert_eq!(level("no json"), Level::Ok);
    }
}
