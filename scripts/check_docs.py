"""Checks that documents and files that are made from the code say what the code says. `make docs` runs it.

Each fault is one line: where it is, what is wrong, what to do. The exit status is 1 where there is one. MkDocs checks the
links and the menu of the pages in docs/; here are the links of all other Markdown files.
"""

from __future__ import annotations

import ast
import functools
import re
import shlex
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import unquote

import generate_observability
import generate_reference
import typer
import yaml
from observability_alerts import ALERTS
from typer.core import TyperCommand, TyperGroup

from capamesh.cli.application import application
from capamesh.protocol.errors import CapameshError, ClientError, PeerError, from_wire
from capamesh.protocol.links.calls import DEFAULT_PRIORITY, MAX_PRIORITY
from capamesh.protocol.links.sequence_mark import MAX_SEQUENCE_CHARS
from capamesh.protocol.tensors import MAX_CLASSES
from capamesh.protocol.tensors.classification import MAX_SCORES
from capamesh.router.http import options
from capamesh.router.http.errors import status_of
from capamesh.router.requests import parameters

ROOT: Final = Path(__file__).resolve().parents[1]
PARTS: Final = ("protocol", "router", "node", "client", "simulation", "cli")
WITH_DOCUMENTS: Final = (*PARTS, "docs", "benchmarks", "deploy", "examples", "scripts", "tests")
FENCE: Final = re.compile(r"^ *(```|~~~).*?^ *\1", re.MULTILINE | re.DOTALL)
CODE: Final = re.compile(r"`[^`\n]*`")
LINK: Final = re.compile(r"\]\(([^()\s]+)\)")
SHOWN_INLINE: Final = re.compile(r"`(capamesh [^`\n]+)`")
SHOWN_LINE: Final = re.compile(r"^(?: {4}|(?:\.venv/bin/)|\$ )*(capamesh (?!: ).+)$", re.MULTILINE)
WRITTEN_BY_READERS: Final = {
    "capamesh ping",
    "cli/src/capamesh/cli/ping.py",
    "node/src/capamesh/node/runtime/reference.py",
    "router/src/capamesh/router/http/rows.py",
    "router/src/capamesh/router/policies/nearest.py",
}
"""What a reader of a how-to adds: commands and files."""
LOCAL_ERRORS: Final = {"local_error", "not_in_json"}
"""The router's own errors, which `from_wire` believes of no peer."""
UNMET_ERRORS: Final = {"client_error", "peer_error", "cancelled"}
"""Two roots of families, and one that nobody is there to read."""


class Fault(NamedTuple):
    """One place that is not as the code is."""

    path: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}"


class Repository:
    """The files of the repository; `changes` stand in for some of them, by their paths from its root."""

    def __init__(self, changes: dict[str, str] | None = None) -> None:
        self._changes = changes or {}

    def text(self, path: str) -> str:
        """Return the text of a file."""
        return self._changes.get(path) or (ROOT / path).read_text("utf-8")

    def has(self, path: str) -> bool:
        """Return whether there is such a file or folder."""
        return path in self._changes or (ROOT / path).exists()

    def find(self, pattern: str) -> list[str]:
        """Return the paths of the files that a pattern fits."""
        found = (path.relative_to(ROOT).as_posix() for path in ROOT.glob(pattern))
        folders = [each.replace("*", "[^/]*") for each in pattern.split("**/")]
        is_found = re.compile("(?:.*/)?".join(folders)).fullmatch
        return sorted({*found, *filter(is_found, self._changes)})

    def fault(self, path: str, place: str | int, text: str) -> Fault:
        """Return a fault at an offset of a file's text, or at the first place where `place` stands."""
        content = self.text(path)
        offset = max(content.find(place), 0) if isinstance(place, str) else place
        return Fault(path, content.count("\n", 0, offset) + 1, text)


