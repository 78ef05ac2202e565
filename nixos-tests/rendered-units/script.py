UNIT = "gretun-peer.service"
# What `systemd-analyze security` may find at most. Peers hold two capabilities over the network.
MOST_EXPOSED = {"gretun-coord": 2.0, "gretun-peer": 3.5, "gretun-down": 3.5, "gretun-tunnels": 3.5}


def show(machine: Host, unit: str, name: str) -> str:
    """A property of a unit."""
    return machine.succeed(f"systemctl show -p {name} --value {unit}").strip()


def check_confined(machine: Host, unit: str, capabilities: int) -> None:
    """The unit's process runs as a user of its own, with these capabilities, no new privileges and a system call filter."""
    status = machine.succeed(f"cat /proc/{show(machine, unit, 'MainPID')}/status")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert int(fields["Uid"].split()[0]) >= 61184, f"{unit} is no dynamic user: {fields['Uid']}"
    for kind in ("CapEff", "CapBnd", "CapAmb"):
        assert int(fields[kind], 16) == capabilities, f"{unit}: {kind} is {fields[kind]}"
    assert fields["NoNewPrivs"] == "1" and fields["Seccomp"] == "2", fields


def switch(machine: Host, system: str, name: str | None = None) -> int:
    """Switches to another configuration of the machine, as `nixos-rebuild test` does; the exit code."""
    special = f"/specialisation/{name}" if name else ""
    status, output = machine.execute(f"{system}{special}/bin/switch-to-configuration test 2>&1")
    machine.log(f"switched to {name or 'its own configuration'}: {' '.join(output.split())} ({status})")
    return status


start_all()
system = alice.succeed("readlink -f /run/current-system").strip()

with subtest("the coordinator says that it is ready, and is confined"):
    coord.wait_for_unit("gretun-coord.service")
    assert show(coord, "gretun-coord.service", "Type") == "notify"
    check_confined(coord, "gretun-coord.service", 0)
    for unit in ("gretun-down.service", "gretun-tunnels.service"):
        alice.wait_for_unit(unit)

with subtest("no unit is more exposed than promised"):
    for machine, unit in ((coord, "gretun-coord"), (alice, "gretun-peer"), (alice, "gretun-down"), (alice, "gretun-tunnels")):
        said = machine.succeed(f"systemd-analyze security --no-pager {unit}.service | grep 'Overall exposure level'")
        found = re.search(r": ([\d.]+)", said)
        assert found is not None, said
        measured(f"exposure_{unit}", float(found[1]))
        assert float(found[1]) <= MOST_EXPOSED[unit], said

with subtest("peers enrol with a key that only systemd can read, and are joined"):
    for machine in (alice, bob):
        key = coord.succeed("gretun-coord keys create").strip()
        machine.succeed(f"install -d -m 700 /run/secrets && (umask 077 && echo {key} >/run/secrets/gretun)")
        machine.succeed(f"systemctl start {UNIT}")
    for machine in (alice, bob):
        machine.wait_for_unit(UNIT)
        assert show(machine, UNIT, "WatchdogUSec") == "30s"
        # CAP_NET_ADMIN and CAP_NET_RAW.
        check_confined(machine, UNIT, 1 << 12 | 1 << 13)
    join(alice, bob)
    check_link(alice, "bob", "203.0.113.20")
    check_link(bob, "alice", "203.0.113.10")
    check_pair(alice, bob)

index = link(alice, "bob")["ifindex"]
ping = BackgroundPing(bob, tunnel_ip(bob, "alice"), count=100_000)

with subtest("systemctl restart, also when the key that was needed once is gone"):
    pid = daemon_pid(alice)
    alice.succeed("rm /run/secrets/gretun")
    alice.succeed(f"systemctl restart {UNIT}")
    wait_for_peer(alice, "bob", "direct")
    assert daemon_pid(alice) != pid

with subtest("kill -9: systemd starts it again"):
    pid = daemon_pid(alice)
    alice.succeed(f"systemctl kill -s KILL {UNIT}")
    retry(lambda last: daemon_pid(alice) not in (0, pid) and show(alice, UNIT, "ActiveState") == "active", 60)
    assert show(alice, UNIT, "NRestarts") == "1"
    wait_for_peer(alice, "bob", "direct")

