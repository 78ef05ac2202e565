COORD = "gretun-coord.service"
PEER = "gretun-peer.service"
UNITS = (COORD, "gretun-down.service", PEER, "gretun-tunnels.service")
# Not the default, so that the removal has to look into the configuration.
ALICE_PORT = 7778
PACKAGE = "/srv/packages/gretun_{}_*.deb"
# A purged package leaves nothing of its own, but what dpkg, apt and the journal write about it.
TRACES = "find / /run /tmp -xdev -name '*gretun*' -not -path '/srv/packages*' -not -path '/var/log/*'"


def run(command: str) -> str:
    """Runs apt-get or dpkg on alice, where neither may say that anything went wrong; returns what it printed."""
    began = time.monotonic()
    said = alice.succeed(f"DEBIAN_FRONTEND=noninteractive {command} 2>&1")
    alice.log(f"{command}: {time.monotonic() - began:.0f} s; {' / '.join(said.splitlines()[-6:])}")
    # The package's scripts ignore what systemd refuses them, and it must not refuse anything. dpkg warns of directories that hold
    # what the daemons or the administrator wrote, which a purge removes after that.
    told = [line for line in said.splitlines() if "not empty so not removed" not in line]
    assert not re.search(r"(?i)warning|error|fail|could not", "\n".join(told)), said
    return said


def check_installed(version: str) -> None:
    """This version is installed and configured."""
    found = alice.succeed("dpkg-query --show --showformat '${Version} ${db:Status-Abbrev}' gretun").split()
    assert found == [version, "ii"], found


def states() -> dict[str, str]:
    """Each unit and whether it is active."""
    _, said = alice.execute(f"systemctl is-active {' '.join(UNITS)}")
    return dict(zip(UNITS, said.split(), strict=True))


def check_all_active() -> None:
    """All four units run, and no unit of the host has failed."""
    for unit in UNITS:
        alice.wait_for_unit(unit)
    assert set(states().values()) == {"active"}, states()
    check_none_failed()


def check_none_failed() -> None:
    """No unit of the host has failed."""
    assert alice.succeed("systemctl --failed --no-legend --plain") == ""


def main_pids() -> list[str]:
    """The processes of the two daemons."""
    return alice.succeed(f"systemctl show -p MainPID --value {COORD} {PEER}").split()


start_all()

with subtest("installed, the package starts nothing that has no configuration"):
    run(f"apt-get --quiet --yes -o Dpkg::Use-Pty=0 install {PACKAGE.format('1.0')}")
    check_installed("1.0")
    # Skipped, not failed.
    assert set(states().values()) == {"inactive"}, states()
    check_none_failed()
    assert links_left(alice) == "", links_left(alice)
    alice.succeed(
        "getent group gretun",
        "test -e /usr/share/man/man1/gretun-up.1.gz",
        "bash -n /usr/share/bash-completion/completions/gretun",
    )

with subtest("all units start with the files that the package's examples show"):
    alice.succeed("cp /etc/gretun/coord.toml.example /etc/gretun/coord.toml", f"systemctl start {COORD}")
    keys = [alice.succeed("gretun-coord keys create").strip() for _ in range(2)]
    alice.succeed(
        f"(umask 077; echo {keys[0]} >/etc/gretun/auth-key)",
        f"sed -e 's|^coordinator = .*|coordinator = \"http://{COORDINATOR}:8443\"|'"
        f" -e 's|^#node-name = .*|node-name = \"alice\"\\nfou-port = {ALICE_PORT}|'"
        " /etc/gretun/peer.toml.example >/etc/gretun/peer.toml",
        "sed -e 's|^remote = .*|remote = \"203.0.113.20\"|' /etc/gretun/tunnels.toml.example >/etc/gretun/tunnels.toml",
        f"systemctl start {PEER} gretun-tunnels.service",
    )
    check_all_active()
    alice.succeed("ip link show site-b")

with subtest("the packaged peer and one behind a NAT are connected: ping and TCP"):
    bob.succeed(
        f"install -d -m 700 /run/secrets && (umask 077 && echo {keys[1]} >/run/secrets/gretun)",
        f"systemctl start {PEER}",
    )
    join(alice, bob)
    check_link(alice, "bob", "203.0.113.20", sport=ALICE_PORT)
    check_link(bob, "alice", COORDINATOR, dport=ALICE_PORT)
    check_pair(alice, bob)

with subtest("an upgrade over the running tunnels restarts the daemons and loses nothing"):
    overlay, static = link(alice, "bob")["ifindex"], link(alice, "site-b")["ifindex"]
    before = main_pids()
    ping = BackgroundPing(bob, tunnel_ip(bob, "alice"))
    run(f"dpkg --install {PACKAGE.format('2.0')}")
    check_installed("2.0")
    check_all_active()
    assert not set(before) & set(main_pids()), f"not restarted: {before}, {main_pids()}"
    join(alice, bob)
    check_pair(alice, bob)
    ping.lost_none()
    assert link(alice, "bob")["ifindex"] == overlay, "the peer's link was made anew"
    assert link(alice, "site-b")["ifindex"] == static, "the static tunnel was made anew"

with subtest("removed, the package takes its tunnels along and keeps configuration and keys"):
    kept = alice.succeed("sha256sum /etc/gretun/* /var/lib/private/gretun/*key*")
    run("dpkg --remove gretun")
    assert links_left(alice) == "", links_left(alice)
    alice.fail("ip link show bob", "ip link show site-b", "test -e /usr/bin/gretun", f"systemctl cat {PEER}")
    assert alice.succeed("sha256sum /etc/gretun/* /var/lib/private/gretun/*key*") == kept

with subtest("installed again, the network is there again as it was"):
    run(f"dpkg --install {PACKAGE.format('2.0')}")
    check_all_active()
    join(alice, bob)
    alice.succeed("ip link show site-b")

with subtest("purged, nothing is left"):
    run("dpkg --purge gretun")
    assert links_left(alice) == "", links_left(alice)
    assert alice.succeed(TRACES) == "", alice.succeed(TRACES)
    alice.fail("getent group gretun", "test -e /etc/gretun")
    check_none_failed()