def links(repository: Repository) -> Iterator[Fault]:
    """Links of the Markdown files outside the site lead to a file, and to a heading where they name one.

    News become part of `CHANGELOG.md`, so that their links start from there.
    """
    outside = [folder for folder in WITH_DOCUMENTS if folder != "docs"]
    pages = [path for folder in outside for path in repository.find(f"{folder}/**/*.md")]
    for page in (*repository.find("*.md"), *pages, *repository.find("docs/news/*.md")):
        folder = Path() if page.startswith("docs/news/") else Path(page).parent
        text = repository.text(page)
        prose = CODE.sub("", FENCE.sub("", text))
        for target in LINK.findall(prose):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = unquote(target).partition("#")
            leads_to = (ROOT / folder / path).resolve() if path else ROOT / page
            inside = leads_to.relative_to(ROOT).as_posix()
            if not repository.has(inside):
                yield repository.fault(page, f"]({target})", f"{target} leads to no file")
            elif anchor and anchor not in headings(repository.text(inside)):
                yield repository.fault(page, f"]({target})", f"{target} leads to no heading")


def headings(text: str) -> set[str]:
    """Return the names of a page's headings, as web pages of Git repositories make them."""
    found = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()).strip() for heading in found)
    return {heading.replace(" ", "-") for heading in plain}


def commands(repository: Repository) -> Iterator[Fault]:
    """Every `capamesh` command that a document shows exists, with the options that it gives it."""
    tree = typer.main.get_command(application())
    patterns = ("*.md", "deploy/**/*.md", "benchmarks/README.md", "examples/README.md")
    for page in (path for each in (*patterns, "docs/**/*.md") for path in repository.find(each)):
        text = re.sub(r"\\\n *", "\0", repository.text(page))
        for found in (*SHOWN_INLINE.findall(text), *SHOWN_LINE.findall(text)):
            line, first = found.replace("\0", " "), found.partition("\0")[0]
            if not line.startswith(tuple(WRITTEN_BY_READERS)) and (why := _wrong(tree, line)):
                yield repository.fault(page, first, f"`{line}`: {why}; correct the page")


