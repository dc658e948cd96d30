"""`lazysif trace`: what it shows, and errors in one line. `record` is tested on a real mount."""

import json
import os
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from lazysif.cli import trace as cli
from lazysif.cli import trace_record
from lazysif.cli.main import exit_code
from lazysif.cli.trace_picture import picture
from lazysif.core.trace import HEAD_BYTES, Trace, TracePath, trace_key
from lazysif.errors import LazysifError
from lazysif.traces.store import TraceStore
from lazysif.traces.trace_file import read_trace, write_trace

DATA = bytes(range(256)) * 4096
KEY = trace_key(len(DATA), DATA[:HEAD_BYTES])
SHELL = TracePath((0, 5, 6, 200), (0, 10, 20, 1500), 1_700_000_000)
TRACE = Trace(KEY, len(DATA), 4096, (SHELL,), "shub/a.sif")
OTHER = replace(TRACE, key="1" * 32, name="bio/a.sif")


@pytest.fixture
def lazysif(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAZYSIF_RUNTIME_DIR", str(tmp_path / "run"))
    (tmp_path / "state").mkdir()

    def run(*arguments):
        words = [*map(str, arguments), *(() if arguments[0] == "record" else ("--state-dir", "state"))]
        done = CliRunner().invoke(cli.trace_group, words, standalone_mode=False)
        if isinstance(done.exception, LazysifError):
            assert "\n" not in str(done.exception)
            return exit_code(done.exception), str(done.exception)
        assert done.exception is None, done.exception
        return done.return_value, done.output

    return run


@pytest.fixture
def store(tmp_path, lazysif):
    kept = TraceStore(tmp_path / "state")
    kept.add(TRACE)
    return kept


def test_nothing_is_known_yet(lazysif):
    assert lazysif("list") == (0, "no start was recorded yet\n")
    code, said = lazysif("show", "a.sif")
    assert (code, said) == (1, "no start of a.sif is known in state/traces-v1; see lazysif trace list")


def test_list_and_show(lazysif, store):
    code, said = lazysif("list")
    assert code == 0
    assert "shub/a.sif" in said
    assert KEY in said
    (figures,) = json.loads(lazysif("list", "--json")[1])
    assert figures["paths"] == [{"blocks": 4, "took_s": 1.5, "used_s": 1_700_000_000}]
    said = lazysif("show", "a.sif")[1]
    assert "16 KiB" in said.split("\n  1 ")[1], "what it touched"
    assert json.loads(lazysif("show", "a.sif", "--json")[1])["touched"][0]["blocks"] == [0, 5, 6, 200]


def test_an_image_is_named_by_content_by_key_or_by_name(lazysif, store, tmp_path):
    (tmp_path / "copy.sif").write_bytes(DATA)
    for image in ("copy.sif", KEY, "shub/a.sif", "a.sif"):
        assert lazysif("show", image)[0] == 0, image
    store.add(OTHER)
    code, said = lazysif("show", "a.sif")
    assert code == 2
    assert OTHER.key in said
    assert lazysif("show", "bio/a.sif")[0] == 0


def test_export_import_forget(lazysif, store, tmp_path):
    assert lazysif("export", "a.sif")[0] == 0
    exported = read_trace(tmp_path / "a.sif.lazysif-trace")
    assert exported == replace(TRACE, name=""), "names stay here"
    assert lazysif("forget", "a.sif") == (0, "1 forgotten\n")
    assert store.load(KEY) is None
    assert lazysif("import", "a.sif.lazysif-trace")[0] == 0
    assert store.load(KEY).paths == (SHELL,)
    assert lazysif("forget", "--all") == (0, "1 forgotten\n")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("import", "gone.lazysif-trace"), 1, "gone.lazysif-trace is not there"),
        (("import", "bad.lazysif-trace"), 1, "bad.lazysif-trace: not a trace"),
        (("show", "bad.lazysif-trace"), 1, "bad.lazysif-trace: not a trace"),
        (("show", "a.sif", "--draw", "a.png"), 2, "pictures are SVG"),
        (("show", "a.sif", "--draw", "gone/a.svg"), 2, "gone/a.svg cannot be written: No such file"),
        (("export", "a.sif", "gone/a"), 2, "gone/a cannot be written: No such file"),
        # Regression: a traceback
        (("show", "x" * 5000), 2, "xxx cannot be read: File name too long"),
        (("export", "x" * 5000), 2, "xxx cannot be read: File name too long"),
        (("record", "a.sif", "--", "true", "{}"), 2, "a name needs --config"),
        (("record", "docker://x", "--", "true", "{}"), 2, "names layers"),
        (("record", "http://x/bad", "--", "true", "{}"), 2, "bad.lazysif-trace is there, and is no trace"),
    ],
)
def test_errors_say_what_to_do(lazysif, store, tmp_path, words, code, said):
    (tmp_path / "bad.lazysif-trace").write_text("text")
    done = lazysif(*words)
    assert done[0] == code
    assert said in done[1]


def test_a_picture_has_a_mark_for_each_block_and_hides_no_markup(tmp_path):
    trace = replace(TRACE, paths=(SHELL, TracePath((1, 2, 3, 9), (0, 0, 0, 0))))
    drawn = picture(trace, "<a&b>.sif")
    root = ElementTree.fromstring(drawn)
    texts = [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "<a&b>.sif" in texts
    assert "path 2" in texts
    marks = [each.get("d").count("h2") for each in root.iter("{http://www.w3.org/2000/svg}path")]
    assert [count for count in marks if count] == [4, 4]


def test_a_picture_is_drawn_into_a_file(lazysif, tmp_path):
    write_trace(tmp_path / "x.lazysif-trace", TRACE)
    assert lazysif("show", "x.lazysif-trace", "--draw", "x.svg")[0] == 0
    assert (tmp_path / "x.svg").read_text().startswith("<svg ")


def test_a_picture_of_a_name_that_is_no_text(lazysif, tmp_path):
    """Regression: a traceback, and an empty picture."""
    name = os.fsdecode(b"\xff.lazysif-trace")
    write_trace(tmp_path / name, replace(TRACE, name=""))
    assert lazysif("show", name, "--json", "--draw", "x.svg")[0] == 0
    assert "\\udcff" in (tmp_path / "x.svg").read_text()


def test_a_command_to_record_that_is_missing_is_named(tmp_path):
    """Regression: a traceback."""
    for command, why in (("no-such-program", "No such file"), (str(tmp_path), "Permission denied")):
        with pytest.raises(LazysifError, match=f"{command} cannot be run: {why}"):
            trace_record._run([command, "x.sif"])
