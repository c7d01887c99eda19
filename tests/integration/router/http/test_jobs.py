"""The routes of batch jobs at the front of a real router core, with a real store: submitting, listing, moving, and whose is whose."""

from __future__ import annotations

import asyncio
import math
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fleet_fakes import offer
from job_pages import ROWS, JobClients
from loop_clock import LoopClock
from openapi_fits import answers_of, misfits
from raw_http import GUARD_S
from router_http import WALL_S, serving

from capamesh.router.jobs import service as services
from capamesh.router.jobs.inputs.source import LocalFile
from capamesh.router.jobs.places import Places
from capamesh.router.jobs.standing import Progress
from capamesh.router.jobs.store import job_operations, job_store
from capamesh.router.jobs.store.group_commit import Turn
from capamesh.router.jobs.values import JobId, Paid, Price
from capamesh.router.process.job_parts import LOOK_THREADS

MOVES = ("pause", "resume", "cancel")
ODD_IDS = (
    *("job-%00", "job-%0a", "%ff%fe", "job-..%2f..", "'%20OR%201=1", "job-é", "-"),
    "job-" + "a" * 500,
)


async def test_job_is_submitted_shown_and_listed(clients: JobClients) -> None:
    response = await clients.ask("", "POST", "/v1/jobs", clients.body(priority=200))
    assert response.status == 201
    job = await response.json()
    assert abs(job.pop("created_at") - WALL_S) < 60
    assert job.pop("id").startswith("job-")
    spec = job.pop("spec")
    none_yet = ("ended_at", "rows_per_s", "nodes", "ends_at", "price", "price_per_million")
    pinned = {"model": "m", "version": "1", "digest": offer().digest}
    assert job == pinned | {
        "object": "job",
        "state": "planning",
        **dict.fromkeys(("tenant", "reason"), ""),
        **dict.fromkeys(("rows", "shards", "paid_rows"), 0),
        "done": dict.fromkeys(("shards", "rows", "bad_rows", "leased_shards"), 0),
        **dict.fromkeys(none_yet),
    }
    source = {"url": f"{clients.place}/in.jsonl", "format": "jsonl", "columns": {"x": ["x"]}}
    assert spec["input"] == {**source, "id_column": "", "encoding": {}}
    assert (spec["priority"], clients.runner.woken) == (200, 1)
    listed = await clients.told("", "GET", "/v1/jobs")
    shown = await clients.told("", "GET", f"/v1/jobs/{listed['data'][0]['id']}")
    assert listed == {"object": "list", "data": [shown], "has_more": False}


async def test_job_submitted_again_under_its_key_is_the_same(clients: JobClients) -> None:
    async def submit(status: int, named: str = "mine", header: str = "", **more: Any) -> Any:
        body = clients.body(**{"client_key": named} if named else {}, **more)
        headers = {"Idempotency-Key": header} if header else {}
        response = await clients.ask("", "POST", "/v1/jobs", body, **headers)
        assert response.status == status
        return response.headers.get("X-Capamesh-Error") or (await response.json())["id"]

    assert await submit(201) == await submit(200, "", "mine")
    assert await submit(409, priority=9) == "key_used"
    await submit(400, "a", "b")
    assert len((await clients.told("", "GET", "/v1/jobs"))["data"]) == 1


async def test_pages_of_the_list_have_each_job_once(clients: JobClients) -> None:
    made = [await clients.submit(priority=each) for each in range(1, 6)]
    found: list[str] = []
    page: dict[str, Any] = {"has_more": True}
    while page["has_more"]:
        after = f"&after={found[-1]}" if found else ""
        page = await clients.told("", "GET", f"/v1/jobs?limit=2{after}")
        found += [job["id"] for job in page["data"]]
    assert sorted(found) == sorted(made)
    await clients.told("", "POST", f"/v1/jobs/{made[2]}/cancel")
    cancelled = await clients.told("", "GET", "/v1/jobs?state=cancelled&limit=1")
    assert ([job["id"] for job in cancelled["data"]], cancelled["has_more"]) == ([made[2]], False)
    assert len((await clients.told("", "GET", "/v1/jobs?state=planning"))["data"]) == 4


async def test_job_is_paused_resumed_and_cancelled(clients: JobClients) -> None:
    job = await clients.submit()
    refused = await clients.ask("", "POST", f"/v1/jobs/{job}/pause")
    assert (refused.status, refused.headers["X-Capamesh-Error"]) == (409, "job_conflict")
    await clients.planned(job)
    states = [
        (await clients.told("", "POST", f"/v1/jobs/{job}/{word}"))["state"]
        for word in ("pause", "pause", "resume", "cancel", "cancel")
    ]
    assert states == ["paused", "paused", "running", "cancelled", "cancelled"]
    for word in ("pause", "resume"):
        assert (await clients.ask("", "POST", f"/v1/jobs/{job}/{word}")).status == 409
    shown = await clients.told("", "GET", f"/v1/jobs/{job}")
    assert shown["ended_at"] >= shown["created_at"]


