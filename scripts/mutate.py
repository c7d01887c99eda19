"""Breaks our code in one small place at a time and tells which unit tests notice.

One process collects the tests once, then forks for each break (a mutant). The fork puts the broken code into the living
functions and runs the tests that execute the broken line, as a recording for this state of the files says (under
build/mutation). No file is changed; sources run, whatever lies compiled beside them. Only functions are broken, and only
where a test can see it: what runs at import alone is left out. A mutant whose line no test runs survives untried.

    python scripts/mutate.py --sample 300 --seed 29              the share that is noticed, up to the first failing test
    python scripts/mutate.py --matrix router --sample 500 --json router.json    every test that fails, for each mutant
    python scripts/mutate.py --redundant router.json             tests by what they alone notice, least first
    python scripts/mutate.py --same router.json router           the same mutants once more, and what is noticed no longer
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import importlib
import inspect
import json
import os
import pickle
import pkgutil
import resource
import selectors
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import coverage
import pytest
from mutants import Mutant, Place, broken_codes, mutants_of, sample
from mutation_report import below, compared, function_of, redundant, summary

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("protocol", "node", "router", "client", "cli", "simulation")
KEPT = ROOT / "build/mutation"
MEMORY = 4 << 30
"""The bytes that a fork may allocate beyond those it begins with: a broken loop must not take the machine's."""
APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT
PATIENCE_S = 10.0
"""A test that takes longer than this and ten times what it took unbroken hangs: it notices."""
HANGS = 3
"""A mutant that this many tests hang on is not tried with more."""
ENOUGH = (12, 3)
"""A mutant that so many test functions in so many files notice is not tried with more: none of them is its only witness."""


Lines = dict[str, dict[int, list[int]]]
"""The places of the tests that execute a line, for each line of each module."""


@dataclass(slots=True)
class Part:
    """The ways of the tests of one file while nothing is broken; those that fail are unfit."""

    tests: list[str]
    seconds: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    unfit: list[int] = field(default_factory=list)
    lines: Lines = field(default_factory=dict)


class Recording:
    """The ways of all tests that are collected.

    Args:
        parts: those of each file, in the order in which they are collected.
        imported: the lines that run when modules are imported.
    """

    def __init__(self, parts: Iterable[Part], imported: Lines) -> None:
        self.tests: list[str] = []
        self.seconds: list[float] = []
        self.cpu_s: list[float] = []
        self.unfit: set[int] = set()
        self._imported = imported
        self._lines: Lines = defaultdict(lambda: defaultdict(list))
        for part in parts:
            first = len(self.tests)
            self.tests += part.tests
            self.seconds += part.seconds
            self.cpu_s += part.cpu_s
            self.unfit.update(first + each for each in part.unfit)
            for path, lines in part.lines.items():
                for line, tests in lines.items():
                    self._lines[path][line] += [first + each for each in tests]

    def near(self, mutant: Mutant) -> list[int]:
        """Return the tests that execute the mutant's statement, by nearness of their files to its module."""
        lines = self._lines[mutant.path]
        span = range(mutant.first_line, mutant.last_line + 1)
        found = {test for line in span for test in lines.get(line, ())} - self.unfit
        own = own_tests(mutant.path)

        def distance(test: int) -> tuple[int, int]:
            return -len(os.path.commonpath([own, self.tests[test].split("::", 1)[0]])), test

        return sorted(found, key=distance)

    def is_import_alone(self, mutant: Mutant) -> bool:
        """Return whether only the import of modules executes the mutant's statement."""
        span = range(mutant.first_line, mutant.last_line + 1)
        imported = self._imported.get(mutant.path, {})
        return not self.near(mutant) and any(line in imported for line in span)


def own_tests(path: str) -> str:
    """Return where the tests of a module lie, if it has some of its own."""
    inside = Path(path.split("/src/capamesh/", 1)[1])
    return f"tests/unit/{inside.parent}/test_{inside.stem}.py"


