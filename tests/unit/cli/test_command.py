"""The command line in this process: its tree, its options, its errors and exit statuses, and what it imports."""

from __future__ import annotations

import dataclasses
import fcntl
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer

from capamesh.cli import services, status
from capamesh.cli.application import OVERVIEW, application, branch_of
from capamesh.cli.model_tools import cut_short
from capamesh.node.agent.settings import NodeSettings
from capamesh.node.contract.settings import WorkerSettings
from capamesh.node.scheduling.service_profile import ProfilePoint, ServiceProfile
from capamesh.protocol import data_dir, implementation
from capamesh.protocol.data_dir import LOCK_FILE, DataDir
from capamesh.protocol.errors import ConfigError, LocalError
from capamesh.protocol.tensors import Limits
from capamesh.router.settings import RouterSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .conftest import Cli

NODE = "node run --data d --models m"


def test_version_says_what_runs_and_why(cli: Cli) -> None:
    line = r"capamesh \d+\.\d+\.\d+ \((compiled|pure Python): .+; Python 3\..+\)\n"
    assert re.fullmatch(line, cli("version").out)
    fields = cli("version --json").json
    assert list(fields) == ["version", "implementation", "reason", "python"]
    assert fields["implementation"] == implementation.RUNNING
    assert fields["reason"] == implementation.REASON
    assert re.fullmatch(r"capamesh \d+\.\d+\.\d+\n", cli("--version").out)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("bogus", "No such command 'bogus'; see: capamesh --help"),
        ("nods", "nodes"),
        ("ps", "No such command 'ps': `capamesh models` shows what is served"),
        ("node rum", "run"),
        ("infer", "Missing argument 'MODEL'; see: capamesh infer --help"),
        ("nodes --rooter x", "No such option: --rooter"),
        ("nodes --rooter x", "--router"),
        ("node run --memroy-limit 3", "--memory-limit"),
        ("dev up --nodes 0", "--nodes"),
        (f"dev up --models {__file__}", "is no folder"),
        ("network token --role king", "'king' is neither node nor router"),
        ("network revoke", "name a node or an invite"),
        ("router run --data d --http x", "no HOST:PORT"),
        ("router run --data d --traces h:4318", "is no URL of a collector"),
        (f"node run --data d --models {__file__}", "is no folder"),
        ("infer m -i X=1 -p timeout=5", "give --timeout"),
        ("router run --data d --timeout soon", "--timeout"),
        ("router run --data d --max-message-mib 3GiB", "--max-message-mib"),
        ("sim run small-3 --plot p.png", "only .svg is written; name it p.svg"),
        ("model profile absent --plot p.png", "only .svg is written"),
        (f"{NODE} --metrics 9100", "no HOST:PORT"),
        (f"{NODE} --memory-limit 2cows", "no size"),
        (f"{NODE} --watchdog 500ms", "--watchdog"),
        (f"{NODE} --load-limit 1h", "--load-limit"),
        (f"{NODE} --token a --token-file b", "one of"),
    ],
)
def test_wrong_usage_is_one_line_with_what_is_meant_and_status_2(
    cli: Cli, line: str, message: str
) -> None:
    said = cli(line, status=2)
    assert said.out == ""
    assert said.err.startswith("capamesh: error: ")
    assert said.err.count("\n") == 1
    assert message in said.err


