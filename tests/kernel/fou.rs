//! FOU ports.

use gretun::error::UserError as _;
use gretun::kernel::Kernel;
use gretun::kernel::tunnel::fou::{Added, Family};

use crate::lab::{Host, kernel_is_able};

#[test]
fn a_port_is_made_found_and_removed() {
    if !kernel_is_able() {
        return;
    }
    let (host, _other) = Host::pair();
    host.block_on(|| async {
        let kernel = Kernel::open().unwrap();
        for family in [Family::V4, Family::V6] {
            assert_eq!(kernel.add_fou(7777, family).unwrap(), Added::Made);
            assert_eq!(kernel.add_fou(7777, family).unwrap(), Added::Found);
        }
        let shown = host.run("ip fou show");
        assert!(shown.contains("port 7777 ipproto 47"), "{shown}");
        for family in [Family::V4, Family::V6] {
            kernel.delete_fou(7777, family).unwrap();
            kernel.delete_fou(7777, family).unwrap();
        }
        assert_eq!(host.run("ip fou show").trim(), "");
    });
}

#[test]
fn a_port_that_is_taken_is_refused_with_the_kernels_words() {
    if !kernel_is_able() {
        return;
    }
    let (host, _other) = Host::pair();
    host.block_on(|| async {
        let _taken = std::net::UdpSocket::bind("0.0.0.0:7777").unwrap();
        let error = Kernel::open()
            .unwrap()
            .add_fou(7777, Family::V4)
            .unwrap_err();
        assert_eq!(error.errno(), Some(libc::EADDRINUSE), "{error}");
        assert!(error.to_string().contains("add FOU port 7777"), "{error}");
        assert_eq!(error.kind().code(), 1);
    });
}

#[test]
fn a_fou_port_of_another_protocol_is_not_taken_for_ours() {
    if !kernel_is_able() {
        return;
    }
    let (host, _other) = Host::pair();
    host.run("ip fou add port 7777 ipproto 4");
    host.block_on(|| async {
        let added = Kernel::open().unwrap().add_fou(7777, Family::V4);
        assert!(added.is_err(), "{added:?}");
    });
}