def modules_in(paths: Iterable[str]) -> list[str]:
    """Return the modules that are named, or lie in a folder that is, from the root of the project."""
    named = [ROOT / each for each in paths]
    files = {file for each in named for file in (each.rglob("*.py") if each.is_dir() else [each])}
    modules = {str(each.relative_to(ROOT)) for each in files}
    return sorted(each for each in modules if "/src/capamesh/" in each)


def package_of(mutant: Mutant) -> str:
    """Return the package that a mutant is of."""
    return mutant.path.split("/", 1)[0]


def digest_of(*what: object, files: Iterable[Path]) -> str:
    """Return what stands for these words and for what is in these files."""
    digest = hashlib.sha256(repr(what).encode())
    for file in files:
        digest.update(str(file).encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def files_of(*folders: str) -> list[Path]:
    """Return the code in these folders."""
    return sorted(file for each in folders for file in (ROOT / each).rglob("*.py"))


def load_all(packages: Iterable[str]) -> None:
    """Import every module of these packages: what a test imports late cannot be broken before."""
    for package in packages:
        whole = importlib.import_module(f"capamesh.{package}")
        for each in pkgutil.walk_packages(whole.__path__, f"{whole.__name__}."):
            if not each.name.endswith("__main__"):
                importlib.import_module(each.name)


@contextmanager
def measured(lines: Lines) -> Iterator[coverage.Coverage]:
    """Put into `lines` what runs meanwhile, by contexts that are the numbers of tests."""
    measure = coverage.Coverage(
        data_file=None, config_file=False, source=[str(ROOT / each) for each in PACKAGES]
    )
    measure.set_option("run:disable_warnings", ["no-data-collected", "module-not-measured"])
    measure.start()
    yield measure
    measure.stop()
    data = measure.get_data()
    for file in data.measured_files():
        if Path(file).is_relative_to(ROOT):  # tests write modules elsewhere
            lines[str(Path(file).relative_to(ROOT))] = {
                line: [int(each) for each in contexts if each]
                for line, contexts in data.contexts_by_lineno(file).items()
            }


def keep(path: Path, part: Part) -> None:
    """Keep a part of a recording in a file, which is there whole or not at all."""
    whole = path.with_suffix(".part")
    whole.write_bytes(pickle.dumps(part))
    whole.replace(path)


def kept(path: Path) -> Part:
    """Return the part of a recording that is kept in a file."""
    part: Part = pickle.loads(path.read_bytes())  # noqa: S301 - we wrote it
    return part


Living = dict[tuple[str, Place], list[FunctionType]]


def living_functions() -> Living:
    """Return all functions of our code that live in this process."""
    gc.unfreeze()
    found: Living = defaultdict(list)
    start = str(ROOT)
    for each in gc.get_objects():
        if isinstance(each, FunctionType) and each.__code__.co_filename.startswith(start):
            code = each.__code__
            place = (code.co_qualname, code.co_firstlineno)
            found[code.co_filename, place].append(each)
    gc.freeze()
    return found


@dataclass(slots=True)
class Trial:
    """The tests of one mutant (None: nothing broken), in one fork or, after one that ended early, several."""

    mutant: Mutant | None
    todo: list[int]
    stops: bool
    failed: list[int] = field(default_factory=list)
    hung: list[int] = field(default_factory=list)
    ran: list[int] = field(default_factory=list)
    cpu_s: float = 0.0
    pid: int = 0
    deadline_s: float = 0.0
    cpu_before_s: float = 0.0
    hangs: bool = False
    folder: str = ""


class Forks:
    """A pytest plugin that, instead of running the collected tests, runs mutants of the code in forks.

    Args:
        args: the command's.
        mutants: those to try, in this order.
        found: what is known so far, to which this adds.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        mutants: Sequence[Mutant],
        found: dict[str, Any],
    ) -> None:
        self._args = args
        self._mutants = mutants
        self._found = found
        self._items: list[pytest.Item] = []
        self._living: Living = {}
        self._recording = Recording([], {})
        rigs = [
            *files_of(*PACKAGES, "tests/support"),
            *sorted((ROOT / "tests").rglob("conftest.py")),
        ]
        self._folder = KEPT / digest_of(files=rigs)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._failed = False
        self._checked: set[int] = set()
        self._told = 0

    def pytest_sessionstart(self) -> None:
        """Read in what is to be broken."""
        packages = {package_of(each) for each in self._mutants}
        name = self._folder / f"imports-{'-'.join(sorted(packages))}"
        if name.exists():
            load_all(packages)
        else:
            part = Part([])
            with measured(part.lines):
                load_all(packages)
            keep(name, part)
        self._imported = kept(name).lines

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Try the mutants with the tests that were collected."""
        if session.testsfailed:
            raise session.Interrupted("the tests cannot be collected: mend them first")
        self._items = session.items
        self._living = living_functions()
        self._recording = self._read()
        for name, cpu_s, item in zip(
            self._recording.tests, self._recording.cpu_s, self._items, strict=True
        ):
            told = {"lines": _lines_of(item), "cpu_s": round(cpu_s, 4), "tried": 0}
            self._found["tests"].setdefault(name, told)
        for test in sorted(self._recording.unfit):
            print(f"left out, it fails unbroken: {self._recording.tests[test]}", file=sys.stderr)
        for trial in self._trials(self._todo()):
            if trial.mutant is not None:
                self._tell(trial.mutant, self._confirmed(trial))
        save(self._found, self._args.json)
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take note that a step of the test that runs has failed."""
        self._failed = self._failed or report.failed

    # -- recording -------------------------------------------------------------------------------------------------

    def _read(self) -> Recording:
        files: dict[str, list[int]] = defaultdict(list)
        for place, item in enumerate(self._items):
            files[item.nodeid.split("::", 1)[0]].append(place)
        parts = {
            file: self._folder / digest_of(self._names(places), files=[ROOT / file])
            for file, places in files.items()
        }
        missing = [file for file, part in parts.items() if not part.exists()]
        sys.stdout.flush()
        pids: list[int] = []
        jobs = min(self._args.jobs, len(missing))
        for start in range(jobs):
            pid = os.fork()
            if not pid:
                self._record([(files[each], parts[each]) for each in missing[start::jobs]])
            pids.append(pid)
        codes = [os.waitpid(pid, 0)[1] for pid in pids]
        if any(codes):
            raise RuntimeError(f"the recording of the tests ended early: {KEPT / 'log'} says why")
        return Recording([kept(each) for each in parts.values()], self._imported)

    def _names(self, places: Iterable[int]) -> list[str]:
        return [self._items[each].nodeid for each in places]

    def _record(self, files: Sequence[tuple[list[int], Path]]) -> None:
        code = 1
        try:
            with tempfile.TemporaryDirectory(prefix="mutate-") as folder:
                self._begin_child(Path(folder), None)
                for places, path in files:
                    part = Part(self._names(places))
                    with measured(part.lines) as measure:
                        for number, place in enumerate(places):
                            measure.switch_context(str(number))
                            self._time(part, number, place)
                    keep(path, part)
            code = 0
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            os._exit(code)

    def _time(self, part: Part, number: int, place: int) -> None:
        began_s, began_cpu_s = time.monotonic(), time.process_time()
        if self._fails(place, place + 1 if number + 1 < len(part.tests) else None):
            part.unfit.append(number)
        part.seconds.append(time.monotonic() - began_s)
        part.cpu_s.append(time.process_time() - began_cpu_s)

    # -- in a fork -------------------------------------------------------------------------------------------------

    def _begin_child(self, folder: Path, codes: tuple[str, dict[Place, CodeType]] | None) -> None:
        os.setsid()
        for file, flags, places in (
            (os.devnull, os.O_RDONLY, (0,)),
            (KEPT / "log", APPEND, (1, 2)),
        ):
            for each in places:
                os.dup2(os.open(file, flags, 0o644), each)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
        self._items[0].config._tmp_path_factory._basetemp = folder  # type: ignore[attr-defined]  # noqa: SLF001
        if codes is not None:
            filename, broken = codes
            for place, code in broken.items():
                for function in self._living.get((filename, place), ()):
                    function.__code__ = code

    def _fails(self, test: int, later: int | None) -> bool:
        self._failed = False
        item = self._items[test]
        following = self._items[later] if later is not None and later < len(self._items) else None
        item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
        return self._failed

    def _run_child(self, trial: Trial, write: int) -> None:
        try:
            codes = None
            if trial.mutant is not None:
                filename = str(ROOT / trial.mutant.path)
                source = Path(filename).read_text("utf-8")
                codes = filename, broken_codes(trial.mutant, source, filename)
            self._begin_child(Path(trial.folder), codes)
            for test, later in zip(trial.todo, [*trial.todo[1:], None], strict=True):
                failed = self._fails(test, later)
                os.write(write, b"f" if failed else b"p")
                if failed and trial.stops:
                    break
        finally:
            os._exit(0)

    # -- in the parent ---------------------------------------------------------------------------------------------

    def _start(self, trial: Trial, selector: selectors.BaseSelector) -> None:
        read, write = os.pipe()
        trial.folder = tempfile.mkdtemp(prefix="mutate-")
        sys.stdout.flush()
        sys.stderr.flush()
        trial.pid = os.fork()
        if not trial.pid:
            os.close(read)
            self._run_child(trial, write)
        os.close(write)
        self._expect(trial)
        selector.register(read, selectors.EVENT_READ, trial)

    def _expect(self, trial: Trial) -> None:
        usual_s = self._recording.seconds[trial.todo[0]] if trial.todo else 0.0
        trial.deadline_s = time.monotonic() + PATIENCE_S + 10 * usual_s
        trial.cpu_before_s, _ = cpu_of(trial.pid)

    def _take(self, trial: Trial, outcomes: bytes) -> None:
        for outcome in outcomes[: len(trial.todo)]:
            test = trial.todo.pop(0)
            trial.ran.append(test)
            if outcome == ord("f"):
                trial.failed.append(test)
        functions = {function_of(self._recording.tests[each]) for each in trial.failed}
        files = {each.split("::", 1)[0] for each in functions}
        if len(functions) >= ENOUGH[0] and len(files) >= ENOUGH[1]:
            trial.todo.clear()
            os.kill(trial.pid, signal.SIGKILL)
        self._expect(trial)

    def _end(self, trial: Trial) -> None:
        """Take note that the fork of a trial has ended; a test that it was in the middle of has noticed."""
        _end_group(trial.pid)
        _, _, usage = os.wait4(trial.pid, 0)
        trial.cpu_s += usage.ru_utime + usage.ru_stime
        shutil.rmtree(trial.folder, ignore_errors=True)
        if trial.todo and not (trial.stops and trial.failed):
            test = trial.todo.pop(0)
            trial.ran.append(test)
            trial.failed.append(test)
            if trial.hangs:
                trial.hung.append(test)
                trial.hangs = False

    def _trials(self, trials: Iterator[Trial]) -> Iterator[Trial]:
        """Run trials, some at once; yield each when it is over, in the order in which they end."""
        selector = selectors.DefaultSelector()
        running = 0
        ended = False
        while running or not ended:
            while running < self._args.jobs and not ended:
                trial = next(trials, None)
                if trial is None:
                    ended = True
                else:
                    running += 1
                    self._start(trial, selector)
            for key, _ in selector.select(0.2):
                trial = key.data
                outcomes = os.read(key.fd, 65536)
                if outcomes:
                    self._take(trial, outcomes)
                    continue
                selector.unregister(key.fd)
                os.close(key.fd)
                self._end(trial)
                goes_on = trial.todo and not (trial.stops and trial.failed)
                if goes_on and len(trial.hung) < HANGS:
                    self._start(trial, selector)
                else:
                    running -= 1
                    yield trial
            for key in selector.get_map().values():
                if time.monotonic() > key.data.deadline_s and is_stuck(key.data):
                    key.data.hangs = True
                    os.kill(key.data.pid, signal.SIGKILL)

    def _confirmed(self, trial: Trial) -> Trial:
        """Leave out the tests that fail by themselves with nothing broken: what they need is another test."""
        new = [test for test in trial.failed if test not in self._checked]
        if not new:
            return trial
        alone = Trial(None, new, stops=False)
        (alone,) = self._trials(iter([alone]))
        self._checked.update(new)
        for test in alone.failed:
            print(f"left out, it fails alone: {self._recording.tests[test]}", file=sys.stderr)
            self._recording.unfit.add(test)
            self._found["unfit"].append(self._recording.tests[test])
        trial.failed = [test for test in trial.failed if test not in self._recording.unfit]
        if trial.stops and trial.todo and not trial.failed:
            (trial,) = self._trials(iter([trial]))
            return self._confirmed(trial)
        return trial

    def _todo(self) -> Iterator[Trial]:
        began_s = time.monotonic()
        for mutant in self._mutants:
            if self._args.minutes and time.monotonic() - began_s > 60 * self._args.minutes:
                return
            if self._recording.is_import_alone(mutant):
                self._found["imported"].append(mutant.key)
            elif tests := self._recording.near(mutant):
                yield Trial(mutant, tests, stops=not self._args.matrix)
            else:
                self._tell(mutant, Trial(mutant, [], stops=True))

    def _tell(self, mutant: Mutant, trial: Trial) -> None:
        names = self._recording.tests
        for test in trial.ran:
            self._found["tests"][names[test]]["tried"] += 1
        self._found["mutants"].append(
            {
                "key": mutant.key,
                "path": mutant.path,
                "line": mutant.line,
                "function": mutant.function,
                "what": mutant.what,
                "text": mutant.text,
                "killers": [names[each] for each in trial.failed],
                "hung": [names[each] for each in trial.hung],
                "ran": len(trial.ran),
                "cpu_s": round(trial.cpu_s, 2),
            }
        )
        if not trial.failed:
            why = "" if trial.ran else " (no test runs it)"
            print(
                f"{mutant.path}:{mutant.line}: {mutant.what}{why}: {mutant.text}", file=sys.stderr
            )
        self._told += 1
        if self._told % 10 == 0:
            print(f"{self._told} of {len(self._mutants)}", file=sys.stderr)
            save(self._found, self._args.json)


def _lines_of(item: pytest.Item) -> int:
    function = inspect.unwrap(getattr(item, "function", lambda: None))
    inner = getattr(getattr(function, "hypothesis", None), "inner_test", function)
    return len(inspect.getsourcelines(inner)[0])


def cpu_of(pid: int) -> tuple[float, bool]:
    """Return the CPU time that a process has taken, and whether it waits for something other than a core."""
    words = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK"), words[0] != "R"


def is_stuck(trial: Trial) -> bool:
    """Return whether a test that is late waits, or has had a core long enough: a busy machine makes others late too."""
    cpu_s, waits = cpu_of(trial.pid)
    return waits or cpu_s - trial.cpu_before_s > PATIENCE_S


def _end_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def save(found: Mapping[str, Any], path: str) -> None:
    """Write what is known so far to the file that the command names."""
    part = Path(f"{path}.part")
    part.write_text(json.dumps(found, indent=1), "utf-8")
    part.replace(path)


def by_turns(mutants: Iterable[Mutant]) -> list[Mutant]:
    """Return the mutants in an order that takes one of each module, then a second, and so on."""
    seen: Counter[str] = Counter()
    turns: list[tuple[int, int, Mutant]] = []
    for place, each in enumerate(mutants):
        turns.append((seen[each.path], place, each))
        seen[each.path] += 1
    return [each for _, _, each in sorted(turns, key=lambda turn: turn[:2])]


def chosen(args: argparse.Namespace, before: Mapping[str, Any]) -> tuple[list[Mutant], int]:
    """Return the mutants to try, and how many there are in all."""
    found = [
        mutant
        for path in modules_in(args.paths)
        for mutant in mutants_of(path, (ROOT / path).read_text("utf-8"))
    ]
    if before:
        keys = {each["key"] for each in before["mutants"]}
        return [each for each in found if each.key in keys], len(found)
    if args.matrix:
        every = by_turns(sample(found, 0, args.seed))
        return every[: args.sample or None], len(found)
    return sample(found, args.sample, args.seed), len(found)


def parsed() -> argparse.Namespace:
    """Return the command's arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "paths", nargs="*", default=PACKAGES, help="modules or folders; all packages"
    )
    parser.add_argument("--sample", type=int, default=0, help="so many of all mutants; 0: all")
    parser.add_argument("--seed", type=int, default=29, help="chooses the sample")
    parser.add_argument("--jobs", type=int, default=1, help="forks at once")
    parser.add_argument(
        "--least", nargs="+", default=[], help="fail below these shares: 0.9, or router=0.9 ..."
    )
    parser.add_argument("--matrix", action="store_true", help="go on after a test has failed")
    parser.add_argument("--minutes", type=float, default=0.0, help="begin no mutant after this")
    parser.add_argument(
        "--tests", nargs="+", help="test files or folders; the packages' unit tests"
    )
    parser.add_argument("--json", help="write the verdicts here; those of the same state are kept")
    parser.add_argument("--same", help="try the mutants of this file, and compare")
    parser.add_argument("--redundant", help="list the tests of this file; run nothing")
    return parser.parse_args()


