"""The command line in this process: its tree, its options, its errors and exit statuses."""

from __future__ import annotations

import dataclasses
import fcntl
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from capamesh.cli import fleet, services, status
from capamesh.cli.__main__ import run
from capamesh.cli.application import OVERVIEW, application, branch_of
from capamesh.cli.local_cluster import is_routable
from capamesh.node.agent.settings import NodeSettings
from capamesh.node.contract.settings import WorkerSettings
from capamesh.protocol import data_dir, implementation
from capamesh.protocol.data_dir import LOCK_FILE, DataDir
from capamesh.protocol.errors import ConfigError, LocalError
from capamesh.protocol.network import NetworkOwner, RevocationList
from capamesh.protocol.tensors import Limits
from capamesh.router.settings import RouterSettings


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("CAPAMESH_"):
            monkeypatch.delenv(name)


def test_version_says_what_runs_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["version"]) == 0
    shown = capsys.readouterr().out
    assert re.fullmatch(
        r"capamesh \d+\.\d+\.\d+ \((compiled|pure Python): .+; Python 3\..+\)\n", shown
    )
    assert run(["version", "--json"]) == 0
    fields = json.loads(capsys.readouterr().out)
    assert fields["implementation"] == implementation.RUNNING
    assert fields["reason"] == implementation.REASON
    assert list(fields) == ["version", "implementation", "reason", "python"]
    assert run(["--version"]) == 0
    assert re.fullmatch(r"capamesh \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bogus"], "No such command 'bogus'; see: capamesh --help"),
        (["infer"], "Missing argument 'MODEL'; see: capamesh infer --help"),
        (["nodes", "--rooter", "x"], "No such option: --rooter"),
        (["dev", "up", "--nodes", "0"], "--nodes"),
        (["network", "token", "--role", "king"], "'king' is neither node nor router"),
        (["network", "revoke"], "name a node or an invite"),
        (["router", "run", "--data", "d", "--http", "x"], "no HOST:PORT"),
        (["router", "run", "--data", "d", "--traces", "h:4318"], "is no URL of a collector"),
        (["node", "run", "--data", "d", "--models", __file__], "is no folder"),
        (["infer", "m", "-i", "X=1", "-p", "timeout=5"], "give --timeout"),
        (["router", "run", "--data", "d", "--timeout", "soon"], "--timeout"),
        (["router", "run", "--data", "d", "--max-message-mib", "3GiB"], "--max-message-mib"),
        (["sim", "run", "small-3", "--plot", "p.png"], "only .svg is written; name it p.svg"),
        (["model", "profile", "absent", "--plot", "p.png"], "only .svg is written"),
        (["node", "run", "--data", "d", "--models", "m", "--metrics", "9100"], "no HOST:PORT"),
        (["node", "run", "--data", "d", "--models", "m", "--memory-limit", "2 cows"], "no size"),
        (["node", "run", "--data", "d", "--models", "m", "--watchdog", "500ms"], "--watchdog"),
        (["node", "run", "--data", "d", "--models", "m", "--load-limit", "1h"], "--load-limit"),
        (
            ["node", "run", "--data", "d", "--models", "m", "--token", "a", "--token-file", "b"],
            "one of",
        ),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("capamesh: error: ")
    assert said.err.count("\n") == 1
    assert message in said.err


def fail_with(error: BaseException) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


@pytest.fixture
def node_settings(monkeypatch: pytest.MonkeyPatch) -> list[NodeSettings]:
    kept: list[NodeSettings] = []
    monkeypatch.setattr(services, "run_node", lambda settings, _owner_fd: kept.append(settings))
    return kept


@pytest.fixture
def router_settings(monkeypatch: pytest.MonkeyPatch) -> list[RouterSettings]:
    kept: list[RouterSettings] = []
    monkeypatch.setattr(services, "run_router", lambda settings, _owner_fd: kept.append(settings))
    return kept


def test_defaults_are_the_settings_own(
    node_settings: list[NodeSettings], router_settings: list[RouterSettings]
) -> None:
    assert run(["node", "run", "--data", "d", "--models", "m"]) == 0
    assert run(["router", "run", "--data", "d"]) == 0
    assert node_settings == [NodeSettings(data_folder=Path("d"), models_folder=Path("m"))]
    assert router_settings == [RouterSettings(data_folder=Path("d"))]


