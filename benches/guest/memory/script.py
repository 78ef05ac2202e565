start_all()
join(alice, bob, carol, dave)
pid = daemon_pid(alice)


def ticks() -> int:
    """Processor time of the daemon, in hundredths of a second."""
    fields = alice.succeed(f"cat /proc/{pid}/stat").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


before = ticks()
IDLE_S = 30
time.sleep(IDLE_S)
measured("idle_cpu_percent_emulated", round((ticks() - before) / IDLE_S, 2))
rollup = dict(
    line.split(":", 1) for line in alice.succeed(f"grep -E '^(Rss|Pss|Pss_Anon|Private_Dirty):' /proc/{pid}/smaps_rollup").splitlines()
)
for key, value in rollup.items():
    measured(f"daemon_{key.lower()}_kib", int(value.split()[0]))
coordinator = coord.succeed("systemctl show -p MainPID --value gretun-coord.service").strip()
measured("coordinator_rss_kib", int(coord.succeed(f"grep ^VmRSS: /proc/{coordinator}/status").split()[1]))
for program in ("gretun", "gretun-coord"):
    measured(f"{program}_stripped_bytes", int(alice.succeed(f'stat -c %s "$(command -v {program})"')))
