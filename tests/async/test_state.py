"""tree.state: what names meant and when that was said, in files of this release, of others, and damaged ones."""

import sqlite3

import pytest

from lazysif.core.confirmation import Moment
from lazysif.model import Image, ImageId, Location, Validator, ValidatorKind
from lazysif.tree.clocks import present
from lazysif.tree.state import StateStore

SAID = (Moment(1.8e9, 1000.0, "boot"), "config")
OLD_SCHEMA = """
CREATE TABLE inodes (number INTEGER PRIMARY KEY, identity TEXT NOT NULL UNIQUE);
CREATE TABLE images (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL, remote TEXT NOT NULL, path TEXT NOT NULL, origin TEXT NOT NULL,
    size_bytes INTEGER NOT NULL, validator_kind TEXT NOT NULL, validator TEXT NOT NULL,
    ranges INTEGER NOT NULL, modified_s INTEGER NOT NULL
);
CREATE TABLE directories (number INTEGER PRIMARY KEY, remote TEXT NOT NULL, path TEXT NOT NULL);
CREATE TABLE names (
    remote TEXT NOT NULL, path TEXT NOT NULL, number INTEGER NOT NULL, PRIMARY KEY (remote, path)
);
INSERT INTO images VALUES
    (7, '00000000000000000000000000000000', 'r', 'a.sif', 'http://o/a.sif', 10, 'etag', '"1"', 1, 0);
INSERT INTO names VALUES ('r', 'a.sif', 7);
"""


def image(version="1", path="a.sif"):
    validator = Validator(ValidatorKind.ETAG, f'"{version}"')
    return Image(
        ImageId(version * 32), "r", path, Location("", f"http://o/{path}"), 10, validator, modified_s=0
    )


@pytest.fixture
def store(tmp_path):
    store = StateStore(tmp_path)
    yield store
    store.close()


def change(directory, statement):
    db = sqlite3.connect(directory / "state-v1.sqlite")
    with db:
        db.executescript(statement)
    db.close()


def test_what_was_said_of_a_name_and_when(store):
    number = store.remember_image(image(), SAID)
    directory = store.remember_directory("r", "d", SAID)
    found = store.remembered("r", "a.sif")
    assert (found.number, found.image) == (number, image())
    assert (found.confirmed.number, found.confirmed.at, found.confirmed.asked_of) == (number, *SAID)
    found = store.remembered("r", "d")
    assert (found.number, found.image, found.confirmed.at) == (directory, None, SAID[0])
    assert store.remembered("r", "b.sif") is None


@pytest.mark.parametrize(
    "change_of_mind",
    [
        lambda store: store.doubt("r", "a.sif"),
        lambda store: store.remember_image(image()),
        lambda store: store.remember_image(image("2")),
    ],
    ids=["a doubt", "served while the origin is down", "another version of which nothing was said"],
)
def test_what_is_not_confirmed_any_more_is_still_known(store, change_of_mind):
    store.remember_image(image(), SAID)
    change_of_mind(store)
    found = store.remembered("r", "a.sif")
    assert found.image is not None
    assert found.confirmed is None


def test_what_is_forgotten_is_not_confirmed(store):
    store.remember_image(image(), SAID)
    store.remember_directory("r", "d", SAID)
    for path in ("a.sif", "d"):
        store.forget_name("r", path)
        assert store.remembered("r", path) is None


def test_a_name_changes_between_image_and_directory(store):
    store.remember_image(image(path="x"), SAID)
    store.remember_directory("r", "x", SAID)
    assert store.remembered("r", "x").image is None
    store.remember_image(image(path="x"), SAID)
    assert store.remembered("r", "x").image == image(path="x")


def test_a_directory_of_an_earlier_release_is_taken_up(tmp_path):
    change(tmp_path, OLD_SCHEMA)
    store = StateStore(tmp_path)
    found = store.remembered("r", "a.sif")
    assert (found.number, found.confirmed) == (7, None)
    number = store.remember_image(image(), SAID)
    assert store.remembered("r", "a.sif").confirmed.number == number
    store.close()


def test_an_earlier_release_works_on_and_what_it_wrote_is_not_taken_for_confirmed(store, tmp_path):
    """`lazysif upgrade` may lead back to it. It writes names by position, and knows no confirmations."""
    store.remember_image(image(), SAID)
    number = store.remember_image(image("2", "b.sif"), SAID)
    change(tmp_path, f"INSERT OR REPLACE INTO names VALUES ('r', 'a.sif', {number})")
    assert store.remembered("r", "a.sif") is None, "a row that belongs to another name is believed by nobody"
    other = store.remember_image(image("3"), SAID)
    store.remember_image(image(), SAID)
    change(tmp_path, f"INSERT OR REPLACE INTO names VALUES ('r', 'a.sif', {other})")
    found = store.remembered("r", "a.sif")
    assert (found.number, found.confirmed) == (other, None)


@pytest.mark.parametrize("value", ["'noon'", "x'00'", "'nan'"])
@pytest.mark.parametrize("column", ["wall_s", "boot_s"])
def test_a_time_that_is_none_is_no_confirmation(store, tmp_path, column, value):
    store.remember_image(image(), SAID)
    change(tmp_path, f"UPDATE confirmed SET {column} = {value}")
    found = store.remembered("r", "a.sif")
    assert found.image is not None
    assert found.confirmed is None


def test_a_disk_that_refuses_a_doubt_is_told_and_nothing_more(store, caplog):
    store._db.execute("PRAGMA query_only = ON")
    store.doubt("r", "a.sif")
    assert "will not doubt" in caplog.text


def test_the_clocks_go_on():
    one, other = present(), present()
    assert one.boot == other.boot != ""
    assert one.boot_s <= other.boot_s
    assert one.wall_s > 1.7e9