with subtest("systemctl stop leaves data flowing"):
    alice.succeed(f"systemctl stop {UNIT}")
    alice.fail(f"systemctl is-active {UNIT}")
    check_tcp(bob, alice, tunnel_ip(bob, "alice"))
    alice.succeed(f"systemctl start {UNIT}")
    wait_for_peer(alice, "bob", "direct")

# The watchdog takes its 30 seconds, while the tunnels are looked at.
hanging = daemon_pid(bob)
bob.succeed(f"systemctl kill -s STOP --kill-whom=main {UNIT}")

with subtest("the declared tunnel works"):
    assert show(alice, "gretun-tunnels.service", "DynamicUser") == "yes"
    carol.succeed(
        "ip link add declared type gre local 192.168.1.3 remote 192.168.1.2 key 42",
        "ip addr add 10.9.0.2/30 dev declared && ip link set declared up",
    )
    alice.succeed("ping -c 2 -W 5 10.9.0.2")

with subtest("a switch changes the tunnel in place, and nothing else"):
    before = (link(alice, "declared")["ifindex"], daemon_pid(alice))
    assert switch(alice, system, "changed") == 0
    assert (link(alice, "declared")["ifindex"], daemon_pid(alice)) == before
    assert link(alice, "declared")["linkinfo"]["info_data"]["okey"] == "0.0.0.43"
    carol.succeed("ip link change declared type gre local 192.168.1.3 remote 192.168.1.2 key 43")
    alice.succeed("ping -c 2 -W 5 10.9.0.2")

with subtest("a configuration that cannot be carried out leaves everything as it was"):
    assert switch(alice, system, "wrong") != 0
    assert link(alice, "declared")["linkinfo"]["info_data"]["okey"] == "0.0.0.43"
    alice.fail("ip link show impossible")
    alice.succeed("ping -c 2 -W 5 10.9.0.2")
    assert switch(alice, system) == 0
    assert link(alice, "declared")["linkinfo"]["info_data"]["okey"] == "0.0.0.42"

# The store of a real NixOS takes nothing that was not built.
if alice.execute("test -w /nix/store")[0] == 0:
    with subtest("another version of gretun: the daemon is restarted, and no tunnel is taken down"):
        before = (link(alice, "declared")["ifindex"], daemon_pid(alice))
        alice.succeed(
            "ln -s gretun /nix/store/gretun-upgraded",
            f"cp -r {system} /nix/store/upgraded",
            "sed -i 's|/nix/store/gretun/|/nix/store/gretun-upgraded/|' /nix/store/upgraded/units/*",
            "grep -l gretun-upgraded /nix/store/upgraded/units/gretun-down.service",
        )
        assert switch(alice, "/nix/store/upgraded") == 0
        wait_for_peer(alice, "bob", "direct")
        assert daemon_pid(alice) != before[1], "the daemon was not restarted"
        assert link(alice, "declared")["ifindex"] == before[0]
        alice.succeed("systemctl is-active gretun-down.service")
        assert switch(alice, system) == 0
        wait_for_peer(alice, "bob", "direct")

with subtest("the watchdog finds the daemon that hangs"):
    bob.wait_until_succeeds(f"journalctl -u {UNIT} -o cat | grep -q 'Watchdog timeout'", timeout=120)
    retry(lambda last: daemon_pid(bob) not in (0, hanging) and show(bob, UNIT, "ActiveState") == "active", 60)
    wait_for_peer(bob, "alice", "direct")

with subtest("through all of that the peers' tunnel was the same, and no ping was lost"):
    assert ping.running(), "the ping was over before: nothing is proved"
    sent, lost = ping.stop()
    measured("pings_sent", sent)
    assert not lost, f"of {sent} these were lost: {lost}"
    assert link(alice, "bob")["ifindex"] == index, "the link was made anew"

with subtest("gretun down ends the daemon for good"):
    bob.succeed("gretun down")
    assert links_left(bob) == "", links_left(bob)
    time.sleep(5)  # a unit that ends otherwise is started again after one second
    state = [show(bob, UNIT, name) for name in ("ActiveState", "Result", "MainPID")]
    assert state == ["inactive", "success", "0"], state

with subtest("what is removed from the configuration is removed from the kernel"):
    assert switch(alice, system, "nothing") == 0
    alice.fail(f"systemctl cat {UNIT}", "systemctl cat gretun-down.service")
    assert links_left(alice) == "", links_left(alice)
    alice.fail("ip link show declared")
