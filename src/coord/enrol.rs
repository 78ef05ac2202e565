//! Auth keys: who may join the network, how often, until when, and with which tags. Only a hash of a key is kept, so that the
//! store, its backups and a listing admit nobody.

use std::collections::BTreeMap;

use data_encoding::{BASE32_NOPAD, HEXLOWER};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::clock::Now;

/// The prefix of every key, by which people and secret scanners recognise it.
const PREFIX: &str = "gretunkey-";
/// Random bytes that name a key in listings; not secret.
const ID_LEN: usize = 4;
/// Random bytes that nobody guesses.
const SECRET_LEN: usize = 20;

/// Random bytes that making a key takes.
pub const ENTROPY_LEN: usize = ID_LEN + SECRET_LEN;

/// The policy of a key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyPolicy {
    /// Admits any number of nodes, not one.
    pub reusable: bool,
    /// Its nodes are removed once they have been offline for a while.
    pub ephemeral: bool,
    /// Labels that its nodes carry.
    pub tags: Vec<String>,
    /// Unix milliseconds after which it admits nobody.
    pub expires_ms: Option<u64>,
}

/// A key as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// Names it, 8 hexadecimal digits.
    pub id: String,
    /// SHA-256 of the whole key, hexadecimal. The key has 160 random bits: no salt and no slow hash are needed.
    pub hash: String,
    /// The policy of the key.
    pub policy: KeyPolicy,
    /// Time of creation, Unix milliseconds.
    pub created_ms: u64,
    /// Number of nodes that the key admitted.
    pub uses: u64,
}

/// Whether a key still admits anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyState {
    /// It does.
    Valid,
    /// A one-time key that admitted its node.
    Used,
    /// Past its time.
    Expired,
}

/// The reason why a key admits nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Mistyped, revoked, or of another coordinator.
    #[error("the auth key is not known here")]
    Unknown,
    /// One-time, and used.
    #[error("the auth key was used already")]
    Used,
    /// Past its time.
    #[error("the auth key expired")]
    Expired,
}

impl KeyRecord {
    /// Makes a key from random bytes: the text to hand out, never to be seen again, and the record to keep.
    pub fn create(
        entropy: &[u8; ENTROPY_LEN],
        policy: KeyPolicy,
        now_unix_ms: u64,
    ) -> (String, KeyRecord) {
        let (id, secret) = entropy.split_at(ID_LEN);
        let id = HEXLOWER.encode(id);
        let secret = BASE32_NOPAD.encode(secret).to_ascii_lowercase();
        let text = format!("{PREFIX}{id}-{secret}");
        let record = KeyRecord {
            id,
            hash: hash(&text),
            policy,
            created_ms: now_unix_ms,
            uses: 0,
        };
        (text, record)
    }

    /// The id in `text`, which is a whole key or an id.
    pub fn id_of(text: &str) -> &str {
        let text = text.trim();
        let rest = text.strip_prefix(PREFIX).unwrap_or(text);
        rest.split('-').next().unwrap_or(rest)
    }

    /// Returns whether it still admits anybody.
    pub fn state(&self, now_unix_ms: u64) -> KeyState {
        if !self.policy.reusable && self.uses > 0 {
            KeyState::Used
        } else if self.policy.expires_ms.is_some_and(|end| end <= now_unix_ms) {
            KeyState::Expired
        } else {
            KeyState::Valid
        }
    }
}

/// All keys.
#[derive(Debug, Default)]
pub struct KeyRing {
    keys: BTreeMap<String, KeyRecord>,
}

impl KeyRing {
    /// Adds or replaces a record.
    pub fn put(&mut self, record: KeyRecord) {
        self.keys.insert(record.id.clone(), record);
    }

    /// Forgets a key.
    pub fn remove(&mut self, id: &str) {
        self.keys.remove(id);
    }

    /// All records, by id.
    pub fn iter(&self) -> impl Iterator<Item = &KeyRecord> {
        self.keys.values()
    }

    /// Returns whether `text` admits one more node; the record to be kept when that happens.
    pub fn admit(&self, text: &str, now: Now) -> Result<KeyRecord, KeyError> {
        let record = self
            .keys
            .get(KeyRecord::id_of(text))
            .filter(|record| record.hash == hash(text.trim()))
            .ok_or(KeyError::Unknown)?;
        match record.state(now.unix_ms) {
            KeyState::Valid => Ok(KeyRecord {
                uses: record.uses + 1,
                ..record.clone()
            }),
            KeyState::Used => Err(KeyError::Used),
            KeyState::Expired => Err(KeyError::Expired),
        }
    }
}

/// Comparing hashes in variable time tells nothing about the key behind them.
fn hash(text: &str) -> String {
    HEXLOWER.encode(&Sha256::digest(text))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(unix_ms: u64) -> Now {
        Now {
            unix_ms,
            uptime: Duration::ZERO,
        }
    }

    fn ring(policy: KeyPolicy) -> (String, KeyRing) {
        let (text, record) = KeyRecord::create(&std::array::from_fn(|i| i as u8), policy, 1000);
        let mut ring = KeyRing::default();
        ring.put(record);
        (text, ring)
    }

    #[test]
    fn the_text_is_recognizable_and_not_in_the_record() {
        let (text, ring) = ring(KeyPolicy::default());
        // The random bytes are 00 to 17: four in hexadecimal, twenty in base32.
        assert_eq!(text, "gretunkey-00010203-aqcqmbyibefawdanbyhraeiscmkbkfqx");
        let kept = serde_json::to_string(ring.iter().next().unwrap()).unwrap();
        assert!(!kept.contains(text.rsplit('-').next().unwrap()));
    }

    #[test]
    fn a_one_time_key_admits_one() {
        let (text, mut ring) = ring(KeyPolicy::default());
        let used = ring.admit(&format!(" {text}\n"), at(2000)).unwrap();
        assert_eq!(used.uses, 1);
        // Nothing is used up before the node is in the store.
        assert!(ring.admit(&text, at(2000)).is_ok());
        ring.put(used);
        assert_eq!(ring.admit(&text, at(2000)), Err(KeyError::Used));
    }

    #[test]
    fn a_reusable_key_admits_many_until_it_expires() {
        let (text, mut ring) = ring(KeyPolicy {
            reusable: true,
            expires_ms: Some(5000),
            ..KeyPolicy::default()
        });
        for uses in 1..5 {
            let used = ring.admit(&text, at(4999)).unwrap();
            assert_eq!(used.uses, uses);
            ring.put(used);
        }
        assert_eq!(ring.admit(&text, at(5000)), Err(KeyError::Expired));
    }

    #[test]
    fn other_texts_admit_nobody() {
        let (text, mut ring) = ring(KeyPolicy::default());
        let mut wrong_secret = text.clone();
        wrong_secret.pop();
        wrong_secret.push(if text.ends_with('a') { 'b' } else { 'a' });
        for bad in [
            "",
            "gretunkey-",
            "gretunkey-00010203",
            "gretunkey-00010203-",
            &wrong_secret,
            &text[1..],
        ] {
            assert_eq!(ring.admit(bad, at(2000)), Err(KeyError::Unknown), "{bad}");
        }
        ring.remove("00010203");
        assert_eq!(ring.admit(&text, at(2000)), Err(KeyError::Unknown));
    }
}
