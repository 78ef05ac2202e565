//! Address translation through the `nft` program: one transaction for all pairs at once. The table and its sets are
//! described in [`crate::tunnel::snat`].

use std::io::{self, Write as _};
use std::process::{Command, Stdio};

use ipnet::IpNet;
use netlink_packet_core::{DecodeError, NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::nftables::{NfTablesMessage, TableAttribute, TableMessage};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};
use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use serde_json::Value;

use crate::kernel::netlink::socket::KernelSocket;
use crate::kernel::{Kernel, KernelError};
use crate::tunnel::op::KernelOp;
use crate::tunnel::snat::{CHAIN, SCRIPT, SETS, SnatPair, TABLE, element};

impl Kernel {
    /// All pairs; none where there is no table of ours, or no `nft`.
    pub fn snat_pairs(&self) -> Vec<SnatPair> {
        // For most hosts the answer is here, and starting nft takes longer than all the rest that is asked for.
        match is_without_table() {
            Ok(true) => return Vec::new(),
            Ok(false) => {}
            Err(error) => tracing::debug!(%error, "nft is asked"),
        }
        let listed = nft(&["-j", "list", "table", "inet", TABLE], "");
        match listed {
            Ok(text) => parse(&text),
            Err(error) => {
                tracing::debug!(%error, "no address translation of ours");
                Vec::new()
            }
        }
    }

    pub(in crate::kernel) fn apply_snat(&self, ops: &[KernelOp]) -> Vec<Result<(), KernelError>> {
        let before = self.snat_pairs();
        let adds = ops.iter().any(|op| matches!(op, KernelOp::AddSnat { .. }));
        let mut script = String::new();
        if adds {
            script.push_str(SCRIPT);
            script.push('\n');
        }
        let mut after = before.clone();
        for op in ops {
            let line = match op {
                KernelOp::AddSnat { link, network } => {
                    after.push((link.clone(), *network));
                    element("add", link, *network)
                }
                KernelOp::DeleteSnat { link, network } => {
                    let pair = (link.clone(), *network);
                    if !after.contains(&pair) {
                        continue;
                    }
                    after.retain(|other| *other != pair);
                    element("delete", link, *network)
                }
                _ => continue,
            };
            script.push_str(&line);
            script.push('\n');
        }
        if after.is_empty() && !before.is_empty() {
            // Nothing of ours stays behind; another part of gretun may still use the table.
            script.push_str(&format!("delete chain inet {TABLE} {CHAIN}\n"));
            for set in SETS {
                script.push_str(&format!("delete set inet {TABLE} {set}\n"));
            }
        }
        let done = nft(&["-f", "-"], &script).map(drop);
        if done.is_ok() && after.is_empty() {
            remove_empty_table();
        }
        let Err(reason) = done else {
            return ops.iter().map(|_| Ok(())).collect();
        };
        ops.iter()
            .map(|op| Err(KernelError::program(op.to_string(), "nft", &reason)))
            .collect()
    }
}

/// Whether the kernel says itself that there is no table of ours.
fn is_without_table() -> io::Result<bool> {
    let attributes = vec![TableAttribute::Name(TABLE.to_owned())];
    let question = NfTablesMessage::GetTable(TableMessage { attributes });
    let header = NetfilterHeader::new(NetfilterProtoFamily::Inet, 0, 0);
    let mut request = NetlinkMessage::from(NetfilterMessage::new(header, question));
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK;
    let mut socket = KernelSocket::open(NETLINK_NETFILTER)?;
    let question = socket.encode(&mut request);
    socket.socket.send(&question, 0)?;
    let mut answer = Vec::with_capacity(1 << 12);
    socket.socket.recv(&mut answer, libc::MSG_DONTWAIT)?;
    is_not_found(&answer).map_err(io::Error::other)
}

fn is_not_found(answer: &[u8]) -> Result<bool, DecodeError> {
    let answer = NetlinkMessage::<NetfilterMessage>::deserialize(answer)?;
    Ok(match answer.payload {
        NetlinkPayload::Error(error) => error.to_io().raw_os_error() == Some(libc::ENOENT),
        _ => false,
    })
}

