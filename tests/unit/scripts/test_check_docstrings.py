"""The check of docstrings that `make lint` runs."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "check_docstrings.py"
TENSORS = "client/src/capamesh/client/x.py"


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the script as a module."""
    spec = importlib.util.spec_from_file_location("check_docstrings", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "check_docstrings", module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("module", "How many lines a module may have."),
        ("module", "What nodes share: names."),
        ("class", "Who waits for an answer."),
        ("class", "\n    It gets no requests."),
        ("function", "Whether a link is up."),
        ("function", "Part of `LinkHandler`."),
        ("function", "`is_warm`: it has run before."),
        ("value", "Of text of a stranger."),
        ("value", "None: it is over."),
        ("value", "Guess: a third of the silence."),
        ("value", "0: any free port."),
        ("value", '"": the newest.'),
        ("value", "Kept for each byte."),
        ("value", "So few are counted."),
    ],
)
def test_fragment_is_found(check: ModuleType, kind: str, text: str) -> None:
    assert check.is_fragment(kind, text)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("module", "Reads a node's adverts."),
        ("module", "`capamesh model`: look at, check and time models."),
        ("class", "The requests in flight of one replica."),
        ("class", "In-flight requests of one replica."),
        ("function", "Return whether a link is up."),
        ("function", "Set the time that is allowed."),
        ("function", "`replica` refused a request."),
        ("value", "Seconds between two pings (guess: a third of the silence)."),
        ("value", "None of the replicas that were asked is asked again."),
        ("value", "True while the link is up."),
    ],
)
def test_sentence_is_let_pass(check: ModuleType, kind: str, text: str) -> None:
    assert not check.is_fragment(kind, text)


def test_docstrings_of_all_kinds_are_found_with_their_lines(check: ModuleType) -> None:
    text = (
        '"""Module."""\nA = 1\n"""Value."""\n\n\nclass B:\n    """Class."""\n\n    c: int\n    """Attribute."""\n\n'
        '    def d(self):\n        """Function."""\n        self.e = 1\n        """Own."""\n        d()\n        "no docstring"\n'
    )
    found = {(each.kind, each.line, each.text) for each in check.docstrings(ast.parse(text))}
    assert found == {
        ("module", 1, "Module."),
        ("value", 3, "Value."),
        ("class", 7, "Class."),
        ("value", 10, "Attribute."),
        ("function", 13, "Function."),
        ("value", 15, "Own."),
    }


def test_message_says_where_which_words_and_what_to_write(check: ModuleType) -> None:
    text = 'A = 1\n"""How many lines of one kind of module are too many."""\n'
    (found,) = check.fragments("a.py", ast.parse(text))
    assert str(found).startswith('a.py:2: "How many lines of one kind ..." has no subject: ')


@pytest.mark.parametrize(
    ("function", "is_found"),
    [
        ('def run(a: Tensor) -> None:\n    """Run it."""', True),
        ('def run() -> list[np.ndarray]:\n    """Return the outputs."""', True),
        ('def run(*, a: Sequence[Tensor]) -> None:\n    """Run it."""', True),
        ('def run(a: Tensor) -> None:\n    """Run a tensor of any shape."""', False),
        ('def run(a: Tensor) -> None:\n    """Run tensors as described by `inputs`."""', False),
        ('def run(a: TensorSpec) -> None:\n    """Run it."""', False),
        ('def _run(a: Tensor) -> None:\n    """Run it."""', False),
        ('@override\ndef run(a: Tensor) -> None:\n    """Run it."""', False),
    ],
)
def test_public_function_on_tensors_says_what_they_look_like(
    check: ModuleType, function: str, is_found: bool
) -> None:
    assert bool(list(check.untold_tensors(TENSORS, ast.parse(function)))) is is_found


def test_named_folder_is_checked(
    check: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "bad.py").write_text('"""How it is."""\n')
    monkeypatch.setattr(check, "ROOT", tmp_path)
    assert check.main([str(tmp_path)]) == 1
    assert capsys.readouterr().out.startswith('bad.py:1: "How it is. ..." has no subject')