async def test_pace_of_a_job_is_the_runners(clients: JobClients) -> None:
    path = f"/v1/jobs/{await clients.submit()}"
    clients.runner.progress = Progress(2.5, 30.0, 3)
    shown = await clients.told("", "GET", path)
    assert (shown["rows_per_s"], shown["nodes"]) == (2.5, 3)
    assert abs(shown["ends_at"] - WALL_S - 30.0) < 60
    clients.runner.progress = Progress(None, None, 0)
    shown = await clients.told("", "GET", path)
    assert (shown["rows_per_s"], shown["nodes"], shown["ends_at"]) == (None, 0, None)


async def test_price_of_a_job_is_shown_also_when_it_has_ended(clients: JobClients) -> None:
    job = await clients.submit()
    store = await clients.http.job_service.store()
    for router, price in (("here", Price(400, 0.0006)), ("there", Price(100, 0.0009))):
        await store.keep_prices([Paid(JobId(job), router, price)])
    under_way = await clients.told("", "GET", f"/v1/jobs/{job}")
    await clients.told("", "POST", f"/v1/jobs/{job}/cancel")
    ended = await clients.told("", "GET", f"/v1/jobs/{job}")
    (listed,) = (await clients.told("", "GET", "/v1/jobs"))["data"]
    for shown, state in ((under_way, "planning"), (ended, "cancelled"), (listed, "cancelled")):
        told = [shown[name] for name in ("state", "price", "price_per_million", "paid_rows")]
        assert told == [state, 0.0015, 3.0, 500]


# what a job would take


async def test_dry_run_says_what_would_come_and_keeps_nothing(clients: JobClients) -> None:
    clients.runner.promised_s = 12.0
    promise = await clients.told("", "POST", "/v1/jobs", clients.body(dry_run=True))
    assert (promise["rows"], promise["left_s"]) == (ROWS, 12.0)
    assert abs(promise["ends_at"] - WALL_S - 12.0) < 60
    assert promise["spec"]["input"]["columns"] == {"x": ["x"]}
    clients.runner.promised_s = math.inf
    promise = await clients.told("", "POST", "/v1/jobs", clients.body(dry_run=True))
    assert (promise["left_s"], promise["ends_at"]) == (None, None)
    assert (await clients.told("", "GET", "/v1/jobs"))["data"] == []
    assert clients.runner.woken == 0


@pytest.mark.parametrize(
    ("left_s", "promised_s", "words"),
    [
        (-5.0, 1.0, "the deadline was "),
        (100.0, 500.0, "the job takes some 500 s"),
        (100.0, math.inf, "nothing is idle now"),
        (100.0, 50.0, ""),
        (100.0, None, ""),
    ],
)
async def test_deadline_that_cannot_be_met_is_refused(
    clients: JobClients, left_s: float, promised_s: float | None, words: str
) -> None:
    clients.runner.promised_s = promised_s
    body = clients.body(deadline_s=WALL_S + left_s)
    response = await clients.ask("", "POST", "/v1/jobs", body)
    assert response.status == (400 if words else 201)
    assert words in await response.text()


# what is wrong with it


BODIES = (b"", b"[]", b"junk", b'{"model":"m"}', b'{"dry_run":1}', b"\xff", b"[" * 100_000)


async def test_body_or_query_that_is_none_is_refused(clients: JobClients) -> None:
    for body in (*BODIES, b"x" * 300_000):
        response = await clients.http.client.post("/v1/jobs", data=body)
        assert response.status == (413 if len(body) > 2**18 else 400), body
    for query in ("limit=101", "limit=x", "limit=-1", "state=done", "limit=" + "9" * 99):
        assert (await clients.ask("", "GET", f"/v1/jobs?{query}")).status == 400
    assert (await clients.ask("", "GET", "/v1/jobs?limit=0")).status == 200


