PATHS = {"bob": ExpectedPath("203.0.113.31"), "carol": ExpectedPath("203.0.113.32"), "dave": ExpectedPath("203.0.113.33")}

start_all()
join(alice, bob, carol, dave)
for name, path in PATHS.items():
    check_ping_over(alice, name, path)
before = ticks(alice)
IDLE_S = 30
time.sleep(IDLE_S)
measured("idle_cpu_percent_emulated", round((ticks(alice) - before) / IDLE_S, 2))
for name, path in PATHS.items():
    check_path(alice, name, path)
for key, kib in memory(alice).items():
    measured(f"daemon_{key.lower()}_kib", kib)
coordinator = coord.succeed("systemctl show -p MainPID --value gretun-coord.service").strip()
measured("coordinator_rss_kib", int(coord.succeed(f"grep ^VmRSS: /proc/{coordinator}/status").split()[1]))
for program in ("gretun", "gretun-coord"):
    measured(f"{program}_stripped_bytes", int(alice.succeed(f'stat -c %s "$(command -v {program})"')))