def test_every_node_setting_has_an_option(
    node_settings: list[NodeSettings], tmp_path: Path
) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("t")
    token_file.chmod(0o600)
    line = (
        f"node run --token-file {token_file} --data d --models m "
        "--bootstrap /a --bootstrap /b --host 0.0.0.0 --port 5000 "
        "--mesh-port 4001 --advertise me --mdns --name gpu-1 --region eu --price 1.5 --threads 2 --max-in-flight 9 --max-streams 8 "
        "--drain 3s --dial-only --poll 0 --control --memory-limit 2GiB --watchdog 1.5m --load-limit 70 --metrics [::1]:9100 "
        "--no-sandbox"
    )
    assert run(line.split()) == 0
    given = NodeSettings(
        data_folder=Path("d"),
        models_folder=Path("m"),
        token="t",  # noqa: S106 - no secret
        token_file=token_file,
        bootstrap=("/a", "/b"),
        host="0.0.0.0",  # noqa: S104 - nothing listens here
        port=5000,
        mesh_port=4001,
        advertised_host="me",
        use_mdns=True,
        name="gpu-1",
        region="eu",
        price_per_million=1.5,
        drain_s=3.0,
        worker=WorkerSettings(
            threads=2,
            max_in_flight=9,
            max_streams=8,
            is_dialing=True,
            poll_s=0.0,
            is_controllable=True,
            memory_limit_bytes=2 * 2**30,
            watchdog_s=90.0,
            load_limit_s=70.0,
            is_sandboxed=False,
        ),
        metrics_host="::1",
        metrics_port=9100,
    )
    assert node_settings == [given]
    default = NodeSettings(data_folder=Path(), models_folder=Path())
    for field in dataclasses.fields(NodeSettings):
        assert getattr(given, field.name) != getattr(default, field.name), "not covered above"
    for field in dataclasses.fields(WorkerSettings):
        own = getattr(given.worker, field.name)
        assert own != getattr(default.worker, field.name), "not covered above"


def test_every_router_setting_has_an_option(
    router_settings: list[RouterSettings], tmp_path: Path
) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("t")
    token_file.chmod(0o600)
    secret_file = tmp_path / "secret"
    secret_file.write_text("s" * 32 + "\n")
    secret_file.chmod(0o600)
    line = (
        f"router run --data d --token-file {token_file} "
        "--bootstrap /a --http 0.0.0.0:80 --metrics-listen [::1]:9100 --mesh [::]:4002 --links 10.0.0.1:5000 "
        "--advertise me --dial-inside private --mdns --name gpu-1 --traces http://c:4318/v1/traces --trace-slow 0.5 --trace-ratio 0.1 --access-log a.log --access-log-sample 0.5 --slow-log - --slow-log-time 250ms --slow-log-factor 3 --region eu --policy other --rules r.toml --keys k.db --timeout 2s --answer-timeout 2m --arrival 4000ms --drain 3 --max-message-mib 1MiB "
        "--workers 3 --max-json-mib 2 --max-json-answer-mib 3 --body-budget-mib 4 --answer-budget-mib 6 --cache-mib 7 --max-connections 5 "
        "--max-connections-per-address 3 --trusted-proxy 10.0.0.7 --trusted-proxy fd00::/8 "
        "--tls-cert c.pem --tls-key c.key --tls-client-ca ca.pem --insecure --allow-host router.example --allow-origin https://app.example "
        "--jobs j.db --jobs-folder files --jobs-place /data --jobs-place file:///more --upload-mib 9 "
        f"--cache valkey://:p@h:1/2 --cache-secret {secret_file}"
    )
    assert run(line.split()) == 0
    given = RouterSettings(
        data_folder=Path("d"),
        token="t",  # noqa: S106 - no secret
        token_file=token_file,
        bootstrap=("/a",),
        http_host="0.0.0.0",  # noqa: S104 - nothing listens here
        http_port=80,
        metrics_host="::1",
        metrics_port=9100,
        tls_certificate=Path("c.pem"),
        tls_key=Path("c.key"),
        tls_client_ca=Path("ca.pem"),
        is_insecure=True,
        mesh_host="::",
        mesh_port=4002,
        link_host="10.0.0.1",
        link_port=5000,
        advertised_host="me",
        dial_inside="private",
        use_mdns=True,
        name="gpu-1",
        traces_url="http://c:4318/v1/traces",
        trace_slow_s=0.5,
        trace_ratio=0.1,
        access_log="a.log",
        access_log_sample=0.5,
        slow_log="-",
        slow_log_s=0.25,
        slow_log_factor=3.0,
        region="eu",
        policy="other",
        rules_file=Path("r.toml"),
        keys="k.db",
        timeout_s=2.0,
        answer_timeout_s=120.0,
        arrival_s=4.0,
        drain_s=3.0,
        workers=3,
        limits=Limits(
            max_message_bytes=2**20, max_json_bytes=2**21, max_json_answer_bytes=3 * 2**20
        ),
        body_budget_bytes=2**22,
        answer_budget_bytes=6 * 2**20,
        cache_bytes=7 * 2**20,
        cache_url="valkey://:p@h:1/2",
        cache_secret=b"s" * 32,
        cache_secret_file=secret_file,
        jobs="j.db",
        jobs_folder=Path("files"),
        jobs_places=("/data", "file:///more"),
        upload_bytes=9 * 2**20,
        max_connections=5,
        max_connections_per_address=3,
        allowed_hosts=("router.example",),
        allowed_origins=("https://app.example",),
        trusted_proxies=("10.0.0.7", "fd00::/8"),
    )
    assert router_settings == [given]
    default = RouterSettings(data_folder=Path())
    for field in dataclasses.fields(RouterSettings):
        assert getattr(given, field.name) != getattr(default, field.name), "not covered above"


