//! The ownership mark of an overlay tunnel: the link's alias (`IFLA_IFALIAS`) says which node made it and for which
//! peer, so that a restart adopts its own links and touches no other.

use std::fmt;
use std::str::FromStr;

use crate::kernel::tunnel::dump::ObservedTunnel;
use crate::proto::keys::NodePublic;

const WORDS: [&str; 2] = ["gretun", "overlay"];

/// The last word of the mark of a link that only receives.
const OVERLAP: &str = "overlap";

/// How many hexadecimal digits of our own key are in the mark: enough to tell the daemons of one host apart.
const OWN_DIGITS: usize = 16;

/// `gretun overlay <own key, 16 digits> <peer key, 64 digits>`, and the word `overlap` behind it where the link only receives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerAlias {
    own: String,
    /// The peer at the far end.
    pub peer: NodePublic,
    /// Whether the link only receives, while the peer's tunnel moves from one path to another.
    pub is_overlap: bool,
}

impl OwnerAlias {
    /// The mark of the tunnel from `own` to `peer`.
    pub fn new(own: NodePublic, peer: NodePublic) -> Self {
        let mut digits = data_encoding::HEXLOWER.encode(own.as_bytes());
        digits.truncate(OWN_DIGITS);
        OwnerAlias {
            own: digits,
            peer,
            is_overlap: false,
        }
    }

    /// The mark of a link that receives for the same tunnel while it moves.
    #[must_use]
    pub fn of_overlap(self) -> Self {
        OwnerAlias {
            is_overlap: true,
            ..self
        }
    }

    /// The mark of this tunnel, if the overlay made it.
    pub fn of(tunnel: &ObservedTunnel) -> Option<Self> {
        tunnel.state.link.alias.as_deref()?.parse().ok()
    }

    /// Whether `own` made this tunnel.
    pub fn is_of(&self, own: NodePublic) -> bool {
        self.own == OwnerAlias::new(own, self.peer).own
    }
}

impl fmt::Display for OwnerAlias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let peer = data_encoding::HEXLOWER.encode(self.peer.as_bytes());
        write!(f, "{} {} {} {peer}", WORDS[0], WORDS[1], self.own)?;
        if self.is_overlap {
            write!(f, " {OVERLAP}")?;
        }
        Ok(())
    }
}

/// The alias is not one of our marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAMark;

impl FromStr for OwnerAlias {
    type Err = NotAMark;

    fn from_str(alias: &str) -> Result<Self, NotAMark> {
        let words: Vec<&str> = alias.split(' ').collect();
        let (words, is_overlap) = match words.split_last() {
            Some((&OVERLAP, words)) => (words, true),
            _ => (&words[..], false),
        };
        let [first, second, own, peer] = *words else {
            return Err(NotAMark);
        };
        let peer: [u8; 32] = data_encoding::HEXLOWER
            .decode(peer.as_bytes())
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or(NotAMark)?;
        if [first, second] != WORDS || own.len() != OWN_DIGITS {
            return Err(NotAMark);
        }
        Ok(OwnerAlias {
            own: own.to_owned(),
            peer: NodePublic::from_bytes(peer),
            is_overlap,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_comes_back_and_knows_its_maker() {
        let (own, peer) = (
            NodePublic::from_bytes([7; 32]),
            NodePublic::from_bytes([9; 32]),
        );
        let mark: OwnerAlias = OwnerAlias::new(own, peer).to_string().parse().unwrap();
        assert_eq!(mark.peer, peer);
        assert!(mark.is_of(own));
        assert!(!mark.is_of(peer) && !mark.is_overlap);
        let overlap: OwnerAlias = mark.of_overlap().to_string().parse().unwrap();
        assert!(overlap.is_of(own) && overlap.is_overlap && overlap.peer == peer);
    }

    #[test]
    fn other_aliases_are_not_marks() {
        for alias in [
            "",
            "uplink",
            "gretun overlay x y",
            "gretun static lab",
            "gretun overlay 07 09 extra",
        ] {
            assert_eq!(alias.parse::<OwnerAlias>(), Err(NotAMark), "{alias:?}");
        }
    }
}