def known(args: argparse.Namespace) -> dict[str, Any]:
    """Return what an earlier run found for the same state of the files; nothing is known without one."""
    state = {
        "digest": digest_of(args.tests, files=files_of(*PACKAGES, "tests")),
        "is_matrix": args.matrix,
    }
    if Path(args.json).exists():
        found: dict[str, Any] = json.loads(Path(args.json).read_text("utf-8"))
        if found.items() >= state.items():
            return found
    return {**state, "unfit": [], "imported": [], "tests": {}, "mutants": []}


def grouped(
    args: argparse.Namespace, mutants: Iterable[Mutant]
) -> dict[tuple[str, ...], list[Mutant]]:
    """Return the mutants by the tests to collect for them: those that are named, or the unit tests of their packages."""
    groups: dict[tuple[str, ...], list[Mutant]] = defaultdict(list)
    for each in mutants:
        groups[tuple(args.tests or (f"tests/unit/{package_of(each)}",))].append(each)
    return groups


def run(
    args: argparse.Namespace, tests: Sequence[str], mutants: Sequence[Mutant], found: dict[str, Any]
) -> bool:
    """Try the mutants in a process of their own, which writes what it finds; return whether it could."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1] == 0
    code = 1
    try:
        forks = Forks(args, mutants, found)
        options = ["-q", "--no-header", "--tb=no", "--capture=sys", "-p", "no:cacheprovider"]
        wanted = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
        code = 0 if pytest.main([*options, *tests], plugins=[forks]) in wanted else 1
    finally:
        os._exit(code)


def main() -> int:
    """Run the command."""
    args = parsed()
    if args.redundant:
        print(
            *redundant(json.loads(Path(args.redundant).read_text("utf-8"))),
            sep="\n",
        )
        return 0
    before = json.loads(Path(args.same).read_text("utf-8")) if args.same else {}
    with tempfile.TemporaryDirectory(prefix="mutate-") as folder:
        args.json = str(Path(args.json or f"{folder}/found.json").resolve())
        os.chdir(ROOT)
        os.environ["CAPAMESH_PURE"] = "1"
        mutants, every = chosen(args, before)
        found = known(args)
        done = {each["key"] for each in found["mutants"]}.union(found["imported"])
        for tests, some in grouped(args, mutants).items():
            todo = [each for each in some if each.key not in done]
            if todo and not run(args, tests, todo, found):
                return 2
            found = json.loads(Path(args.json).read_text("utf-8")) if todo else found
    keys = {each.key for each in mutants}
    verdicts = [each for each in found["mutants"] if each["key"] in keys]
    print(*summary(verdicts), sep="\n")
    imported = len(keys.intersection(found["imported"]))
    print(f"{every} mutants in all; left out, for only imports run them: {imported}")
    if before:
        print(*compared(before, verdicts), sep="\n")
    low = list(below(verdicts, args.least))
    print(*low, sep="\n", end="\n" if low else "")
    return 1 if low else 0


if __name__ == "__main__":
    sys.exit(main())