def _wrong(command: TyperCommand | TyperGroup, line: str) -> str:
    """Return what is wrong with a command line; empty: nothing."""
    words = shlex.split(re.split(r"[|>;]| && |   ", line)[0], comments=True)[1:]
    while isinstance(command, TyperGroup) and words and not words[0].startswith("-"):
        name = words.pop(0)
        if name.isupper() or name == "...":
            return ""  # a stand-in for any of its commands
        found = command.commands.get(name)
        if found is None:
            return f"no command {name!r}"
        command = found
    known = {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
    given = {word.partition("=")[0] for word in words if word.startswith("--")}
    lost = sorted(given - known - {"--help"})
    return f"no option {', '.join(lost)}" if lost else ""


def paths(repository: Repository) -> Iterator[Fault]:
    """Paths that the map of the code, the promises of security and the pages on extending it name are there."""
    for page in (
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        *repository.find("docs/how-to/add-*.md"),
    ):
        for found in re.finditer(r"`((?:[\w.-]+/)+(?:…/)?[\w./-]*)`", repository.text(page)):
            part = found[1].split("/")[0]
            path = found[1].replace("…", f"src/capamesh/{part}")
            if part in {*PARTS, "docs", "tests", "scripts"} and not (
                path in WRITTEN_BY_READERS or repository.has(path)
            ):
                yield repository.fault(page, found.start(), f"{found[1]} is not there")


def tests(repository: Repository) -> Iterator[Fault]:
    """The files of tests that decisions name are there: each decision says what keeps it true."""
    known = {Path(path).name for path in repository.find("tests/**/test_*.py")}
    for page in repository.find("docs/decisions/*.md"):
        for found in re.finditer(r"\btest_\w+\.py\b", repository.text(page)):
            if found[0] not in known:
                yield repository.fault(page, found.start(), f"no {found[0]} lies in tests/")


def layers(repository: Repository) -> Iterator[Fault]:
    """The layers on the map of the code are those of the import contracts."""
    contracts = tomllib.loads(repository.text("pyproject.toml"))["tool"]["importlinter"][
        "contracts"
    ]
    for part in ("router", "node"):
        (contract,) = [each for each in contracts if each.get("containers") == [f"capamesh.{part}"]]
        kept = [{name.strip() for name in layer.split("|")} for layer in contract["layers"]]
        text = repository.text("ARCHITECTURE.md")
        table = text[text.index(f"| {part} | holds |") :].split("\n\n")[0]
        cells = [line.split("|")[1] for line in table.splitlines()[2:]]
        shown = [{name.strip("/") for name in re.findall(r"`([^`]+)`", cell)} for cell in cells]
        if shown != kept:
            yield repository.fault(
                "ARCHITECTURE.md",
                f"| {part} | holds |",
                f"the layers of {part} are not those of its contract in pyproject.toml, which are {kept}",
            )


def modules(repository: Repository) -> Iterator[Fault]:
    """Modules and folders that the README of a part names are there."""
    sources = repository.find("*/src/capamesh/**/*.py")
    sources += repository.find("simulation/**/scenarios/*.toml")
    known = {part for path in sources for part in Path(path).with_suffix("").parts}
    for part in PARTS:
        page = f"{part}/README.md"
        text = re.sub(r"^```.*?^```$", "", repository.text(page), flags=re.MULTILINE | re.DOTALL)
        for name in set(re.findall(r"`([a-z_./]+)`", text)):
            last = re.split(r"[./]", name.removesuffix(".py").strip("/"))[-1]
            if last not in known and last not in {"toml", "pbtxt", "metrics", "benchmarks"}:
                yield repository.fault(page, f"`{name}`", f"there is no module or folder {name}")


def indexes(repository: Repository) -> Iterator[Fault]:
    """Every page is in the index of its folder, and every part of the repository on the map of the code."""
    index = repository.text("docs/README.md")
    for folder in ("tutorial", "how-to", "reference", "explanation"):
        for page in repository.find(f"docs/{folder}/**/*.md"):
            if f"]({page.removeprefix('docs/')})" not in index:
                yield Fault("docs/README.md", 1, f"{page} is not in this index: add a line")
    decisions = repository.text("docs/decisions/README.md")
    listed = re.findall(r"\]\((\d{4}-[^()]+\.md)\)", decisions)
    kept = [Path(page).name for page in repository.find("docs/decisions/[0-9]*.md")]
    if listed != kept:
        lost = sorted(set(kept) ^ set(listed)) or "only their order is wrong"
        yield Fault("docs/decisions/README.md", 1, f"the index is not the folder's: {lost}")
    for page in repository.find("[a-z]*/README.md"):
        if f"`{Path(page).parent}/`" not in repository.text("ARCHITECTURE.md"):
            yield Fault("ARCHITECTURE.md", 1, f"{Path(page).parent}/ is not on this map: add it")


def glossary(repository: Repository) -> Iterator[Fault]:
    """The glossary names what is in the code, and explains a word once."""
    page = "docs/explanation/glossary.md"
    names = _names(repository)
    seen: set[str] = set()
    for number, line in enumerate(repository.text(page).splitlines(), 1):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|") or cells[0] == "word" or set(cells[0]) == {"-"}:
            continue
        word, named = cells[0], re.findall(r"`([^`]+)`", cells[-1])
        if len(cells) != 4 or not all(cells) or not named:
            yield Fault(page, number, f"the row of {word} needs four cells, the last with a name")
        if word in seen:
            yield Fault(page, number, f"{word} is explained twice: keep one row")
        seen.add(word)
        for name in named:
            ending = f"/{name.strip('/')}"
            if not (any(path.endswith(ending) for path in names) if "/" in name else name in names):
                yield Fault(page, number, f"nothing in the code is called {name}")


def _names(repository: Repository) -> set[str]:
    """Return the names that modules define, and the paths of all modules and folders."""
    found: set[str] = set()
    for path in repository.find("*/src/capamesh/**/*.py"):
        if not path.startswith(("cli/", "simulation/")):
            short = Path("/" + path.replace("src/capamesh/", "")).with_suffix("")
            found |= {short.as_posix(), short.parent.as_posix()}
            for statement in ast.parse(repository.text(path)).body:
                if isinstance(statement, ast.ClassDef):
                    found.add(statement.name)
                elif isinstance(statement, ast.Assign):
                    found |= {each.id for each in statement.targets if isinstance(each, ast.Name)}
                elif isinstance(statement, ast.AnnAssign) and isinstance(
                    statement.target, ast.Name
                ):
                    found.add(statement.target.id)
    return found


def generated(repository: Repository) -> Iterator[Fault]:
    """Files that are made from the code are what the code says now, and leave nothing undescribed."""
    made = (
        ("make reference", generate_reference.pages()),
        ("make observability", generate_observability.files()),
    )
    for command, files in made:
        for file, text in files.items():
            path = file.relative_to(ROOT).as_posix()
            if not repository.has(path) or repository.text(path) != text:
                yield Fault(path, 1, f"it is not what the code says: run {command}")
            if path.endswith(("settings.md", "sdk.md")):
                for row in re.findall(r"^\| `.*\|  \|$", text, re.MULTILINE):
                    yield repository.fault(
                        path, row, "a row has no description: write the docstring"
                    )
    kept = {*made[1][1]}
    for path in repository.find("deploy/observability/**/*.json"):
        if ROOT / path not in kept:
            yield Fault(path, 1, "scripts/generate_observability.py does not make it: delete it")
    known = headings(repository.text("docs/how-to/monitor.md"))
    for alert in ALERTS:
        if alert.heading not in known:
            yield Fault("docs/how-to/monitor.md", 1, f"alert {alert.name} needs #{alert.heading}")


def requests(repository: Repository) -> Iterator[Fault]:
    """The page on requests has the headers, parameters, bounds and errors that the code has."""
    page = "docs/reference/requests.md"
    whole = repository.text(page)

    def section(title: str) -> str:
        return whole.split(f"\n## {title}\n")[1].split("\n## ")[0]

    def first_cells(title: str) -> set[str]:
        rows = [line.split(" | ")[0] for line in section(title).splitlines() if line[:2] == "| "]
        return {name for row in rows for name in re.findall("`([^`]+)`", row)}

    def differences(title: str, shown: set[str], known: set[str]) -> Iterator[Fault]:
        for name in sorted(shown ^ known):
            why = "the page leaves out" if name in known else "the code does not know"
            yield repository.fault(page, f"## {title}", f"{title}: {why} {name}")

    of_router = set(texts(repository, "router/src/**/*.py"))
    of_protocol = set(texts(repository, "protocol/src/**/*.py"))
    own = {text for text in of_router if re.fullmatch(r"X-Capamesh-[A-Z][A-Za-z-]+", text)}
    shown = first_cells("Headers of a request") | first_cells("Headers of an answer")
    standard = {name for name in shown if not name.startswith("X-Capamesh-")}
    yield from differences(
        "Headers of a request", shown, own | (standard & (of_router | of_protocol))
    )
    of_bodies = {"binary_data_output", "non_finite_output"} & of_protocol
    known = {getattr(parameters, name) for name in vars(parameters) if name.isupper()}
    known = {name for name in known if isinstance(name, str)} | of_bodies
    yield from differences("Parameters of a request", first_cells("Parameters of a request"), known)
    of_outputs = {"classification", "binary_data"} & of_protocol
    yield from differences(
        "Parameters of an output", first_cells("Parameters of an output"), of_outputs
    )
    bounds = {
        "Headers of a request": (
            f"at most {options.MAX_CHARS:,} characters",
            f"1 to {options.MAX_NAMES} whole peer ids",
        ),
        "Parameters of a request": (
            f"to {MAX_PRIORITY} (last)",
            f"| {DEFAULT_PRIORITY} |",
            f"a text of at most {MAX_SEQUENCE_CHARS} characters",
        ),
        "Parameters of an output": (
            f"a whole number from 0 to {MAX_CLASSES:,};",
            f"At most {MAX_SCORES:,} scores are classified and {MAX_CLASSES:,} texts given for a",
        ),
    }
    for title, expected in bounds.items():
        for text in expected:
            if text not in section(title):
                yield repository.fault(page, f"## {title}", f"it does not say {text!r}")
    rows = re.findall(r"^\| (\d+) \| (`.*?`) \|", section("Errors"), re.MULTILINE)
    for status, codes in rows:
        for code in re.findall("`([^`]+)`", codes):
            error = _error(code)
            if error is None or (error.code, status_of(error)) != (code, int(status)):
                yield repository.fault(page, f"| {status} | `", f"{code} has another status")


def _error(code: str) -> CapameshError | None:
    """Return an error with this code; None: there is none."""
    if code not in LOCAL_ERRORS:
        return from_wire(code, "")
    return next((kind("") for kind in _below(CapameshError) if kind.code == code), None)


def _below(root: type[CapameshError]) -> list[type[CapameshError]]:
    return [each for kind in root.__subclasses__() for each in (kind, *_below(kind))]


def troubleshoot(repository: Repository) -> Iterator[Fault]:
    """The page on faults quotes what the code says, and leaves no error out that a client may meet."""
    page = "docs/how-to/troubleshoot.md"
    rows = [line.split(" | ") for line in repository.text(page).splitlines() if line[:2] == "| "]
    tables = [cells for cells in rows if len(cells) > 2]
    quoted = {text for cells in tables for text in re.findall("`([^`]+)`", cells[0])}
    of_code = [
        *texts(repository, "*/src/capamesh/**/*.py"),
        *texts(repository, "scripts/*.py"),
    ]
    whole = set(of_code)
    for text in sorted(quoted - whole - {"408"}):
        if re.fullmatch("[a-z_]+", text) or not any(text in each for each in of_code):
            yield repository.fault(page, f"`{text}`", f"the code says nowhere {text!r}")
    families = {
        kind.code
        for root in (ClientError, PeerError)
        for kind in (root, *_below(root))
        if kind.__module__ == root.__module__
    }
    for code in sorted((families | LOCAL_ERRORS) - UNMET_ERRORS - quoted):
        yield Fault(page, 1, f"{code} is not explained here: add a row")


def texts(repository: Repository, pattern: str) -> Iterator[str]:
    """Yield the texts in sources, those with gaps in pieces."""
    for path in repository.find(pattern):
        yield from _texts_in(repository.text(path))


@functools.cache
def _texts_in(source: str) -> tuple[str, ...]:
    return tuple(
        node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def pins(repository: Repository) -> Iterator[Fault]:
    """Files of pins that are installed one upon the other agree, and the images' builder is given them."""

    def pinned(name: str) -> dict[str, str]:
        text = repository.text(f"requirements/{name}.txt")
        found = re.findall(r"^([a-z0-9-]+)==([^ ;]+)( ;[^\\]*)?", text, re.MULTILINE)
        return {package + marker.strip(): version for package, version, marker in found}

    dockerfile = repository.text("Dockerfile")
    used = set(re.findall(r"requirements/([a-z]+)\.txt", dockerfile))
    given = re.findall(
        r"^!requirements/([a-z]+)\.txt$", repository.text(".dockerignore"), re.MULTILINE
    )
    for name in sorted(used ^ set(given)):
        yield Fault("Dockerfile", 1, f"requirements/{name}.txt: here or in .dockerignore alone")
    base = pinned("runtime")
    for name in sorted(used - {"runtime"}):
        more = pinned(name)
        for package, version in base.items():
            is_other = more.get(package, version) != version
            if is_other or (name != "build" and package not in more):
                told = f"{package} is {more.get(package)} here and {version} in runtime.txt"
                yield Fault(f"requirements/{name}.txt", 1, f"{told}: run make pins")


def compose(repository: Repository) -> Iterator[Fault]:
    """The compose file for PostgreSQL adds to services that are there, and its two halves have one password."""
    page = "deploy/compose/postgres.yml"
    whole = yaml.safe_load(repository.text("docker-compose.yml"))
    added = yaml.safe_load(repository.text(page))
    for name in sorted(added["services"].keys() - whole["services"].keys() - {"postgres"}):
        yield repository.fault(page, f"{name}:", f"docker-compose.yml has no service {name}")
    router, database = (added["services"][name]["environment"] for name in ("router", "postgres"))
    place = f"postgresql://{database['POSTGRES_USER']}@postgres/{database['POSTGRES_DB']}"
    if router["CAPAMESH_KEYS"] != place:
        yield repository.fault(page, "CAPAMESH_KEYS", f"the router's keys are not at {place}")
    if router["PGPASSWORD"] != database["POSTGRES_PASSWORD"]:
        yield repository.fault(page, "PGPASSWORD", "it is not the password of the database")


CHECKS: Final[tuple[Callable[[Repository], Iterable[Fault]], ...]] = (
    *(links, commands, paths, tests, layers, modules, indexes, glossary, generated, requests),
    *(troubleshoot, pins, compose),
)


def main() -> int:
    """Run the checks; return the exit status."""
    faults = [fault for check in CHECKS for fault in check(Repository())]
    for fault in faults:
        print(fault)
    print(f"documents: {len(CHECKS)} checks, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