@pytest.mark.parametrize(
    ("source", "code", "words"),
    [
        ({"url": "/etc/passwd", "format": "csv"}, "invalid_request", "--jobs-place"),
        ({"url": "PLACE/../in.jsonl"}, "invalid_request", "--jobs-place"),
        ({"url": "PLACE/none.jsonl"}, "input_invalid", "No such file"),
        ({"url": "PLACE", "format": "jsonl"}, "input_invalid", "not a plain file"),
        ({"url": "PLACE/in.jsonl", "format": "npz"}, "input_invalid", "cannot read"),
        ({"url": "PLACE/in.jsonl", "format": "xml"}, "invalid_request", "input.format is 'xml'"),
        ({"url": "upload:file-0123", "format": "csv"}, "input_invalid", "no uploaded file"),
        ({"url": "http://127.0.0.1:8000/", "format": "csv"}, "invalid_request", "no place"),
    ],
)
async def test_input_that_cannot_be_read_is_refused_at_once(
    clients: JobClients, source: dict[str, str], code: str, words: str
) -> None:
    source["url"] = source["url"].replace("PLACE", str(clients.place))
    response = await clients.ask("", "POST", "/v1/jobs", clients.body(input=source))
    assert (response.status, response.headers["X-Capamesh-Error"]) == (400, code)
    assert words in await response.text()
    assert (await clients.told("", "GET", "/v1/jobs"))["data"] == []


async def test_headers_on_a_requests_way_are_no_jobs(clients: JobClients) -> None:
    for name, value, status in (
        ("X-Capamesh-Tenant", "lab", 201),
        ("X-Capamesh-Region", "eu", 400),
        ("X-Capamesh-Policy", "p2c", 400),
        ("X-Capamesh-Nonsense", "1", 400),
    ):
        response = await clients.ask("", "POST", "/v1/jobs", clients.body(), **{name: value})
        assert response.status == status, name
    (job,) = (await clients.told("", "GET", "/v1/jobs"))["data"]
    assert job["tenant"] == "lab"


# whose is whose


async def test_job_of_another_tenant_is_as_one_that_is_not_there(clients: JobClients) -> None:
    lab, rich = clients.key("lab"), clients.key("rich")
    own = await clients.submit(lab)
    await clients.assert_unknown(rich, own, "", "/events", "/results", "/parts", "/errors")
    await clients.assert_unknown(rich, own, *(f"/{word}" for word in MOVES), method="POST")
    for query in ("", f"?after={own}"):
        assert (await clients.told(rich, "GET", f"/v1/jobs{query}"))["data"] == []
    assert (await clients.told(lab, "GET", f"/v1/jobs/{own}"))["tenant"] == "lab"
    # the same client key of two tenants is two jobs
    both = [await clients.submit(each, client_key="k") for each in (lab, rich)]
    assert both[0] != both[1]
    everything = await clients.told("secret", "GET", "/v1/jobs")
    assert {each["tenant"] for each in everything["data"]} == {"lab", "rich"}
    assert (await clients.told("secret", "POST", f"/v1/jobs/{own}/cancel"))["state"] == "cancelled"


async def test_key_submits_as_its_tenant_alone(clients: JobClients) -> None:
    key = clients.key("lab", models=("m",), max_price=2.0, regions=("eu",), max_priority=50)
    job = await clients.told(key, "POST", "/v1/jobs", clients.body())
    assert job["tenant"] == "lab"
    assert (job["spec"]["max_price"], job["spec"]["regions"]) == (2.0, ["eu"])
    named = {"X-Capamesh-Tenant": "rich"}
    assert (await clients.ask(key, "POST", "/v1/jobs", clients.body(), **named)).status == 403
    for more in ({"model": "n"}, {"priority": 49}, {"regions": ["us"]}):
        response = await clients.ask(key, "POST", "/v1/jobs", clients.body(**more))
        assert (response.status, response.headers["X-Capamesh-Error"]) == (403, "forbidden"), more


async def test_id_that_no_job_has_is_not_found(clients: JobClients) -> None:
    key = clients.key("lab")
    for job in ODD_IDS:
        paths = ((f"/v1/jobs/{job}", "GET"), (f"/v1/jobs?after={job}", "GET"))
        for path, method in (*paths, *((f"/v1/jobs/{job}/{word}", "POST") for word in MOVES)):
            assert (await clients.ask(key, method, path)).status == 404


# when something fails


async def test_router_without_jobs_says_so(tmp_path: Path) -> None:
    async with serving(jobs=None) as http:
        for method, path in (("GET", "/v1/jobs"), ("POST", "/v1/jobs"), ("GET", "/v1/jobs/job-1")):
            response = await http.client.request(method, path)
            assert response.status == 501
            assert "--no-jobs" in await response.text()