def test_members_and_owner_of_the_only_network_here_are_meant_where_none_is_named(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CAPAMESH_HOME", str(tmp_path / "home"))
    own = tmp_path / "home" / "own"
    for line in ("node status", "router status", "keys list"):
        assert f"in {tmp_path}/home: name its data folder with --data" in cli(line, status=1).err
    for folder in ("router", "node-1", "network"):
        (own / folder).mkdir(parents=True)
    (own / "node-1.token").touch()
    assert cli("keys list").out
    for line, folder in (("node status", "node-1"), ("router status", "router")):
        assert f"{own / folder}" in cli(line, status=1).err
    assert f"{own}/network/owner.key does not exist" in cli("network show", status=1).err
    other = tmp_path / "home" / "cm-1" / "node"
    other.mkdir(parents=True)
    assert f"--data {other} or {own}/node-1" in cli("node status", status=1).err
    (tmp_path / "network").mkdir()
    assert "key network/owner.key does not exist" in cli("network show", status=1).err


def test_failure_is_one_line_each_and_a_bug_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    errors: list[BaseException] = []

    def fail(_: object) -> None:
        raise errors.pop()

    monkeypatch.setattr(status, "read_status", fail)
    inner = ExceptionGroup("more", [LocalError("b")])
    for error, ended, said in (
        (ConfigError("two\nlines"), 1, ["two lines"]),
        (ExceptionGroup("tasks", [ConfigError("a"), inner]), 1, ["a", "b"]),
        (KeyboardInterrupt(), 130, []),
    ):
        errors.append(error)
        told = cli("node status --data d", status=ended).err
        assert told == "".join(f"capamesh: error: {each}\n" for each in said)
    errors.append(ExceptionGroup("tasks", [ConfigError("a"), ZeroDivisionError()]))
    with pytest.raises(ExceptionGroup):
        cli("node status --data d")


def test_router_with_wrong_rules_ends_before_all_else_is_read_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli, secret: Path
) -> None:
    monkeypatch.setattr(services, "_alone", pytest.fail)
    monkeypatch.setattr(services, "_with_workers", pytest.fail)
    (tmp_path / "rules.toml").write_text("rules = [")
    for more in ("", "--workers 2"):
        line = f"router run --data d --token-file {secret} {more} --rules"
        said = cli(line, tmp_path / "rules.toml", status=1).err
        assert "rules.toml is not TOML" in said


