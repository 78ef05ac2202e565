//! Keys: a node's identity to the coordinator (Ed25519) and to its peers (Curve25519), and the shared secrets of two peers.
//!
//! Secrets are zeroized on drop, print nothing of themselves and cannot be serialized; making them, storing them and
//! drawing their randomness is the caller's work.

use std::fmt;
use std::str::FromStr;

use crypto_box::aead::Aead as _;
use curve25519_dalek::montgomery::MontgomeryPoint;
use data_encoding::HEXLOWER_PERMISSIVE;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use hkdf::Hkdf;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::error::{Kind, UserError};

/// Length of every key of either kind, bytes.
pub const KEY_LEN: usize = 32;
/// Length of an Ed25519 signature, bytes.
pub const SIGNATURE_LEN: usize = 64;
/// Length of a NaCl box nonce, bytes.
pub const NONCE_LEN: usize = 24;
/// Bytes that sealing adds: the Poly1305 tag in front of the ciphertext.
pub const SEAL_OVERHEAD: usize = 16;

/// Separates this use of the pair's secret from any other.
const GRE_KEY_SALT: &[u8] = b"gretun gre key v1";

/// The reason why a text is not a public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyParseError {
    /// The prefix that tells the kinds of keys apart is missing.
    #[error("a key that starts with `{expected}` was expected")]
    Prefix {
        /// The prefix of the kind that was asked for, with its colon.
        expected: &'static str,
    },
    /// The text after the prefix is not 64 hexadecimal digits.
    #[error("`{prefix}` must be followed by 64 hexadecimal digits")]
    Digits {
        /// The prefix that was found.
        prefix: &'static str,
    },
}

impl UserError for KeyParseError {
    fn kind(&self) -> Kind {
        Kind::Usage
    }
}

macro_rules! public_key {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; KEY_LEN]);

        impl $name {
            /// The prefix of the text form.
            pub const PREFIX: &'static str = $prefix;

            /// Takes the 32 bytes as they are; whether they are a usable point shows when they are used.
            pub const fn from_bytes(bytes: [u8; KEY_LEN]) -> Self {
                $name(bytes)
            }

            /// The 32 bytes.
            pub const fn as_bytes(&self) -> &[u8; KEY_LEN] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(Self::PREFIX)?;
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = KeyParseError;

            fn from_str(text: &str) -> Result<Self, KeyParseError> {
                parse_key(text, Self::PREFIX).map($name)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(D::Error::custom)
            }
        }
    };
}

public_key!(
    /// A node's Ed25519 public key: its identity. Text form `nodekey:<64 hex digits>`.
    NodePublic,
    "nodekey:"
);

public_key!(
    /// A node's Curve25519 public key: whom its peers seal disco messages to. Text form `discokey:<64 hex digits>`.
    DiscoPublic,
    "discokey:"
);

fn parse_key(text: &str, prefix: &'static str) -> Result<[u8; KEY_LEN], KeyParseError> {
    let digits = text
        .strip_prefix(prefix)
        .ok_or(KeyParseError::Prefix { expected: prefix })?;
    HEXLOWER_PERMISSIVE
        .decode(digits.as_bytes())
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or(KeyParseError::Digits { prefix })
}

impl NodePublic {
    /// Returns whether `signature` is this node's over `message`. Strict: a weak public key or a non-canonical signature does
    /// not count, so that one message has one signature.
    pub fn verify(&self, message: &[u8], signature: &[u8; SIGNATURE_LEN]) -> bool {
        VerifyingKey::from_bytes(&self.0).is_ok_and(|key| {
            key.verify_strict(message, &Signature::from_bytes(signature))
                .is_ok()
        })
    }
}

/// A node's Ed25519 secret key.
#[derive(Clone)]
pub struct NodeSecret(SigningKey);

impl NodeSecret {
    /// The key with this 32-byte seed (RFC 8032 section 5.1.5).
    pub fn from_bytes(seed: [u8; KEY_LEN]) -> Self {
        let seed = Zeroizing::new(seed);
        NodeSecret(SigningKey::from_bytes(&seed))
    }

    /// The seed, to be stored.
    pub fn to_bytes(&self) -> Zeroizing<[u8; KEY_LEN]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// The public half.
    pub fn public(&self) -> NodePublic {
        NodePublic(self.0.verifying_key().to_bytes())
    }

