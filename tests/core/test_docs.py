"""The documents say what is there: every configuration key, every file that they link to."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from lazysif.config import kinds, tables
from lazysif.config.remote import RemoteConfig

ROOT = Path(__file__).parents[2]
TABLES = {
    "[cache]": tables.CacheConfig,
    "[state]": tables.StateConfig,
    "[log]": tables.LogConfig,
    "[mount]": tables.MountConfig,
    "[limits]": tables.LimitsConfig,
    "[traces]": tables.TracesConfig,
    "[fill]": tables.FillConfig,
    "[remote.NAME]": RemoteConfig,
}
COMMON = {field.name for field in msgspec.structs.fields(RemoteConfig)}
DOCUMENTS = ["README.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("head", TABLES)
def test_configuration_lists_the_keys_of_each_table_and_no_others(head: str) -> None:
    keys = {field.name for field in msgspec.structs.fields(TABLES[head])} - {"name"}
    assert _listed_keys(head) == keys


@pytest.mark.parametrize("kind", kinds.KINDS)
def test_configuration_lists_the_keys_of_each_kind_of_remote(kind: str) -> None:
    own = {field.name for field in msgspec.structs.fields(kinds.KINDS[kind])} - COMMON
    assert _listed_keys(f'kind = "{kind}"') - COMMON == own


def _listed_keys(head: str) -> set[str]:
    text = (ROOT / "docs/configuration.md").read_text()
    section = text.split(f"## {head}\n")[1].split("\n## ")[0]
    first_cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return {key for cell in first_cells for key in re.findall(r"`(\w+)`", cell)}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_to_files_that_are_there(document: str) -> None:
    path = ROOT / document
    links = re.findall(r"\]\(([^)#:]+)\)", path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []
