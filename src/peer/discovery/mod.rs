//! Finds paths: the candidates, the pings and calls that try them, and the port search behind symmetric NATs.

pub(in crate::peer) mod candidates;
pub(in crate::peer) mod path_search;
pub(in crate::peer) mod port_mapping;
pub(in crate::peer) mod port_search;
