"""Builds the images, runs docker-compose.yml as its own project, breaks it, and says what held. Does IO.

Exit code 0: all held. 1: something did not. 2: no Docker engine with compose to try it on. Ends in any case, and
leaves nothing behind but the engine's build cache. BASE_IMAGE in the environment is the images' base.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
import time

import numpy as np
from compose_load import Digits, Report, Traffic
from compose_stack import (
    COMMAND_LIMIT_S,
    TAG,
    Failed,
    Stack,
    clean_up,
    find_engine,
    free_ports,
    show_logs,
    wait_for,
)
from compose_watch import SCRAPED, Watcher, check_watched

NODES = ("node-1", "node-2", "node-3")
MEMBERS = ("router", *NODES)

BUILD_LIMIT_S = 900.0
"""The longest build (guess: the first fetches 400 MB and compiles, five minutes on two busy cores)."""
STREAM_BEFORE_S = 3.0
STREAM_AFTER_S = 8.0
"""Seconds that the streams go on after the kill (guess: the kill is noticed within a second)."""


def check_confinement(stack: Stack, report: Report) -> None:
    """Check what a container may do and what it can see."""
    uids = {service: stack.shell(service, "id -u") for service in MEMBERS}
    report.check("members run as a user of their own", "0" not in uids.values(), uids["router"])
    probe = (
        "awk '$2 == \"/\" { print substr($4, 1, 3) }' /proc/mounts; "
        "grep -E 'CapEff|NoNewPrivs' /proc/1/status"
    )
    wanted = {"ro,", "CapEff:\t0000000000000000", "NoNewPrivs:\t1"}
    odd = [s for s in MEMBERS if set(stack.shell(s, probe).splitlines()) != wanted]
    report.check(
        "root file systems are read-only, no capabilities, no new ones", not odd, odd or ""
    )
    look = "find / -xdev -name owner.key 2>/dev/null; find /data /token -name owner.key; true"
    found = {s: stack.shell(s, look) for s in MEMBERS}
    mounts = {m["Destination"] for s in MEMBERS for m in stack.inspect(s)["Mounts"]}
    is_apart = not any(found.values()) and mounts == {"/data", "/token", "/models"}
    report.check("the owner's key is in no member's container", is_apart, sorted(mounts))
    modes = stack.shell("node-1", "stat -c '%a %u' /token /token/token /data /data/identity.key")
    expected = [f"{mode} {uids['node-1']}" for mode in (700, 600, 700, 600)]
    report.check("token and identity are for that user alone", modes.splitlines() == expected)
    secrets = stack.shell("node-1", "cat /token/token")
    seen = json.dumps([stack.inspect(s) for s in MEMBERS]) + stack.compose("logs", "--no-color")
    report.check("the token is in no log and no `docker inspect`", secrets not in seen)


def check_kill(stack: Stack, report: Report, digits: Digits, truth: np.ndarray) -> None:
    """Kill a node that serves while requests flow; bring it back."""
    peers = {stack.status(service)["peer_id"]: service for service in NODES}
    traffic = Traffic(digits, truth)
    with traffic.flowing():
        time.sleep(STREAM_BEFORE_S)
        served = {peer: stack.answered(peer) for peer in peers}
        victim = max(served, key=lambda peer: served[peer])
        stack.run("kill", stack.container(peers[victim]))
        time.sleep(STREAM_AFTER_S)
    report.check(
        "every node had answered before one was killed", min(served.values()) > 0, served.values()
    )
    traffic.check(report, f"no request failed while {peers[victim]} was killed")
    left = stack.usable()
    report.check("the killed node gets no more requests", victim not in left, f"{len(left)} usable")
    digits.check(report, "by two nodes")
    stack.run("start", stack.container(peers[victim]))
    took_s = wait_for("the killed node is usable again", lambda: victim in stack.usable())
    check_serves_again(stack, report, digits, victim, f"after `docker start`, {took_s:.1f} s")
    wait_for("the killed node is healthy", lambda: stack.is_healthy(peers[victim]))
    is_same = stack.status(peers[victim])["peer_id"] == victim
    report.check("it is healthy and kept its peer id", is_same, victim)


def check_serves_again(stack: Stack, report: Report, digits: Digits, peer: str, when: str) -> None:
    """Check that requests reach `peer` without being told to."""
    before = stack.answered(peer)

    def is_served() -> bool:
        for row in range(10):
            digits.classify(row, 1)
        return stack.answered(peer) > before

    wait_for(f"{peer} answers", is_served)
    report.check(f"the node serves again {when}", held=True)


def check_restart_policy(stack: Stack, report: Report, digits: Digits, truth: np.ndarray) -> None:
    """Let a node end by itself while requests flow: it drains, and the engine starts it again."""
    service = NODES[0]
    peer, before = stack.status(service)["peer_id"], stack.inspect(service)
    traffic = Traffic(digits, truth)
    with traffic.flowing():
        stack.shell(service, "kill -TERM 1")
        wait_for(
            f"{service} was started again",
            lambda: stack.inspect(service)["RestartCount"] > before["RestartCount"],
        )
        took_s = wait_for(f"{service} is usable again", lambda: peer in stack.usable())
    traffic.check(report, "no request failed while a node drained, ended and was restarted")
    check_serves_again(stack, report, digits, peer, f"after its restart, {took_s:.1f} s")


def check_second_up(stack: Stack, report: Report, digits: Digits) -> None:
    """Bring the project up once more, as it is and with new containers: it stays the same network."""
    for how, options in (("a second `up`", ()), ("`up --force-recreate`", ("--force-recreate",))):
        before = {service: stack.status(service) for service in MEMBERS}
        stack.compose("up", "--detach", "--wait", *options, limit_s=2 * COMMAND_LIMIT_S)
        after = {service: stack.status(service) for service in MEMBERS}
        for key in ("network_id", "peer_id"):
            kept = all(before[service][key] == after[service][key] for service in MEMBERS)
            report.check(f"{how} keeps every {key}", kept)
        made = networks_made(stack)
        report.check(f"{how} makes no other network", made == {after["router"]["network_id"]}, made)
    peers = {stack.status(service)["peer_id"] for service in NODES}
    took_s = wait_for("three nodes are usable in new containers", lambda: stack.usable() == peers)
    digits.check(report, f"by new containers, {took_s:.1f} s")


def check_more_nodes(stack: Stack, report: Report) -> None:
    """Have two nodes more, and then none of them."""
    before, watcher = stack.usable(), Watcher(stack.watch_port)
    for count in (2, 0):
        up = ("up", "--detach", "--wait", "--no-recreate", "--scale", f"more-nodes={count}")
        stack.compose(*up, limit_s=2 * COMMAND_LIMIT_S)
        wanted = len(before) + count
        took_s = wait_for(f"{wanted} nodes are usable", lambda: len(stack.usable()) == wanted)  # noqa: B023
        held = before <= stack.usable()
        report.check(f"`--scale more-nodes={count}` makes it {wanted}", held, f"{took_s:.1f} s")
        asked = ["up"] * (len(SCRAPED) + count)
        took_s = wait_for(
            f"Prometheus scrapes {wanted} nodes",
            lambda: list(watcher.targets().values()) == asked,  # noqa: B023
        )
        report.check(f"Prometheus scrapes all {wanted}", held=True, detail=f"{took_s:.1f} s")


def networks_made(stack: Stack) -> set[str]:
    """Return the networks that the one-shot service named in all its runs."""
    return set(
        re.findall(r"network (cm-[0-9a-f]+)", stack.compose("logs", "--no-color", "network"))
    )


def check_all(stack: Stack, report: Report) -> None:
    """Do all of it, in order."""
    begun_s = time.monotonic()
    stack.compose("build", limit_s=BUILD_LIMIT_S)
    report.check("the images build", held=True, detail=f"{time.monotonic() - begun_s:.0f} s")
    for name in ("router", "node"):
        image = json.loads(stack.run("image", "inspect", f"capamesh-{name}:{TAG}"))[0]
        user, size_mb = image["Config"]["User"], image["Size"] / 1e6
        is_user = user.split(":")[0] not in {"", "0", "root"}
        report.check(f"the {name} image's user is not root", is_user, f"{user}, {size_mb:.0f} MB")
        said = stack.run("run", "--rm", f"capamesh-{name}:{TAG}", "version")
        runs = "(compiled: " in said
        report.check(f"the {name} image runs compiled modules", runs, said)
    begun_s = time.monotonic()
    stack.compose("up", "--detach", "--wait", limit_s=2 * COMMAND_LIMIT_S)
    up_s = time.monotonic() - begun_s
    report.check("all members become healthy", all(map(stack.is_healthy, MEMBERS)), f"{up_s:.0f} s")
    peers = {stack.status(service)["peer_id"] for service in NODES}
    took_s = wait_for("three nodes have links that are up", lambda: stack.usable() == peers)
    report.check("the router has links to three nodes", len(peers) == 3, f"{took_s:.1f} s later")
    digits = Digits(stack)
    truth = digits.check(report, "by three nodes")
    check_confinement(stack, report)
    check_watched(stack, report, digits, truth)
    check_kill(stack, report, digits, truth)
    check_restart_policy(stack, report, digits, truth)
    check_second_up(stack, report, digits)
    check_more_nodes(stack, report)
    stack.compose("stop")
    ended = (*MEMBERS, "prometheus")
    codes = {service: stack.inspect(service)["State"]["ExitCode"] for service in ended}
    report.check(
        "all members and Prometheus end by themselves when stopped", not any(codes.values()), codes
    )


def stop(*_: object) -> None:
    """End the test as a failure does, so that it cleans up."""
    raise Failed("told to stop")


def main() -> int:
    """Run the test and print the table."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    ).parse_args()
    signal.signal(signal.SIGTERM, stop)
    try:
        stack = Stack(find_engine(), *free_ports())
    except Failed as exc:
        print(f"compose-test: {exc}", file=sys.stderr)
        return 2
    report = Report()
    try:
        clean_up(stack)
        check_all(stack, report)
    except (Failed, OSError, KeyError, ValueError) as exc:
        report.check("the test got to its end", held=False, detail=f"{type(exc).__name__}: {exc}")
    finally:
        if not report.all_held:
            show_logs(stack)
        left = clean_up(stack)
        report.check("nothing of it is left", not left, left)
        print(f"\n{report.table()}")
    return 0 if report.all_held else 1


if __name__ == "__main__":
    sys.exit(main())
