"""Tells what a run of `scripts/mutate.py` found: by package, by test, and against a run before. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def share_of(verdicts: Sequence[Mapping[str, Any]]) -> float:
    """Return the share of the mutants that a test notices."""
    return sum(bool(each["killers"]) for each in verdicts) / max(1, len(verdicts))


def by_package(
    verdicts: Sequence[Mapping[str, Any]],
) -> dict[str, list[Mapping[str, Any]]]:
    """Return the verdicts of each package, then of all."""
    packages: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for each in sorted(verdicts, key=lambda verdict: verdict["path"]):
        packages[each["path"].split("/", 1)[0]].append(each)
    return {**packages, "all": list(verdicts)}


def summary(verdicts: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a line for each package, and one for all."""
    for name, some in by_package(verdicts).items():
        killed = sum(bool(each["killers"]) for each in some)
        unrun = sum(not each["ran"] for each in some)
        yield (
            f"{name:12}{killed:6} of {len(some):5} noticed  {share_of(some):6.1%}"
            f"   survive {len(some) - killed:4}, of which no test runs {unrun:4}"
        )


def below(verdicts: Sequence[Mapping[str, Any]], floors: Sequence[str]) -> Iterator[str]:
    """Yield what is wrong where the share of a package, or of all, is below its floor.

    Args:
        verdicts: what was found.
        floors: shares, each after the name of its package and `=`; one without a name is for all.
    """
    packages = by_package(verdicts)
    for each in floors:
        name, least = each.split("=") if "=" in each else ("all", each)
        share = share_of(packages[name])
        if share < float(least):
            yield f"{name}: {share:.1%} is below the floor of {float(least):.1%}"


def function_of(test: str) -> str:
    """Return the test function that a test, perhaps with parameters, is a case of."""
    return test.split("[", 1)[0]


def needed_tests(kills: Mapping[str, set[str]], lines: Mapping[str, int]) -> list[str]:
    """Return few tests that together notice all that any notices, chosen greedily by what a line brings.

    Args:
        kills: for each test, the mutants that it notices.
        lines: the length of each test.
    """
    needed: list[str] = []
    left = set().union(*kills.values()) if kills else set()
    while left:
        best = max(
            sorted(kills), key=lambda test: len(kills[test] & left) / max(1, lines[test]) ** 0.5
        )
        needed.append(best)
        left -= kills[best]
    return needed


def redundant(whole: Mapping[str, Any]) -> Iterator[str]:
    """Yield lines that list test files, and the tests in them, by what they alone notice, least first."""
    lines: dict[str, int] = {}
    cpu_s: Counter[str] = Counter()
    tried: Counter[str] = Counter()
    for name, each in whole["tests"].items():
        lines[function_of(name)] = each["lines"]
        cpu_s[function_of(name)] += each["cpu_s"]
        tried[function_of(name)] = max(tried[function_of(name)], each["tried"])
    kills: dict[str, set[str]] = {name: set() for name in lines}
    sole: Counter[str] = Counter()
    sole_files: Counter[str] = Counter()
    for mutant in whole["mutants"]:
        killers = {function_of(each) for each in mutant["killers"]}
        files = {each.split("::", 1)[0] for each in killers}
        for each in killers:
            kills[each].add(mutant["key"])
        if len(killers) == 1:
            sole.update(killers)
        if len(files) == 1:
            sole_files.update(files)
    needed = set(needed_tests({name: some for name, some in kills.items() if some}, lines))
    by_file: dict[str, list[str]] = defaultdict(list)
    for name in lines:
        by_file[name.split("::", 1)[0]].append(name)
    spare = sum(lines[name] for name in lines if name not in needed)
    yield (
        f"{len(lines)} test functions, {sum(lines.values())} lines; {len(needed)} functions of "
        f"{sum(lines[name] for name in needed)} lines notice every mutant that all notice, {spare} lines are spare"
    )
    yield "columns: mutants noticed by it alone | in all | of so many that its cases ran | lines | CPU seconds; + it is among the few that suffice"
    for file in sorted(by_file, key=lambda each: (sole_files[each], each)):
        names = by_file[file]
        noticed = set().union(*(kills[name] for name in names))
        size = sum(lines[name] for name in names)
        yield (
            f"\n{file}  alone {sole_files[file]}, in all {len(noticed)}, lines {size}, "
            f"CPU {sum(cpu_s[name] for name in names):.2f} s, spare functions "
            f"{sum(name not in needed for name in names)} of {len(names)}"
        )
        for name in sorted(names, key=lambda each: (sole[each], len(kills[each]), -tried[each])):
            mark = "+" if name in needed else " "
            yield (
                f"  {mark}{sole[name]:4}{len(kills[name]):5}{tried[name]:5}{lines[name]:5}{cpu_s[name]:8.2f}  "
                f"{name.split('::', 1)[1]}"
            )


def compared(before: Mapping[str, Any], now: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield what was noticed before and is not now, and the other way round."""
    known = {each["key"]: each for each in before["mutants"]}
    both = [(known[each["key"]], each) for each in now if each["key"] in known]
    yield f"{len(known) - len(both)} of {len(known)} mutants are no more"
    for was, is_now in both:
        if bool(was["killers"]) != bool(is_now["killers"]):
            word = "noticed no longer" if was["killers"] else "noticed now"
            place = f"{is_now['path']}:{is_now['line']}"
            by = f"  (was by {', '.join(was['killers'][:3])})" if was["killers"] else ""
            yield f"{word}: {place}: {is_now['what']}: {is_now['text']}{by}"
    yield f"before {share_of([was for was, _ in both]):.1%}, now {share_of([now for _, now in both]):.1%} of {len(both)}"