# settings


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the settings of the members that are started."""
    kept: list[Any] = []
    for role in ("node", "router"):
        monkeypatch.setattr(services, f"run_{role}", lambda settings, _fd: kept.append(settings))
    return kept


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    file = tmp_path / "file"
    file.write_text("s" * 32)
    file.chmod(0o600)
    return file


def line_and_fields(options: dict[str, dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    """Return the words of all options, and the settings that they are for."""
    fields = {name: value for each in options.values() for name, value in each.items()}
    return " ".join(options), fields


def assert_all_differ(given: Any, default: Any) -> None:
    for field in dataclasses.fields(given):
        assert getattr(given, field.name) != getattr(default, field.name), f"{field.name}: cover it"


def test_defaults_are_the_settings_own_and_variables_set_options(
    started: list[Any], monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    cli(NODE)
    cli("router run --data d")
    assert started == [
        NodeSettings(data_folder=Path("d"), models_folder=Path("m")),
        RouterSettings(data_folder=Path("d")),
    ]
    variables = {"DATA": "d", "MODELS": "m", "BOOTSTRAP": "/a /b", "DIAL_ONLY": "1", "PORT": "7"}
    for name, value in variables.items():
        monkeypatch.setenv(f"CAPAMESH_{name}", value)
    cli("node run --port 8")
    settings = started[-1]
    assert (settings.data_folder, settings.bootstrap, settings.port) == (Path("d"), ("/a", "/b"), 8)
    assert settings.worker.is_dialing


def test_every_node_setting_has_an_option(started: list[Any], cli: Cli, secret: Path) -> None:
    line, fields = line_and_fields(
        {
            f"--token-file {secret}": {"token": "s" * 32, "token_file": secret},
            "--bootstrap /a --bootstrap /b": {"bootstrap": ("/a", "/b")},
            "--host 0.0.0.0 --port 5000": {"host": "0.0.0.0", "port": 5000},  # noqa: S104 - nothing listens
            "--mesh-port 4001": {"mesh_port": 4001},
            "--advertise me": {"advertised_host": "me"},
            "--mdns": {"use_mdns": True},
            "--name gpu-1": {"name": "gpu-1"},
            "--region eu": {"region": "eu"},
            "--price 1.5": {"price_per_million": 1.5},
            "--drain 3s": {"drain_s": 3.0},
            "--metrics [::1]:9100": {"metrics_host": "::1", "metrics_port": 9100},
        }
    )
    worker_line, worker = line_and_fields(
        {
            "--threads 2": {"threads": 2},
            "--max-in-flight 9": {"max_in_flight": 9},
            "--max-streams 8": {"max_streams": 8},
            "--dial-only": {"is_dialing": True},
            "--poll 0": {"poll_s": 0.0},
            "--control": {"is_controllable": True},
            "--memory-limit 2GiB": {"memory_limit_bytes": 2 * 2**30},
            "--watchdog 1.5m": {"watchdog_s": 90.0},
            "--load-limit 70": {"load_limit_s": 70.0},
            "--no-sandbox": {"is_sandboxed": False},
        }
    )
    cli(f"{NODE} {line} {worker_line}")
    folders = {"data_folder": Path("d"), "models_folder": Path("m")}
    given = NodeSettings(**folders, **fields, worker=WorkerSettings(**worker))
    assert started == [given]
    default = NodeSettings(data_folder=Path(), models_folder=Path())
    assert_all_differ(given, default)
    assert_all_differ(given.worker, default.worker)


def test_every_router_setting_has_an_option(started: list[Any], cli: Cli, secret: Path) -> None:
    line, fields = line_and_fields(
        {
            f"--token-file {secret}": {"token": "s" * 32, "token_file": secret},
            "--bootstrap /a": {"bootstrap": ("/a",)},
            "--http 0.0.0.0:80": {"http_host": "0.0.0.0", "http_port": 80},  # noqa: S104 - nothing listens
            "--metrics-listen [::1]:9100": {"metrics_host": "::1", "metrics_port": 9100},
            "--mesh [::]:4002": {"mesh_host": "::", "mesh_port": 4002},
            "--links 10.0.0.1:5000": {"link_host": "10.0.0.1", "link_port": 5000},
            "--advertise me": {"advertised_host": "me"},
            "--dial-inside private": {"dial_inside": "private"},
            "--mdns": {"use_mdns": True},
            "--name gpu-1": {"name": "gpu-1"},
            "--traces http://c:4318/v1/traces": {"traces_url": "http://c:4318/v1/traces"},
            "--trace-slow 0.5": {"trace_slow_s": 0.5},
            "--trace-ratio 0.1": {"trace_ratio": 0.1},
            "--access-log a.log": {"access_log": "a.log"},
            "--access-log-sample 0.5": {"access_log_sample": 0.5},
            "--slow-log -": {"slow_log": "-"},
            "--slow-log-time 250ms": {"slow_log_s": 0.25},
            "--slow-log-factor 3": {"slow_log_factor": 3.0},
            "--region eu": {"region": "eu"},
            "--policy other": {"policy": "other"},
            "--rules r.toml": {"rules_file": Path("r.toml")},
            "--keys k.db": {"keys": "k.db"},
            "--timeout 2s": {"timeout_s": 2.0},
            "--answer-timeout 2m": {"answer_timeout_s": 120.0},
            "--arrival 4000ms": {"arrival_s": 4.0},
            "--drain 3": {"drain_s": 3.0},
            "--max-message-mib 1MiB --max-json-mib 2 --max-json-answer-mib 3": {
                "limits": Limits(
                    max_message_bytes=2**20, max_json_bytes=2**21, max_json_answer_bytes=3 * 2**20
                )
            },
            "--workers 3": {"workers": 3},
            "--body-budget-mib 4": {"body_budget_bytes": 2**22},
            "--answer-budget-mib 6": {"answer_budget_bytes": 6 * 2**20},
            "--cache-mib 7": {"cache_bytes": 7 * 2**20},
            "--cache valkey://:p@h:1/2": {"cache_url": "valkey://:p@h:1/2"},
            f"--cache-secret {secret}": {"cache_secret": b"s" * 32, "cache_secret_file": secret},
            "--max-connections 5": {"max_connections": 5},
            "--max-connections-per-address 3": {"max_connections_per_address": 3},
            "--trusted-proxy 10.0.0.7 --trusted-proxy fd00::/8": {
                "trusted_proxies": ("10.0.0.7", "fd00::/8")
            },
            "--tls-cert c.pem": {"tls_certificate": Path("c.pem")},
            "--tls-key c.key": {"tls_key": Path("c.key")},
            "--tls-client-ca ca.pem": {"tls_client_ca": Path("ca.pem")},
            "--insecure": {"is_insecure": True},
            "--allow-host router.example": {"allowed_hosts": ("router.example",)},
            "--allow-origin https://app.example": {"allowed_origins": ("https://app.example",)},
            "--jobs j.db": {"jobs": "j.db"},
            "--jobs-folder files": {"jobs_folder": Path("files")},
            "--jobs-place /data --jobs-place file:///more": {
                "jobs_places": ("/data", "file:///more")
            },
            "--upload-mib 9": {"upload_bytes": 9 * 2**20},
        }
    )
    cli(f"router run --data d {line}")
    given = RouterSettings(data_folder=Path("d"), **fields)
    assert started == [given]
    assert_all_differ(given, RouterSettings(data_folder=Path()))


# status


def test_member_is_healthy_only_while_it_runs_and_is_ready(tmp_path: Path, cli: Cli) -> None:
    home, line = DataDir(tmp_path), f"node status --json --data {tmp_path}"
    home.write_status({"role": "node", "state": "ready", "pid": 1})
    cli(line, status=1)  # nobody holds the folder
    with (tmp_path / LOCK_FILE).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        cli(line)
        for state, ended in (("starting", 4), ("waiting", 4), ("revoked", 3), ("expired", 3)):
            home.write_status({"role": "node", "state": state, "pid": 1})
            cli(line, status=ended)
    home.write_status({"role": "router", "state": "ready", "pid": 1})
    assert "is the home of a router: ask capamesh router status" in cli(line, status=1).err


MODEL = {
    "name": "m",
    "version": "1",
    "device": 0,
    "state": "ready",
    "reason": "",
    "memory_bytes": 3 * 2**20,
    "requests_in_flight": 2,
    "limit": 8,
    "requests": {"ok": 90, "invalid_request": 9, "overloaded": 1},
    "rows": 270,
    "batches": 60,
    "queue_s": {"p50": 0.000_012, "p99": 0.004},
    "run_s": {"p50": None, "p99": None},
}
REASON = "it ended its worker 3 times in a row"


def test_nodes_status_is_a_table_of_its_workers_and_one_of_its_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    failed = {"name": "bad", "version": "2", "device": 0, "state": "failed", "reason": REASON}
    resting = {**MODEL, "name": "idle", "requests_in_flight": 0, "limit": 0, "memory_bytes": 0}
    worker = {"device": 0, "name": "H100", "pid": 77, "starts": 4, "last_down": "silent"}
    down = {"device": 1, "name": "H100", "pid": None, "starts": 1, "last_down": ""}
    monkeypatch.setattr(data_dir, "_is_locked", lambda _: True)  # as its process does it
    workers, models = [{**worker, "sandbox": "seccomp"}, down], [MODEL, failed, resting]
    shown = {"role": "node", "state": "ready", "workers": workers, "models": models}
    DataDir(tmp_path).write_status(shown)
    said = cli("node status --data", tmp_path).lines
    first = said.index("WORKER DEVICE PID STARTS LOST LAST BECAUSE SANDBOX")
    rows = ["0 H100 77 4 silent seccomp", "1 H100 down 1 - -", ""]
    assert said[first + 1 : first + 4] == rows
    bad = "bad/2 failed - 0 - - / - - / - - 0 -"
    for row in (
        "m/1 ready 2 of 8 100 (10 failed) 4.5 - / - 12 µs / 4 ms 3 MiB 0 270",
        "idle/1 ready - 100 (10 failed) 4.5 - / - 12 µs / 4 ms - 0 270",
        bad,
    ):
        assert row in said
    assert said[-1] == f"bad/2: {REASON}"
    assert cli("node status --wide --data", tmp_path).lines[-2] == f"{bad} {REASON}"
    told = cli("node status --json --data", tmp_path).json
    assert (told["models"], told["age_s"] >= 0) == (models, True)


# the tree, its help and its imports


def test_overview_shows_what_the_commands_themselves_say(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = []
    for branch in (OVERVIEW, None):
        command = typer.main.get_command(application(branch))
        command.main(["--help"], prog_name="capamesh", standalone_mode=False)
        shown.append(capsys.readouterr().out)
    assert "Serve clients" in shown[0]
    assert shown[0] == shown[1]


@pytest.mark.full
def test_help_has_examples_and_fits_80_columns_with_whole_names_of_options(
    monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    def walk(command: Any, path: str) -> Iterator[tuple[str, Any]]:
        yield path, command
        for name, inner in getattr(command, "commands", {}).items():
            yield from walk(inner, f"{path} {name}")

    monkeypatch.setenv("COLUMNS", "80")
    pages = list(walk(typer.main.get_command(application()), ""))
    assert len(pages) > 50
    for path, command in pages:
        said = cli(f"{path} --help").out
        assert "Examples:" in said, path
        assert max(map(len, said.splitlines())) <= 80, path
        assert "<bool>" not in said, path
        words = said.replace(",", " ").split()
        for parameter in command.params:
            if parameter.opts[0].startswith("-") and not getattr(parameter, "hidden", False):
                assert parameter.opts[0] in words, path
        if hasattr(command, "commands"):
            assert "Examples:" in cli(path).out, path


def test_words_of_a_command_line_tell_what_of_the_tree_it_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    branches = {
        "": OVERVIEW,
        "--help": OVERVIEW,
        "router run": "router",
        **dict.fromkeys(("ruoter", "--version", "--show-completion")),
    }
    assert {line: branch_of(line.split()) for line in branches} == branches
    monkeypatch.setenv("_CAPAMESH_COMPLETE", "complete_bash")
    assert branch_of([]) is None


REPORT = "print(*{name.partition('.')[0] for name in sys.modules if sys.modules[name] is not None})"
NODE_PROCESS = f"""
import sys, uvloop
from capamesh.cli.__main__ import run
uvloop.run = lambda serving: (serving.close(), {REPORT})
sys.exit(run(["node", "run", "--data", "data", "--models", "."]))
"""
ROUTER_PROCESS = NODE_PROCESS.replace('"node"', '"router"').replace(', "--models", "."', "")
WORKER_PROCESS = f"""
import sys
import capamesh.node.worker.__main__
from capamesh.protocol.quick_imports import quick_imports
with quick_imports():
    import capamesh.node.contract.messages, capamesh.node.worker.opening, capamesh.node.worker.process
{REPORT}
"""
MESH_PROCESS = f"""
import runpy, sys, trio
trio.run = lambda serving, descriptor: {REPORT}
sys.argv = ["mesh", "--channel-fd", "3"]
runpy.run_module("capamesh.protocol.mesh", run_name="__main__")
"""
COMMANDS = """
import sys; from capamesh.cli.__main__ import run; run(['router', 'run', '--help']); run(['--help'])
read = {f'capamesh.cli.{each}' for each in ('jobs', 'node', 'infer', 'up', 'printing')}
read |= {'numpy', 'aiohttp', 'onnxruntime', 'cryptography', 'libp2p'}
read &= set(sys.modules); import capamesh.cli.services, capamesh.cli.cluster_session
read |= {'onnxruntime', 'libp2p'} & set(sys.modules)
print(*read, 'capamesh')
"""
OTHERS = " ".join(f"capamesh.cli.{name}" for name in ("jobs", "node", "infer", "up", "printing"))
PEOPLE = "pygments greenlet"
MESH = "libp2p multiaddr trio"
LEFT_OUT_OF_MESH = (
    "aioquic pylsqpack trio_websocket wsproto zeroconf miniupnpc dns httpx requests urllib3 fastecdsa service_identity "
    "OpenSSL sqlite3"
)


@pytest.mark.full
@pytest.mark.parametrize(
    ("script", "unused"),
    [
        (COMMANDS, f"{OTHERS} numpy aiohttp onnxruntime cryptography libp2p"),
        (NODE_PROCESS, f"{PEOPLE} {MESH} numpy aiohttp prometheus_client onnxruntime google"),
        (ROUTER_PROCESS, f"{PEOPLE} {MESH} onnxruntime onnx pynvml"),
        (WORKER_PROCESS, f"{PEOPLE} {MESH} aiohttp prometheus_client typer onnx"),
        (MESH_PROCESS, f"{PEOPLE} {LEFT_OUT_OF_MESH} numpy aiohttp uvloop typer onnxruntime"),
    ],
    ids=["commands", "agent", "router", "worker", "mesh"],
)
def test_process_reads_in_no_library_that_it_does_not_use(
    script: str, unused: str, tmp_path: Path
) -> None:
    """Each costs all of them memory and a slower start."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", script],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    read = set(done.stdout.splitlines()[-1].split())
    assert "capamesh" in read
    assert read & set(unused.split()) == set()


# what is said of a measurement


def test_best_batch_that_a_limit_set_is_said_to_be_one() -> None:
    growing, flat, past = (1.0, 1.1, 1.2), (1.0, 2.0, 4.0, 8.0), (1.0, 1.1, 3.0)
    more = "before more rows brought no more throughput: the best may be larger"
    for seconds, max_rows, said in (
        (growing, 4, f"--max-rows 4 ended it at 4 rows, {more}"),
        (growing, 1024, f"--seconds 10 ended it at 4 rows, {more}"),
        *[(flat, most, "") for most in (4, 8, 1024)],  # doublings gained nothing
        *[(past, most, "") for most in (4, 8, 1024)],  # the largest was not the best
    ):
        profile = ServiceProfile(tuple(ProfilePoint(2**n, s) for n, s in enumerate(seconds)))
        assert cut_short(profile, max_rows, 10.0) == said