@pytest.mark.real_loop("the store's thread hangs")
async def test_store_that_hangs_is_given_up(
    clients: JobClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await clients.submit()
    monkeypatch.setattr(job_store, "PATIENCE_S", 0.05)
    go_on = asyncio.Event()
    hangs = threading.Event()
    loop = asyncio.get_running_loop()

    def hang(*_: object, **__: object) -> None:
        hangs.set()
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(60)

    async def is_given_up(path: str) -> None:
        response = await clients.ask("", "GET", path)
        assert (response.status, response.headers["X-Capamesh-Error"]) == (503, "jobs_unavailable")
        assert response.headers["Retry-After"] == "1"

    monkeypatch.setattr(job_operations, "get", hang)
    await is_given_up(f"/v1/jobs/{job}")
    while not hangs.is_set():  # it was taken back before the store's thread had come to it
        await is_given_up(f"/v1/jobs/{job}")
    await is_given_up("/v1/jobs")
    go_on.set()


async def test_full_disk_is_told_and_what_is_there_is_still_shown(clients: JobClients) -> None:
    job = await clients.submit()
    store = await clients.http.job_service.store()

    def let_grow(pages: int) -> Callable[[Turn], None]:
        def operation(turn: Turn) -> None:
            run = turn.connection.exec_driver_sql
            run(f"PRAGMA max_page_count = {run('PRAGMA page_count').scalar_one() + pages}")

        return operation

    await store._run(let_grow(2))
    columns = {"x": [f"column {at} {'x' * 200}" for at in range(40)]}
    source = {**clients.body()["input"], "columns": columns}
    for _ in range(10):
        response = await clients.ask("", "POST", "/v1/jobs", clients.body(input=source))
        if response.status != 201:
            break
    assert (response.status, response.headers["X-Capamesh-Error"]) == (503, "jobs_unavailable")
    assert "disk is full" in await response.text()
    assert (await clients.told("", "GET", f"/v1/jobs/{job}"))["state"] == "planning"
    listed = (await clients.told("", "GET", "/v1/jobs"))["data"]
    assert job in [each["id"] for each in listed]
    await store._run(let_grow(1000))  # somebody makes room
    await clients.submit(input=source)


async def test_store_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    async with serving(data_folder=tmp_path / "data") as http:
        (tmp_path / "data" / "jobs.db").mkdir(parents=True)
        http.node("A")
        response = await http.client.get("/v1/jobs")
        assert (response.status, response.headers["X-Capamesh-Error"]) == (503, "jobs_unavailable")


@pytest.mark.real_loop("threads hang")
@pytest.mark.parametrize(("kind", "name"), [(LocalFile, "stamp"), (Places, "sink")])
async def test_disk_that_hangs_holds_a_few_threads_and_submissions(
    clients: JobClients, monkeypatch: pytest.MonkeyPatch, kind: type[Any], name: str
) -> None:
    clock, service = LoopClock(monkeypatch), clients.http.job_service
    go_on = asyncio.Event()
    loop = asyncio.get_running_loop()
    hung: list[int] = []

    def hang(*_: object) -> None:
        hung.append(1)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(60)

    async def submit() -> str:
        told = await clients.ask("", "POST", "/v1/jobs", clients.body())
        return told.headers.get("X-Capamesh-Error", "")

    with monkeypatch.context() as disk:
        disk.setattr(kind, name, hang)
        asked = asyncio.gather(*(submit() for _ in range(40)))
        queue = service._in_thread._pool._work_queue
        while len(hung) + queue.qsize() < services.MOST_WAITING or len(hung) < LOOK_THREADS:
            await asyncio.sleep(0)
        clock.set_forward(services.LOOK_S)
        codes = Counter(await asked)
        assert codes == {"input_invalid": services.MOST_WAITING, "overloaded": 8}
        assert await submit() == "overloaded"  # those that were given up keep their threads
        async with asyncio.timeout(GUARD_S):
            await asyncio.to_thread(int)  # which are none of the process's
    go_on.set()
    async with asyncio.timeout(GUARD_S):
        while await submit() == "overloaded":
            await asyncio.sleep(0)
    assert await submit() == ""


async def test_answers_are_as_described(clients: JobClients) -> None:
    job = await clients.submit()
    asked: list[tuple[str, str, Any]] = [
        *(("POST", "/v1/jobs", clients.body(**more)) for more in ({}, {"dry_run": True})),
        *(("GET", f"/v1/jobs{tail}", None) for tail in ("", "/{job}")),
        *(("POST", "/v1/jobs/{job}/" + word, None) for word in ("cancel", "pause")),
    ]
    for method, route, body in asked:
        response = await clients.ask("", method, route.replace("{job}", job), body)
        contents = answers_of(method, route, response.status)
        wrong = list(misfits(await response.json(), contents["application/json"]["schema"]))
        assert wrong == [], (method, route)