fn remove_empty_table() {
    let Ok(text) = nft(&["-j", "list", "table", "inet", TABLE], "") else {
        return;
    };
    let root: Value = serde_json::from_str(&text).unwrap_or_default();
    let uses = |object: &Value| {
        ["chain", "set", "map"]
            .iter()
            .any(|key| object[key].is_object())
    };
    let is_used = root["nftables"]
        .as_array()
        .is_none_or(|objects| objects.iter().any(uses));
    if !is_used && let Err(error) = nft(&["delete", "table", "inet", TABLE], "") {
        tracing::debug!(%error, "the empty table stays");
    }
}

/// Runs nft with a script; gives its output, or what it complained about.
fn nft(arguments: &[&str], script: &str) -> Result<String, String> {
    let mut child = Command::new("nft")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    if let Some(mut stdin) = child.stdin.take()
        && let Err(error) = stdin.write_all(script.as_bytes())
    {
        tracing::debug!(%error, "nft does not read");
    }
    let output = child
        .wait_with_output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let first = said.lines().next().unwrap_or_default();
    Err(first
        .strip_prefix("/dev/stdin:")
        .unwrap_or(first)
        .to_owned())
}

/// The elements of our sets in what `nft -j list table` prints.
fn parse(text: &str) -> Vec<SnatPair> {
    let root: Value = serde_json::from_str(text).unwrap_or_default();
    let objects = root["nftables"].as_array().cloned().unwrap_or_default();
    objects
        .iter()
        .map(|object| &object["set"])
        .filter(|set| SETS.iter().any(|name| set["name"] == *name))
        .filter_map(|set| set["elem"].as_array())
        .flatten()
        .filter_map(|element| {
            let [name, network] = element["concat"].as_array()?.as_slice() else {
                return None;
            };
            Some((name.as_str()?.to_owned(), parse_network(network)?))
        })
        .collect()
}

/// `{"prefix": {"addr": "192.0.2.0", "len": 24}}`, or an address alone.
fn parse_network(value: &Value) -> Option<IpNet> {
    if let Some(address) = value.as_str() {
        return Some(IpNet::from(address.parse::<std::net::IpAddr>().ok()?));
    }
    let prefix = &value["prefix"];
    let length = u8::try_from(prefix["len"].as_u64()?).ok()?;
    IpNet::new(prefix["addr"].as_str()?.parse().ok()?, length).ok()
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::NLMSG_ERROR;

    use super::*;

    #[test]
    fn pairs_are_read_from_what_nft_prints() {
        let text = r#"{"nftables": [{"metainfo": {"json_schema_version": 1}},
            {"table": {"family": "inet", "name": "gretun", "handle": 1}},
            {"set": {"family": "inet", "name": "tunnels_snat4", "table": "gretun", "type": ["ifname", "ipv4_addr"],
              "elem": [{"concat": ["tun0", {"prefix": {"addr": "10.0.0.0", "len": 8}}]}, {"concat": ["tun1", "192.0.2.1"]}]}},
            {"set": {"family": "inet", "name": "someone_elses", "elem": [{"concat": ["x", "192.0.2.1"]}]}}]}"#;
        assert_eq!(
            parse(text),
            [
                ("tun0".to_owned(), "10.0.0.0/8".parse().unwrap()),
                ("tun1".to_owned(), "192.0.2.1/32".parse().unwrap())
            ]
        );
        assert_eq!(parse("no json"), []);
    }

    #[test]
    fn only_enoent_says_that_there_is_no_table() {
        let answer = |kind: u16, payload: &[u8]| {
            let length = u32::try_from(16 + payload.len()).unwrap();
            let mut bytes = length.to_ne_bytes().to_vec();
            bytes.extend(kind.to_ne_bytes());
            bytes.extend([0; 10]);
            bytes.extend(payload);
            is_not_found(&bytes).unwrap()
        };
        let refused = |errno: i32| {
            let mut payload = (-errno).to_ne_bytes().to_vec();
            payload.extend([0; 16]);
            answer(NLMSG_ERROR, &payload)
        };
        assert!(refused(libc::ENOENT));
        for errno in [0, libc::EPERM, libc::EINVAL] {
            assert!(!refused(errno), "{errno}");
        }
        let table = [1, 0, 0, 0];
        assert!(!answer(0x0a00, &table));
        assert!(is_not_found(&[]).is_err());
    }
}
