import statistics

RUNS = 10
# Starts the daemon and pings the other side's tunnel address every 5 ms until an answer comes; prints the seconds between. One process,
# already running: starting ping(8) again and again would cost more than what is measured.
FIRST_PING = r"""
import os, select, socket, struct, subprocess, sys, time

def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF

target, config, log = sys.argv[1:]
icmp = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
ident, sequence = os.getpid() & 0xFFFF, 0
output = open(log, "ab")
start = time.monotonic()
subprocess.Popen(["gretun", "up", "--config", config], stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)
while time.monotonic() - start < 60:
    sequence = (sequence + 1) & 0xFFFF
    head = struct.pack("!BBHHH", 8, 0, 0, ident, sequence)
    try:
        icmp.sendto(struct.pack("!BBHHH", 8, 0, checksum(head), ident, sequence), (target, 0))
    except OSError:
        pass
    due = time.monotonic() + 0.005
    while (left := due - time.monotonic()) > 0:
        if select.select([icmp], [], [], left)[0]:
            answer, source = icmp.recvfrom(2000)
            kind, _, _, answered, _ = struct.unpack_from("!BBHHH", answer, (answer[0] & 15) * 4)
            if kind == 0 and answered == ident and source[0] == target:
                print(time.monotonic() - start)
                sys.exit()
sys.exit("no answer within 60 s")
"""

start_all()
alice.wait_until_succeeds("gretun --json peers")
bob.succeed(f"cat >/tmp/first_ping.py <<'END'\n{FIRST_PING}\nEND")
config = bob.succeed("sed -n 's/.*--config \\([^ ]*\\).*/\\1/p' $LAB_UNITS/gretun-peer.service/command").strip()

# Once beforehand: the daemon makes its keys, and the addresses are known.
bob.succeed("systemctl start gretun-peer.service")
join(alice, bob)
address = tunnel_ip(bob, "alice")
bob.succeed("systemctl stop gretun-peer.service", "gretun down")
rtt = coord.succeed("ping -c 5 -i 0.2 -q 203.0.113.20 | sed -n 's|.*= [^/]*/\\([^/]*\\)/.*|\\1|p'").strip()
measured("rtt_ms_coordinator_to_nat", float(rtt))

seconds = []
for run in range(RUNS):
    # Closed holes: what an earlier run opened must not help.
    for router in (gwa, gwb):
        router.succeed("conntrack --flush 2>/dev/null")
    seconds.append(float(bob.succeed(f"python3 /tmp/first_ping.py {address} {config} /tmp/daemon-{run}.log")))
    bob.log(f"run {run + 1}: {seconds[-1]:.3f} s")
    join(alice, bob)
    bob.succeed("pkill -TERM -x gretun && while pgrep -x gretun >/dev/null; do sleep 0.1; done; gretun down")
    retry(lambda last: peer(alice, "bob")["state"] != "direct", 60)

measured("runs_s", [round(s, 3) for s in seconds])
measured("median_s", round(statistics.median(seconds), 3))
