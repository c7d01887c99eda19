"""Jobs read and write where the operator lets them, and nowhere else, whatever a URL looks like."""

from __future__ import annotations

from pathlib import Path

import pytest

from capamesh.protocol.errors import ConfigError, InvalidRequest
from capamesh.router.jobs.inputs.source import LocalFile
from capamesh.router.jobs.outputs.sink import LocalSink
from capamesh.router.jobs.places import Places, local_path, upload_path
from capamesh.router.jobs.remote.files import RemoteSink
from capamesh.router.jobs.values import JobId

JOB = JobId("job-1")
FILE = "file-0123456789abcdef"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a folder with a place, what lies beside it, and the router's own folders."""
    for name in ("place/deep", "beside", "data/jobs"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("place/in.jsonl", "place/deep/a b.jsonl", "beside/secret", "data/operator.key"):
        (tmp_path / name).write_text("{}\n")
    return tmp_path


@pytest.fixture
def places(root: Path) -> Places:
    return Places(root / "data" / "jobs", (str(root / "place"),), (root / "data",))


def path_of(places: Places, url: str, tenant: str = "t") -> Path:
    source = places.source(url, tenant)
    assert isinstance(source, LocalFile)
    return source.path


@pytest.mark.parametrize(
    ("url", "path"),
    [("/a/b", "/a/b"), ("file:///a/b%20c", "/a/b c"), ("file://localhost/a", "/a")],
)
def test_url_of_this_machine_is_a_path(url: str, path: str) -> None:
    assert local_path(url) == Path(path)


@pytest.mark.parametrize(
    "url",
    [
        *("a/b", "file:a", "", "s3://bucket/x", "http://127.0.0.1:8000/metrics", "//host/share"),
        *("file://host/x", "file://[::1]/x", "file://[/x", "file://localhost:1/x", "data:,x"),
        *("file:///a?b", "file:///a#b", "file:///a?", "/a\0b", "file:///a%00b", "/a\nb", "\n/a"),
        *("/a\u202eb", "fi\nle:///a", "FILE:a", "file:////%00"),
    ],
)
def test_url_that_is_no_path_of_this_machine_is_refused(places: Places, url: str) -> None:
    for use in (
        lambda: places.source(url, "t"),
        lambda: places.folder(url, "t"),
        lambda: places.sink(url or " ", JOB),
    ):
        with pytest.raises(InvalidRequest):
            use()


@pytest.mark.parametrize(
    "tail",
    [
        *("/beside/secret", "/place/../beside/secret", "/place/%2e%2e/beside/secret"),
        *("/place/link/secret", "/place/file-link", "/place2/x", "/plac", "/place/deep/../../data"),
        *("/data/operator.key", "/data/jobs/files/x"),
    ],
)
def test_path_elsewhere_is_refused_and_the_option_named(
    root: Path, places: Places, tail: str
) -> None:
    (root / "place" / "link").symlink_to(root / "beside")
    (root / "place" / "file-link").symlink_to("../beside/secret")
    for url in (f"{root}{tail}", f"file://{root}{tail}"):
        if url.startswith("/") and "%" in url:
            continue  # it is a name then
        for use in (
            lambda url=url: places.source(url, "t"),
            lambda url=url: places.folder(url, "t"),
            lambda url=url: places.sink(url, JOB),
        ):
            with pytest.raises(InvalidRequest, match="--jobs-place"):
                use()


def test_circle_of_links_leads_nowhere(root: Path, places: Places) -> None:
    (root / "place" / "round").symlink_to("round")
    with pytest.raises(InvalidRequest, match=r"cannot be followed|cannot read"):
        places.source(f"{root}/place/round", "t").open()  # a newer Python finds it there alone


def test_link_that_is_turned_elsewhere_later_is_refused_then(root: Path, places: Places) -> None:
    link = root / "place" / "data"
    link.symlink_to(root / "place" / "deep")
    assert path_of(places, f"{link}/x") == root / "place" / "deep" / "x"
    link.unlink()
    link.symlink_to(root / "beside")
    with pytest.raises(InvalidRequest, match="--jobs-place"):
        places.source(f"{link}/x", "t")


def test_routers_own_folders_are_in_no_place(root: Path) -> None:
    places = Places(root / "data" / "jobs", (str(root), "/"), (root / "data",))
    assert path_of(places, f"{root}/beside/secret") == root / "beside" / "secret"
    with pytest.raises(InvalidRequest, match="--jobs-place"):
        places.source(f"{root}/data/operator.key", "t")
    for folder in (root, root / "data", root / "data" / "jobs"):
        with pytest.raises(InvalidRequest, match="--jobs-place"):
            places.folder(str(folder), "t")  # whose files would be read with the others
    assert isinstance(places.sink(str(root / "out"), JOB), LocalSink)


def test_uploaded_file_is_read_by_its_tenant_alone(root: Path, places: Places) -> None:
    path = upload_path(root / "data" / "jobs", "lab", FILE)
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    assert path_of(places, f"upload:{FILE}", "lab") == path
    texts: set[str] = set()
    for tenant, file_id in (("other", FILE), ("", FILE), ("lab", f"{FILE[:-1]}0")):
        with pytest.raises(InvalidRequest) as refusal:
            places.source(f"upload:{file_id}", tenant)
        texts.add(refusal.value.message.replace(file_id, ""))
    assert texts == {"there is no uploaded file ''"}
    with pytest.raises(InvalidRequest, match="not a folder"):
        places.folder(f"upload:{FILE}", "lab")
    with pytest.raises(InvalidRequest, match=r"leave output\.url out"):
        places.sink(f"upload:{FILE}", JOB)


def test_upload_that_is_no_id_leads_nowhere(places: Places) -> None:
    odd = ("file-a\0", "file-é", "file-a\n", "x" * 999)
    for file_id in ("", "file-", "file-../x", "file-a/b", "../lab/file-a", *odd):
        with pytest.raises(InvalidRequest, match="no id of an uploaded file"):
            places.source(f"upload:{file_id}", "lab")


def test_results_are_the_routers_own_where_no_place_is_named(root: Path, places: Places) -> None:
    sink = places.sink("", JOB)
    assert isinstance(sink, LocalSink)
    assert sink.folder == root / "data" / "jobs" / "results" / JOB


@pytest.fixture
def far(root: Path) -> Places:
    prefixes = ("s3://bucket/sets", "https://data.example.com/a", "memory://open")
    return Places(root / "data" / "jobs", (str(root / "place"), *prefixes), (root / "data",))


@pytest.mark.parametrize(
    "url",
    [
        *("s3://bucket/x", "s3://bucket/sets2/x", "s3://bucket2/sets/x", "gs://bucket/sets/x"),
        *("s3://bucket/sets/../x", "s3://k:s@bucket/sets/x", "s3://bucket/sets/x?versionId=1"),
        *("http://data.example.com/a/x", "https://data.example.com:8443/a/x"),
        *("https://127.0.0.1/a/x", "https://data.example.com/b", "https://a@data.example.com/a"),
        *("https://data.example.com/a/%2e%2e/b", "https://data.example.com.evil.example/a/x"),
        *("https://data.example.com\\@evil.example/a/x", "memory://other/x"),
        *("file+s3://bucket/sets/x", "simplecache::s3://bucket/sets/x", "zip://x::s3://bucket/x"),
    ],
)
def test_url_of_elsewhere_is_in_no_place_but_the_named_ones(far: Places, url: str) -> None:
    for use in (
        lambda: far.source(url, "t"),
        lambda: far.folder(url, "t"),
        lambda: far.beside(url, "t"),
        lambda: far.sink(url, JOB),
    ):
        with pytest.raises(InvalidRequest):
            use()


def test_url_of_elsewhere_below_a_place_is_used(far: Places) -> None:
    pytest.importorskip("obstore")
    pytest.importorskip("fsspec")
    assert far.source("s3://bucket/sets/x.parquet", "t").name == "s3://bucket/sets/x.parquet"
    assert (
        far.source("HTTPS://Data.Example.com:443/a/x", "t").name == "https://data.example.com/a/x"
    )
    assert far.folder("s3://bucket/sets/pictures/", "t").name == "s3://bucket/sets/pictures"
    assert far.beside("s3://bucket/sets/x.jsonl", "t").name == "s3://bucket/sets"
    assert isinstance(far.sink("memory://open/out", JOB), RemoteSink)
    with pytest.raises(InvalidRequest, match="cannot be written to over HTTP"):
        far.sink("https://data.example.com/a/out", JOB)


def test_files_beside_an_input_are_in_its_place_too(root: Path, far: Places) -> None:
    place = root / "place"
    assert far.beside(f"{place}/in.jsonl", "t").name == str(place)
    for url in (str(place), "s3://bucket/sets", f"upload:{FILE}"):
        with pytest.raises(InvalidRequest):
            far.beside(url, "t")


@pytest.mark.parametrize(
    "prefix", ["s3://", "s3://bucket/a/../b", "https://u:p@host/a", "s3://b/x?y"]
)
def test_place_that_is_no_url_is_refused_at_the_start(tmp_path: Path, prefix: str) -> None:
    with pytest.raises(ConfigError, match="--jobs-place"):
        Places(tmp_path, (prefix,))