def test_variables_set_options_and_the_token_leaves_the_environment(
    node_settings: list[NodeSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = {
        "DATA": "d",
        "MODELS": "m",
        "TOKEN": "t",
        "BOOTSTRAP": "/a /b",
        "DIAL_ONLY": "1",
        "PORT": "7",
    }
    for name, value in variables.items():
        monkeypatch.setenv(f"CAPAMESH_{name}", value)
    assert run(["node", "run", "--port", "8"]) == 0
    (settings,) = node_settings
    assert (settings.token, settings.bootstrap, settings.port) == ("t", ("/a", "/b"), 8)
    assert settings.worker.is_dialing
    assert "CAPAMESH_TOKEN" not in os.environ


def test_token_comes_from_a_file_or_standard_input(
    node_settings: list[NodeSettings],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "token").write_text("from-file\n")
    monkeypatch.setattr(sys, "stdin", io.StringIO("from-input\n"))
    for source in (str(tmp_path / "token"), "-"):
        assert run(["node", "run", "--data", "d", "--models", "m", "--token-file", source]) == 0
    monkeypatch.setenv("CAPAMESH_TOKEN", "")
    assert run(["node", "run", "--data", "d", "--models", "m"]) == 0
    tokens = [settings.token for settings in node_settings]
    assert tokens == ["from-file\n", "from-input\n", None]
    assert run(["node", "run", "--data", "d", "--models", "m", "--token-file", "/absent"]) == 1
    assert "cannot read the join token from /absent" in capsys.readouterr().err
    assert len(node_settings) == 3


def test_member_is_healthy_only_while_it_runs_and_is_ready(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = DataDir(tmp_path)
    command = ["node", "status", "--data", str(tmp_path), "--json"]
    home.write_status({"role": "node", "state": "ready", "pid": 1})
    assert run(command) == 1  # nobody holds the folder
    with (tmp_path / LOCK_FILE).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert run(command) == 0
        for state, status in (("starting", 4), ("waiting", 4), ("revoked", 3), ("expired", 3)):
            home.write_status({"role": "node", "state": state, "pid": 1})
            assert run(command) == status
    capsys.readouterr()
    home.write_status({"role": "router", "state": "ready", "pid": 1})
    assert run(command) == 1
    assert "is the home of a router: ask capamesh router status" in capsys.readouterr().err


def test_revocation_that_cannot_be_handed_over_is_saved_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(tmp_path)
    assert run(["network", "create", "home", "--dir", folder]) == 0
    owner = NetworkOwner.load(tmp_path)
    serial = "ab" * 20
    line = ["network", "revoke", "--dir", folder, "--router", "http://127.0.0.1:1"]
    capsys.readouterr()
    assert run([*line, serial]) == 1
    said = capsys.readouterr().err
    assert f"version 1 is saved in {folder}, but not handed over: cannot reach" in said
    assert f"try again: capamesh network revoke --dir {folder} --router" in said
    assert RevocationList.load(tmp_path, owner.ca_der).invites == {serial}


def test_token_that_would_never_end_is_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(tmp_path)
    run(["network", "create", "home", "--dir", folder])
    line = ["network", "token", "--dir", folder, "--role", "node", "--expires"]
    capsys.readouterr()
    assert run([*line, "9999999d"]) == 2
    for address in ("not an address", "/ip4/192.0.2.1/tcp/4001", "garbage"):
        assert run([*line, "1d", "--bootstrap", address]) == 1
    capsys.readouterr()
    assert run([*line, "1d", "--json"]) == 0
    token = json.loads(capsys.readouterr().out)
    assert re.fullmatch("[0-9a-f]{40}", token["invite"])


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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = {"name": "bad", "version": "2", "device": 0, "state": "failed", "reason": REASON}
    resting = {**MODEL, "name": "idle", "requests_in_flight": 0, "limit": 0, "memory_bytes": 0}
    monkeypatch.setattr(data_dir, "_is_locked", lambda _: True)  # as its process does it
    DataDir(tmp_path).write_status(
        {
            "role": "node",
            "state": "ready",
            "workers": [
                {
                    "device": 0,
                    "name": "H100",
                    "pid": 77,
                    "starts": 4,
                    "last_down": "silent",
                    "sandbox": "seccomp",
                },
                {"device": 1, "name": "H100", "pid": None, "starts": 1, "last_down": ""},
            ],
            "models": [MODEL, failed, resting],
        }
    )
    assert run(["node", "status", "--data", str(tmp_path)]) == 0
    said = [re.sub(" {2,}", "  ", line.strip()) for line in capsys.readouterr().out.splitlines()]
    first = said.index("WORKER  DEVICE  PID  STARTS  LOST LAST BECAUSE  SANDBOX")
    assert said[first : first + 4] == [
        "WORKER  DEVICE  PID  STARTS  LOST LAST BECAUSE  SANDBOX",
        "0  H100  77  4  silent  seccomp",
        "1  H100  down  1  -  -",
        "",
    ]
    assert "m/1  ready  2 of 8  100 (10 failed)  4.5  - / -  12 µs / 4 ms  3 MiB  0  270" in said
    assert "idle/1  ready  -  100 (10 failed)  4.5  - / -  12 µs / 4 ms  -  0  270" in said
    assert "bad/2  failed  -  0  -  - / -  - / -  -  0  -" in said
    assert said[-1] == f"bad/2: {REASON}"
    assert run(["node", "status", "--data", str(tmp_path), "--wide"]) == 0
    last = capsys.readouterr().out.splitlines()[-2]
    assert re.sub(" {2,}", "  ", last) == f"bad/2  failed  -  0  -  - / -  - / -  -  0  -  {REASON}"
    assert run(["node", "status", "--data", str(tmp_path), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["models"] == [MODEL, failed, resting]
    assert shown["age_s"] >= 0


NODE = {
    "models": [{"name": "a", "state": "ready"}, {"name": "b", "state": "loading"}],
    "links": [{"is_usable": False}, {"is_usable": True}],
}


def test_node_is_routable_with_a_usable_link_and_its_models_ready() -> None:
    assert is_routable(NODE, ["a"])
    assert not is_routable(NODE, ["a", "b"])
    assert not is_routable(NODE, None)
    assert is_routable({**NODE, "models": [{"name": "a", "state": "ready"}]}, None)
    assert not is_routable({**NODE, "models": []}, None)
    assert not is_routable({**NODE, "links": [{"is_usable": False}]}, ["a"])
    assert not is_routable({**NODE, "is_draining": True}, ["a"])


def test_overview_shows_what_the_commands_themselves_say(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = []
    for branch in (OVERVIEW, None):
        typer.main.get_command(application(branch)).main(
            ["--help"], prog_name="capamesh", standalone_mode=False
        )
        shown.append(capsys.readouterr().out)
    assert "Serve clients" in shown[0]
    assert shown[0] == shown[1]


@pytest.mark.parametrize(
    ("error", "exit_status", "said"),
    [
        (ConfigError("two\nlines"), 1, "capamesh: error: two lines\n"),
        (
            ExceptionGroup("tasks", [ConfigError("a"), ExceptionGroup("more", [LocalError("b")])]),
            1,
            "capamesh: error: a\ncapamesh: error: b\n",
        ),
        (KeyboardInterrupt(), 130, None),
        (ExceptionGroup("tasks", [ConfigError("a"), ZeroDivisionError()]), None, None),
    ],
)
def test_failure_is_one_line_each_and_a_bug_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    exit_status: int | None,
    said: str | None,
) -> None:
    monkeypatch.setattr(status, "read_status", fail_with(error))
    if exit_status is None:
        with pytest.raises(ExceptionGroup):
            run(["node", "status", "--data", "d"])
        return
    assert run(["node", "status", "--data", "d"]) == exit_status
    assert said in (None, capsys.readouterr().err)


def test_routers_status_has_a_line_for_each_of_its_workers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"name": "worker-1", "state": "ready", "pid": 77, "starts": 1}
    lost = {"name": "worker-2", "state": "down", "pid": None, "starts": 4, "last_down": "killed"}
    workers = [{"reason": "", "last_down": "", "link_address": "", **each} for each in (row, lost)]
    DataDir(tmp_path).write_status({"role": "router", "state": "ready", "workers": workers})
    assert run(["router", "status", "--data", str(tmp_path)]) == 1  # nobody holds the folder
    said = [re.sub(" {2,}", "  ", line.strip()) for line in capsys.readouterr().out.splitlines()]
    first = said.index("WORKER  STATE  PID  STARTS  LOST LAST BECAUSE  LINKS AT")
    assert said[first + 2] == "worker-2  down  down  4  killed  -"
    assert "state  stopped (it last said: ready)" in said


@pytest.mark.parametrize(
    ("model", "text"),
    [
        ({"provider": "CPUExecutionProvider"}, "m/1 (CPU)"),
        ({"provider": "CUDAExecutionProvider", "precision": "fp16"}, "m/1 (CUDA, fp16)"),
        ({"state": "loading", "provider": "CUDAExecutionProvider"}, "m/1 loading"),
        ({"state": "failed", "reason": REASON}, f"m/1 failed: {REASON}"),
    ],
)
def test_nodes_model_is_shown_with_what_runs_it_or_why_it_does_not(
    model: dict[str, object], text: str
) -> None:
    shown = {"name": "m", "version": "1", "state": "ready", **model}
    assert fleet._row({"models": [shown]}, {})[5] == text


@pytest.mark.parametrize(
    ("node", "state"),
    [
        ({"links": [{"is_usable": True}]}, "usable"),
        ({"links": [], "is_draining": True}, "draining"),
        ({"links": []}, "no link"),
        ({"links": [{"is_usable": False, "last_error": "refused"}]}, "not usable: refused"),
        (NODE, "usable 1 of 2 devices"),
    ],
)
def test_nodes_state_is_said_in_words(node: dict[str, object], state: str) -> None:
    assert fleet._row(node, {})[2] == state


@pytest.mark.full
def test_commands_import_nothing_heavy_and_no_other_command() -> None:
    code = (
        "import sys; from capamesh.cli.__main__ import run; run(['router', 'run', '--help']); run(['--help']);"
        "read = {f'capamesh.cli.{each}' for each in ('jobs', 'node', 'infer', 'up', 'printing')};"
        "read |= {'numpy', 'aiohttp', 'onnxruntime', 'cryptography', 'libp2p'};"
        "read &= set(sys.modules); import capamesh.cli.services, capamesh.cli.cluster_session;"
        "read |= {'onnxruntime', 'libp2p'} & set(sys.modules);"
        "sys.exit(f'read in: {read}' if read else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_words_of_a_command_line_tell_what_of_the_tree_it_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for words, branch in (
        ([], OVERVIEW),
        (["--help"], OVERVIEW),
        (["router", "run"], "router"),
        (["ruoter"], None),
        (["--version"], None),
        (["--show-completion"], None),
    ):
        assert branch_of(words) == branch
    monkeypatch.setenv("_CAPAMESH_COMPLETE", "complete_bash")
    assert branch_of([]) is None