    /// Signs `message` (deterministic, RFC 8032).
    pub fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_LEN] {
        self.0.sign(message).to_bytes()
    }
}

impl fmt::Debug for NodeSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeSecret(..)")
    }
}

/// A node's Curve25519 secret key.
#[derive(Clone)]
pub struct DiscoSecret(Zeroizing<[u8; KEY_LEN]>);

impl DiscoSecret {
    /// The key with these 32 bytes; clamping (RFC 7748 section 5) happens on use.
    pub fn from_bytes(bytes: [u8; KEY_LEN]) -> Self {
        DiscoSecret(Zeroizing::new(bytes))
    }

    /// The 32 bytes, to be stored.
    pub fn to_bytes(&self) -> Zeroizing<[u8; KEY_LEN]> {
        self.0.clone()
    }

    /// The public half.
    pub fn public(&self) -> DiscoPublic {
        DiscoPublic(MontgomeryPoint::mul_base_clamped(*self.0).to_bytes())
    }

    /// Computes the secrets that this node shares with `peer`. Keep the result, because it costs two scalar multiplications.
    pub fn shared(&self, peer: &DiscoPublic) -> DiscoShared {
        let secret = crypto_box::SecretKey::from_bytes(*self.0);
        let salsa = crypto_box::SalsaBox::new(&crypto_box::PublicKey::from_bytes(peer.0), &secret);
        let x25519 = Zeroizing::new(MontgomeryPoint(peer.0).mul_clamped(*self.0).to_bytes());
        DiscoShared {
            salsa,
            gre_key: derive_gre_key(&x25519, &self.public(), peer),
        }
    }
}

impl fmt::Debug for DiscoSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DiscoSecret(..)")
    }
}

/// The secrets that two nodes share: the NaCl box between them (X25519, XSalsa20-Poly1305) and their tunnel's GRE key.
pub struct DiscoShared {
    salsa: crypto_box::SalsaBox,
    gre_key: u32,
}

impl DiscoShared {
    /// Seals `plain`: 16 bytes of tag, then the ciphertext. A nonce must never seal two different texts.
    pub fn seal(&self, nonce: [u8; NONCE_LEN], plain: &[u8]) -> Vec<u8> {
        let sealed = self.salsa.encrypt(&nonce.into(), plain);
        debug_assert!(
            sealed.is_ok(),
            "XSalsa20-Poly1305 seals any text that fits in memory"
        );
        sealed.unwrap_or_default()
    }

    /// Opens a message that the other side sealed; `None` if the other side did not seal it.
    pub fn open(&self, nonce: [u8; NONCE_LEN], sealed: &[u8]) -> Option<Vec<u8>> {
        self.salsa.decrypt(&nonce.into(), sealed).ok()
    }

    /// The key of the pair's GRE tunnel: the same on both sides, never 0 (which iproute2 reads as "no key"). It tells
    /// peers behind one address apart; it protects nothing, for GRE carries it in clear.
    pub fn gre_key(&self) -> u32 {
        self.gre_key
    }
}

impl fmt::Debug for DiscoShared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DiscoShared(..)")
    }
}

/// HKDF-SHA256 (RFC 5869) over the X25519 secret, both public keys in ascending order as info; the first 32 bits that
/// are not zero, big endian.
fn derive_gre_key(x25519: &[u8; KEY_LEN], one: &DiscoPublic, other: &DiscoPublic) -> u32 {
    let mut info = [0; 2 * KEY_LEN];
    info[..KEY_LEN].copy_from_slice(one.min(other).as_bytes());
    info[KEY_LEN..].copy_from_slice(one.max(other).as_bytes());
    let mut okm = Zeroizing::new([0; 32]);
    let expanded = Hkdf::<Sha256>::new(Some(GRE_KEY_SALT), x25519).expand(&info, &mut *okm);
    debug_assert!(expanded.is_ok(), "HKDF-SHA256 gives up to 8160 bytes");
    first_nonzero(&*okm)
}

fn first_nonzero(okm: &[u8]) -> u32 {
    okm.as_chunks::<4>()
        .0
        .iter()
        .map(|word| u32::from_be_bytes(*word))
        .find(|key| *key != 0)
        .unwrap_or(1)
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
