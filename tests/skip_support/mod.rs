//! Tests that cannot run here fail, unless somebody has said that they may be skipped.

use std::fmt::Display;

/// Says that a test is skipped and returns `false`, where the caller of the tests allows that.
pub fn skip(reason: &dyn Display) -> bool {
    assert!(
        std::env::var_os("GRETUN_ALLOW_SKIP").is_some(),
        "{reason}; with GRETUN_ALLOW_SKIP=1 the test is skipped"
    );
    eprintln!("SKIPPED: {reason}");
    false
}
